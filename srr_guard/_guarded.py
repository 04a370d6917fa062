"""The callables that `@srr_guard` makes, one kind for each kind of function."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, overload

from srr_guard.conversation import Conversation, candidate_text
from srr_guard.decision import Decision, Totals
from srr_guard.errors import ConfigurationError, InvalidInputError
from srr_guard.selection import Selector, blocking_calls, refuse_like

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")

# The environment variables that switch LangSmith tracing on.
_TRACING = (
    "LANGSMITH_TRACING",
    "LANGSMITH_TRACING_V2",
    "LANGCHAIN_TRACING",
    "LANGCHAIN_TRACING_V2",
)


class _Guarded(Generic[P, R]):
    """What all guarded functions share: where the prompt is, who decides."""

    _prefix: tuple[Any, ...] = ()

    def __init__(
        self, fn: Callable[..., Any], selector: Selector, prompt: str | Callable[..., Any] | None
    ) -> None:
        functools.update_wrapper(cast("Any", self), fn)
        self._fn = fn
        self._selector = selector
        self._signature = inspect.signature(fn)
        self._prompt = _check_prompt(prompt, fn, list(self._signature.parameters))

    @property
    def bypasses(self) -> int:
        """How many answers were passed on unscored or below the threshold so far."""
        return self.totals.bypasses

    @property
    def totals(self) -> Totals:
        """Requests, candidates and bypasses so far."""
        return self._selector.totals

    def _bound_to(self, instance: object) -> Any:
        bound = copy.copy(self)
        bound._prefix = (instance,)
        bound.__signature__ = _without_first(self._signature)  # type: ignore[attr-defined]
        return bound

    def _conversation(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Conversation:
        if callable(self._prompt):
            return Conversation.of(self._prompt(*self._prefix, *args, **kwargs))
        arguments = self._signature.bind(*self._prefix, *args, **kwargs)
        arguments.apply_defaults()
        value = arguments.arguments[self._prompt]
        if value is None:
            raise InvalidInputError(
                f"{_name(self._fn)}({self._prompt}=None): the prompt must be a str, "
                "messages or a PromptValue"
            )
        return Conversation.of(value)


class _SyncGuarded(_Guarded[P, R]):
    def decide(self, *args: P.args, **kwargs: P.kwargs) -> Decision:
        """Sample, score and decide.

        Raises:
            InvalidInputError: The prompt is empty or cannot be read.
            SamplingError: Too few candidates came back, or none may be passed on.
            ScorerError: The candidates could not be scored and the policy says to raise.
        """

        def call(_: int) -> Any:
            return self._candidate(args, kwargs)

        return self._selector.decide(self._conversation(args, kwargs), call)

    async def adecide(self, *args: P.args, **kwargs: P.kwargs) -> Decision:
        """Like `decide`, without blocking the event loop: the function runs on threads."""

        def call(_: int) -> Awaitable[Any]:
            return blocking_calls.run(self._candidate, args, kwargs)

        return await self._selector.adecide(self._conversation(args, kwargs), call)

    def _candidate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _isolate()
        return self._fn(*self._prefix, *args, **kwargs)


class _AsyncGuarded(_Guarded[P, R]):
    async def decide(self, *args: P.args, **kwargs: P.kwargs) -> Decision:
        """Sample, score and decide, without blocking the event loop.

        Raises:
            InvalidInputError: The prompt is empty or cannot be read.
            SamplingError: Too few candidates came back, or none may be passed on.
            ScorerError: The candidates could not be scored and the policy says to raise.
        """

        async def call(_: int) -> Any:
            return await self._candidate(args, kwargs)

        return await self._selector.adecide(self._conversation(args, kwargs), call)

    adecide = decide

    async def _candidate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _isolate()
        return await self._fn(*self._prefix, *args, **kwargs)


class GuardedFunction(_SyncGuarded[P, R]):
    """A sync function whose best safe answer of several is passed on.

    Called like the function itself, it returns the same kind of value; `decide` takes the
    same arguments and returns the Decision, and so does `adecide`, for async callers.
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Answer with the best safe candidate."""
        return cast("R", self.decide(*args, **kwargs).output)

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: GuardedFunction[Concatenate[Any, Q], R], instance: object, owner: type | None, /
    ) -> GuardedFunction[Q, R]: ...
    def __get__(self, instance: object, owner: type | None = None, /) -> Any:
        """As a method: bound to its instance."""
        return self if instance is None else self._bound_to(instance)


class AsyncGuardedFunction(_AsyncGuarded[P, R]):
    """An async function whose best safe answer of several is passed on.

    `await fn(...)` returns the same kind of value as before; `await fn.decide(...)` returns
    the Decision.
    """

    def __init__(
        self, fn: Callable[..., Any], selector: Selector, prompt: str | Callable[..., Any] | None
    ) -> None:
        super().__init__(fn, selector, prompt)
        _mark_as_coroutine_function(self)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Answer with the best safe candidate."""
        return cast("R", (await self.decide(*args, **kwargs)).output)

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: AsyncGuardedFunction[Concatenate[Any, Q], R], instance: object, owner: type | None, /
    ) -> AsyncGuardedFunction[Q, R]: ...
    def __get__(self, instance: object, owner: type | None = None, /) -> Any:
        """As a method: bound to its instance."""
        return self if instance is None else self._bound_to(instance)


class GuardedGenerator(_SyncGuarded[P, R]):
    """A generator function: each candidate is collected, the best safe one is emitted.

    The pieces come as the function yielded them, all at once after the decision; a refusal is
    one piece. `decide` returns the Decision, its outputs being lists of pieces.
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        """Select, then emit."""
        yield from self.decide(*args, **kwargs).output

    def _candidate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return list(super()._candidate(args, kwargs))

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: GuardedGenerator[Concatenate[Any, Q], R], instance: object, owner: type | None, /
    ) -> GuardedGenerator[Q, R]: ...
    def __get__(self, instance: object, owner: type | None = None, /) -> Any:
        """As a method: bound to its instance."""
        return self if instance is None else self._bound_to(instance)


class AsyncGuardedGenerator(_AsyncGuarded[P, R]):
    """An async generator function; otherwise like `GuardedGenerator`."""

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[R]:
        """Select, then emit."""
        for piece in (await self.decide(*args, **kwargs)).output:
            yield piece

    async def _candidate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _isolate()
        return [piece async for piece in self._fn(*self._prefix, *args, **kwargs)]

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: AsyncGuardedGenerator[Concatenate[Any, Q], R], instance: object, owner: type | None, /
    ) -> AsyncGuardedGenerator[Q, R]: ...
    def __get__(self, instance: object, owner: type | None = None, /) -> Any:
        """As a method: bound to its instance."""
        return self if instance is None else self._bound_to(instance)


def text_of_pieces(pieces: Sequence[Any]) -> str:
    """The text of a candidate that came in pieces: str, messages or message chunks."""
    return "".join(candidate_text(piece) for piece in pieces)


def refuse_in_one_piece(text: str, pieces: Sequence[Any]) -> list[Any] | None:
    """The refusal as the only piece, in the form of the others."""
    from langchain_core.messages import AIMessageChunk

    if isinstance(pieces[0], AIMessageChunk):
        return [AIMessageChunk(content=text, chunk_position="last")]
    refusal = refuse_like(text, pieces[0])
    return None if refusal is None else [refusal]


def _check_prompt(
    prompt: str | Callable[..., Any] | None, fn: Callable[..., Any], names: list[str]
) -> str | Callable[..., Any]:
    if callable(prompt):
        return prompt
    name = _name(fn)
    if prompt is None:
        usable = [n for n in names if n not in ("self", "cls")]
        if not usable:
            raise ConfigurationError(
                f"{name!r} has no parameter that could hold the prompt: give `prompt=`, a "
                "function that returns it"
            )
        return usable[0]
    if prompt not in names:
        raise ConfigurationError(
            f"prompt={prompt!r} is not a parameter of {name!r}: it has {names!r}"
        )
    return prompt


def _name(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__qualname__", repr(fn))


def _isolate() -> None:
    """Keep a candidate out of the callbacks and traces of the LangChain run it is called in.

    It sets context variables of the candidate's own copied context, so nothing is to be
    undone. Where LangChain's runnables were never imported there is no such run, and nothing
    is imported for it unless the environment asks for traces of whatever the function calls.
    """
    traced = any(os.environ.get(name) == "true" for name in _TRACING)
    if traced or "langchain_core.runnables.config" in sys.modules:
        from langchain_core.runnables import ensure_config

        from srr_guard._tracing import enter, isolated

        enter(isolated(ensure_config()))


def _without_first(signature: inspect.Signature) -> inspect.Signature:
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _mark_as_coroutine_function(obj: Any) -> None:
    """Let frameworks that ask see an async function."""
    mark = getattr(inspect, "markcoroutinefunction", None)
    if mark is not None:
        mark(obj)
    else:  # Python 3.11
        obj._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
