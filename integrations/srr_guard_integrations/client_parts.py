"""Parts of guarded clients, of whichever provider: what passes through, and what answers."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

from srr_guard import Conversation, Guard
from srr_guard.core.calls import FunctionSource
from srr_guard.errors import ConfigurationError, UnguardedError
from srr_guard.formats.shapes import as_sent
from srr_guard.protocols import Delivery
from srr_guard.replay import listed
from srr_guard_integrations.bypass import hand_out
from srr_guard_integrations.openai_streams import AsyncChunkStream, ChunkStream


class Proxy:
    """Stands for a part of a client: passes on every attribute, except what bypasses the guard.

    It is of the part's type for `isinstance`. Setting an attribute sets it on the part itself,
    but for the guarded ones: what stands in their place (a tracer's wrapper, say) is called
    outside the guard, and calls it.

    Attributes:
        path: Where the part is in the client, with a dot at its end.
        closed: Names of what would return a model's text or media unscored.
        guarded: Names of what has a guarded form here.
        instead: What answers guarded, for the error of what is closed.
    """

    path: ClassVar[str] = ""
    closed: ClassVar[frozenset[str]] = frozenset({"with_raw_response", "with_streaming_response"})
    guarded: ClassVar[frozenset[str]] = frozenset()
    instead: ClassVar[str] = "`responses` or `chat.completions` with `create`, `parse` or `stream`"

    def __init__(self, wrapped: Any, guard: Guard) -> None:
        vars(self).update(_wrapped=wrapped, _guard=guard)

    def unguarded(self, name: str) -> Any:
        """Hand out an attribute of the client itself, unguarded: a bypass, logged and counted.

        Args:
            name: The attribute, such as `beta`; dots reach deeper, as in `responses.retrieve`.
        """
        found = attrgetter(name)(self._wrapped)
        return hand_out(found, self.path + name, guard=self._guard)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return type(self._wrapped)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.closed:
            raise ConfigurationError(
                f"{name!r} of a guarded client is closed: set it on the client"
            )
        if name in self.guarded:
            vars(self)[name] = value
        else:
            setattr(self._wrapped, name, value)

    def __getattr__(self, name: str) -> Any:
        if name in self.closed:
            raise closed_error(self.path + name, instead=self.instead)
        if name == "_wrapped":  # not set yet, as in a copy in the making
            raise AttributeError(name)
        return getattr(self._wrapped, name)

    def __repr__(self) -> str:
        return f"guarded {self._wrapped!r}"


def closed_error(path: str, *, instead: str = Proxy.instead) -> UnguardedError:
    """The error for a part of a client that is not guarded."""
    return UnguardedError(
        f"`{path}` of a guarded client would pass answers on unscored: use {instead}, or ask for "
        f'it by name with `client.unguarded("{path}")`, which is logged and counted'
    )


@dataclass(frozen=True)
class Request:
    """A request as the guard sees it.

    Attributes:
        asked: What the scorer is told was asked.
        arguments: Of each call.
        delivery: The form of the answers.
        split: Splits the answer for a stream; None: it is returned whole.
    """

    asked: Conversation
    arguments: dict[str, Any]
    delivery: Delivery[Any]
    split: Callable[[Any], list[Any]] | None


class Answering(Proxy):
    """A part that answers n times and passes on one; its streams are those of one answer."""

    def _answer(self, method: Callable[..., Any], request: Request) -> Any:
        """Answer for a sync client; return an awaitable for an async one."""
        if inspect.iscoroutinefunction(inspect.unwrap(method)):
            return self._aanswer_to(request, method)
        return self._answer_to(request, method)

    def _answer_to(self, request: Request, method: Callable[..., Any]) -> Any:
        source = FunctionSource(lambda _: method(**request.arguments), isolated=False)
        decision = self._guard.decide(request.asked, source, delivery=request.delivery)
        answer = decision.output
        return ChunkStream(request.split(answer)) if request.split else answer

    async def _aanswer_to(self, request: Request, method: Callable[..., Any]) -> Any:
        async def call(_: int) -> Any:
            return await method(**request.arguments)

        source = FunctionSource(call, isolated=False)
        decision = await self._guard.adecide(request.asked, source, delivery=request.delivery)
        answer = decision.output
        return AsyncChunkStream(request.split(answer)) if request.split else answer


class Creating(Answering, ABC):
    """A part with `create` and `parse`."""

    guarded = frozenset({"create", "parse", "stream"})

    def create(self, **kwargs: Any) -> Any:
        """Answer with the best safe one of n; a stream of it with `stream=True`."""
        return self._answer(self._wrapped.create, self._read(given_of(kwargs)))

    def parse(self, **kwargs: Any) -> Any:
        """Like `create`, with an answer that the client has parsed."""
        return self._answer(self._wrapped.parse, self._read(given_of(kwargs)))

    @abstractmethod
    def _read(self, kwargs: dict[str, Any]) -> Request:
        """Read the arguments of one call; raise ConfigurationError for what is not supported."""


def given_of(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments that are given; iterators as lists, for the first call would use them up."""
    return {name: listed(value) for name, value in kwargs.items() if not _is_omitted(value)}


def _is_omitted(value: Any) -> bool:
    """True for the marks of `openai` and `anthropic` that stand for no argument."""
    return type(value).__name__ in ("Omit", "NotGiven")


def require_one_answer(kwargs: dict[str, Any]) -> None:
    """Refuse a chat completion of several answers, or one whose `extra_body` hides turns.

    Raises:
        ConfigurationError: It is such a call.
    """
    n = as_sent(kwargs, direct=("messages", "stream", "stream_options")).get("n")
    if n not in (None, 1):
        raise ConfigurationError(
            f"n={n!r} asks for several answers, and a guarded call returns the best one: leave n "
            "out, and set the candidates with `sampling=SamplingPolicy(n=...)`"
        )


def without_stream(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call that is not streamed."""
    return {k: v for k, v in kwargs.items() if k not in ("stream", "stream_options")}
