"""The parts of a guarded OpenAI client: what is guarded, what passes through, what is closed."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from operator import attrgetter
from typing import Any, ClassVar

from srr_guard import Conversation, Guard
from srr_guard.core.calls import FunctionSource
from srr_guard.errors import ConfigurationError, UnguardedError
from srr_guard.formats import openai, response_events, responses
from srr_guard.formats.schemas import schema_check
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
    """

    path: ClassVar[str] = ""
    closed: ClassVar[frozenset[str]] = frozenset({"with_raw_response", "with_streaming_response"})
    guarded: ClassVar[frozenset[str]] = frozenset()

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
            raise closed_error(self.path + name)
        if name == "_wrapped":  # not set yet, as in a copy in the making
            raise AttributeError(name)
        return getattr(self._wrapped, name)

    def __repr__(self) -> str:
        return f"guarded {self._wrapped!r}"


def closed_error(path: str) -> UnguardedError:
    """The error for a part of a client that is not guarded."""
    return UnguardedError(
        f"`{path}` of a guarded client would pass answers on unscored: use `responses` or "
        "`chat.completions` with `create`, `parse` or `stream`, or ask for it by name with "
        f'`client.unguarded("{path}")`, which is logged and counted'
    )


class GuardedClient(Proxy):
    """A client whose chat completions and responses are guarded."""

    guarded = frozenset({"chat", "responses", "audio", "completions"})
    closed = Proxy.closed | {
        *("beta", "realtime", "live", "batches", "images", "videos"),
        *("get", "post", "request"),  # by which any answer can be had
    }

    @cached_property
    def chat(self) -> Any:
        """Chat completions, guarded."""
        return _Chat(self._wrapped.chat, self._guard)

    @cached_property
    def responses(self) -> Any:
        """Responses, guarded."""
        return _Responses(self._wrapped.responses, self._guard)

    @cached_property
    def audio(self) -> Any:
        """Audio, without speech."""
        return _Audio(self._wrapped.audio, self._guard)

    @cached_property
    def completions(self) -> Any:
        """The legacy completions, closed."""
        return _LegacyCompletions(self._wrapped.completions, self._guard)

    def with_options(self, **options: Any) -> GuardedClient:
        """Copy the client with other options; the copy shares the guard."""
        return GuardedClient(self._wrapped.with_options(**options), self._guard)

    def copy(self, **options: Any) -> GuardedClient:
        """Copy the client with other options; the copy shares the guard."""
        return GuardedClient(self._wrapped.copy(**options), self._guard)

    def __enter__(self) -> GuardedClient:
        self._wrapped.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._wrapped.__exit__(*error)

    async def __aenter__(self) -> GuardedClient:
        await self._wrapped.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._wrapped.__aexit__(*error)


class _Chat(Proxy):
    path = "chat."
    guarded = frozenset({"completions"})

    @cached_property
    def completions(self) -> Any:
        return _Completions(self._wrapped.completions, self._guard)


class _Audio(Proxy):
    path = "audio."
    closed = Proxy.closed | {"speech"}


class _LegacyCompletions(Proxy):
    """Closed when it is called, not when it is looked at: tracers put a wrapper around it."""

    path = "completions."
    guarded = frozenset({"create"})

    def create(self, *_: Any, **__: Any) -> Any:
        raise closed_error("completions.create")


@dataclass(frozen=True)
class _Request:
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


class _Answering(Proxy, ABC):
    """A part whose `create` and `parse` answer n times, and whose streams are those of one."""

    guarded = frozenset({"create", "parse", "stream"})

    def create(self, **kwargs: Any) -> Any:
        return self._answer(self._wrapped.create, kwargs)

    def parse(self, **kwargs: Any) -> Any:
        return self._answer(self._wrapped.parse, kwargs)

    def stream(self, **kwargs: Any) -> Any:
        """Run the client's own `stream` on guarded answers: it calls `create`, which is ours."""
        stream = self._wrapped.__class__.stream
        return stream(_CreateOnly(self.create, self.path), **kwargs)

    def _answer(self, method: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """Answer for a sync client; return an awaitable for an async one."""
        given = {name: value for name, value in kwargs.items() if not _is_omitted(value)}
        request = self._read(listed(given))  # iterators are used up by the first of the calls
        if inspect.iscoroutinefunction(inspect.unwrap(method)):
            return self._aanswer_to(request, method)
        return self._answer_to(request, method)

    def _answer_to(self, request: _Request, method: Callable[..., Any]) -> Any:
        source = FunctionSource(lambda _: method(**request.arguments), isolated=False)
        decision = self._guard.decide(request.asked, source, delivery=request.delivery)
        answer = decision.output
        return ChunkStream(request.split(answer)) if request.split else answer

    async def _aanswer_to(self, request: _Request, method: Callable[..., Any]) -> Any:
        async def call(_: int) -> Any:
            return await method(**request.arguments)

        source = FunctionSource(call, isolated=False)
        decision = await self._guard.adecide(request.asked, source, delivery=request.delivery)
        answer = decision.output
        return AsyncChunkStream(request.split(answer)) if request.split else answer

    @abstractmethod
    def _read(self, kwargs: dict[str, Any]) -> _Request:
        """Read the arguments of one call; raise ConfigurationError for what is not supported."""


class _Completions(_Answering):
    path = "chat.completions."
    closed = Proxy.closed | {"retrieve", "list", "update"}

    def _read(self, kwargs: dict[str, Any]) -> _Request:
        n = kwargs.get("n")
        if isinstance(n, int) and n != 1:
            raise ConfigurationError(
                f"n={n!r} asks a guarded client for several answers, and it returns the best one: "
                "leave n out, and set the candidates with `sampling=SamplingPolicy(n=...)`"
            )
        options = kwargs.get("stream_options")
        usage = isinstance(options, Mapping) and bool(options.get("include_usage"))
        return _Request(
            openai.as_conversation(kwargs.get("messages")),
            _without_stream(kwargs),
            openai.CompletionDelivery(schema_check(kwargs)),
            partial(openai.as_chunks, usage=usage) if kwargs.get("stream") else None,
        )


class _Responses(_Answering):
    path = "responses."
    closed = Proxy.closed | {"retrieve", "cancel", "compact", "connect"}

    def _read(self, kwargs: dict[str, Any]) -> _Request:
        return _Request(
            responses.as_conversation(kwargs),
            _without_stream(kwargs),
            responses.ResponseDelivery(schema_check(kwargs)),
            response_events.as_events if kwargs.get("stream") else None,
        )


class _CreateOnly:
    """What the client's own `stream` gets as the part it belongs to: nothing but `create`."""

    def __init__(self, create: Callable[..., Any], path: str) -> None:
        self.create = create
        self._path = path

    def __getattr__(self, name: str) -> Any:
        raise closed_error(self._path + name)


def _is_omitted(value: Any) -> bool:
    """True for `openai.omit` and `openai.NOT_GIVEN`, which stand for no argument."""
    return type(value).__name__ in ("Omit", "NotGiven")


def _without_stream(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in kwargs.items() if k not in ("stream", "stream_options")}
