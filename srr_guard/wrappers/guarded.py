"""The callables that `@srr_guard` makes, one kind for each kind of function."""

from __future__ import annotations

import functools
import inspect
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import import_module
from types import FunctionType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, overload

from srr_guard.conversation import Conversation, are_messages, with_own_messages
from srr_guard.core.guard import Guard
from srr_guard.decision import Decision, Totals
from srr_guard.errors import ConfigurationError, InvalidInputError
from srr_guard.protocols import Delivery
from srr_guard.replay import fresh, listed, replayable
from srr_guard.runnables.isolation import shielded_arguments
from srr_guard.wrappers._private import look_like_function, mark_async, mark_generator

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
O = TypeVar("O")  # noqa: E741 (what one candidate is: R, or a list of it)


class _Guarded(Generic[P, O]):
    """The part that all guarded functions share: where the prompt is, and the guard."""

    _prefix: tuple[Any, ...] = ()

    def __init__(
        self,
        fn: Callable[..., Any],
        guard: Guard,
        prompt: str | Callable[..., Any] | None,
        delivery: Delivery[Any],
    ) -> None:
        functools.update_wrapper(cast("Any", self), fn)
        self._fn = fn
        if isinstance(fn, FunctionType):
            look_like_function(self, fn)
        self._guard = guard
        self._delivery = delivery
        try:
            self._signature = inspect.signature(fn)
        except ValueError as error:
            raise ConfigurationError(
                f"{fn!r} does not say what parameters it has: put the guard on a function of "
                "yours that calls it"
            ) from error
        self._reads_history = prompt is None
        self._prompt = _check_prompt(prompt, fn, list(self._signature.parameters))

    @property
    def guard(self) -> Guard:
        """The guard behind it; give it to other wrappers as `guard=` to share it."""
        return self._guard

    @property
    def bypasses(self) -> int:
        """Answers passed on unscored or below the threshold so far."""
        return self.totals.bypasses

    @property
    def totals(self) -> Totals:
        """Requests, candidates and bypasses so far."""
        return self._guard.totals

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A function's, for code that asks: pydantic takes anything else for a field."""
        return FunctionType if isinstance(vars(self).get("_fn"), FunctionType) else type(self)

    def __eq__(self, other: object) -> bool:
        if self is other or type(other) is not type(self) or not self._prefix:
            return self is other
        return self._fn is other._fn and self._prefix[0] is next(iter(other._prefix), None)

    def __hash__(self) -> int:
        return hash((id(self._fn), *map(id, self._prefix)))

    def _bound_to(self, instance: object) -> Any:
        bound = type(self).__new__(type(self))
        vars(bound).update(vars(self))
        bound._prefix = (instance,)
        bound.__signature__ = _without_first(self._signature)  # type: ignore[attr-defined]
        names = list(self._signature.parameters)
        if self._reads_history and self._prompt == names[0]:  # whatever `self` is called there
            bound._prompt = _check_prompt(None, self._fn, names[1:])
        return bound

    def _conversation(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Conversation:
        if callable(self._prompt):
            given, named = _fresh(args, kwargs)
            return Conversation.of(listed(self._prompt(*self._prefix, *given, **named)))
        bound = self._signature.bind(*self._prefix, *args, **kwargs)
        bound.apply_defaults()
        value = listed(bound.arguments[self._prompt])
        if value is None:
            raise InvalidInputError(
                f"{_name(self._fn)}({self._prompt}=None): the prompt must be a str, "
                "messages or a PromptValue"
            )
        histories = self._histories(bound, self._prompt) if self._reads_history else []
        turns = [turn for history in histories for turn in Conversation.of(history).turns]
        asked = Conversation.of(value)
        return Conversation(turns=(*turns, *asked.turns)) if turns else asked

    def _histories(self, bound: inspect.BoundArguments, asked_by: str) -> list[Any]:
        """The other arguments that are lists of messages, those of `*args` and `**kwargs` too."""
        others: list[Any] = []
        for name, value in bound.arguments.items():
            match bound.signature.parameters[name].kind:
                case inspect.Parameter.VAR_KEYWORD:
                    others += value.values()
                case inspect.Parameter.VAR_POSITIONAL:
                    others += value
                case _:
                    others.append(value)
        prompt = bound.arguments[asked_by]
        return [h for other in others if other is not prompt and are_messages(h := listed(other))]

    # Like a function: copies are the function itself, pickles are its name.

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> Any:
        name: str = getattr(self, "__qualname__", "")
        if self._prefix:
            return getattr, (self._prefix[0], name.rpartition(".")[2])
        try:
            found = _named(self.__module__, name)
        except (ImportError, AttributeError):
            found = None
        if found is not self:
            raise pickle.PicklingError(
                f"{name!r} cannot be pickled: it is not found by its name in {self.__module__!r}"
            )
        return _named, (self.__module__, name)


class _SyncGuarded(_Guarded[P, O]):
    def decide(self, *args: P.args, **kwargs: P.kwargs) -> Decision[O]:
        """Sample, score and decide.

        Raises:
            InvalidInputError: The prompt is empty or cannot be read.
            SamplingError: Too few candidates came back, or none may be passed on.
            ScorerError: The candidates could not be scored and the policy says to raise.
        """
        given, named = _replayable(args, kwargs)
        asked = self._conversation(given, named)
        return self._guard.decide(asked, self._call(given, named), delivery=self._delivery)

    async def adecide(self, *args: P.args, **kwargs: P.kwargs) -> Decision[O]:
        """Like `decide`, without blocking the event loop: the function runs on threads."""
        given, named = _replayable(args, kwargs)
        asked = self._conversation(given, named)
        # a sync function of the index, which the guard runs on a thread
        call = cast("Any", self._call(given, named))
        return await self._guard.adecide(asked, call, delivery=self._delivery)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[int], O]:
        args, kwargs = shielded_arguments(args, kwargs)
        return lambda _: self._candidate(args, kwargs)

    def _candidate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = _fresh(args, kwargs)
        return self._fn(*self._prefix, *args, **kwargs)


class _AsyncGuarded(_Guarded[P, O]):
    async def decide(self, *args: P.args, **kwargs: P.kwargs) -> Decision[O]:
        """Sample, score and decide, without blocking the event loop.

        Raises:
            InvalidInputError: The prompt is empty or cannot be read.
            SamplingError: Too few candidates came back, or none may be passed on.
            ScorerError: The candidates could not be scored and the policy says to raise.
        """
        given, named = _replayable(args, kwargs)
        asked = self._conversation(given, named)
        given, named = shielded_arguments(given, named)

        async def call(_: int) -> Any:
            return await self._candidate(given, named)

        return await self._guard.adecide(asked, call, delivery=self._delivery)

    adecide = decide

    async def _candidate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = _fresh(args, kwargs)
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
        """Bind a method to its instance."""
        return self if instance is None else self._bound_to(instance)


class AsyncGuardedFunction(_AsyncGuarded[P, R]):
    """An async function whose best safe answer of several is passed on.

    `await fn(...)` returns the same kind of value as before; `await fn.decide(...)` returns
    the Decision.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        guard: Guard,
        prompt: str | Callable[..., Any] | None,
        delivery: Delivery[Any],
    ) -> None:
        super().__init__(fn, guard, prompt, delivery)
        mark_async(self)

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
        """Bind a method to its instance."""
        return self if instance is None else self._bound_to(instance)


class GuardedGenerator(_SyncGuarded[P, list[R]], Generic[P, R]):
    """A generator function whose best safe answer of several is emitted.

    The pieces come as the function yielded them, all at once after the decision. A refusal is
    one piece. The outputs in the Decision are lists of pieces.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        guard: Guard,
        prompt: str | Callable[..., Any] | None,
        delivery: Delivery[Any],
    ) -> None:
        super().__init__(fn, guard, prompt, delivery)
        if not isinstance(fn, FunctionType):
            mark_generator(self, GuardedGenerator.__call__)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        """Select, then emit."""
        yield from self.decide(*args, **kwargs).output or ()

    def _candidate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return list(super()._candidate(args, kwargs))

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: GuardedGenerator[Concatenate[Any, Q], R], instance: object, owner: type | None, /
    ) -> GuardedGenerator[Q, R]: ...
    def __get__(self, instance: object, owner: type | None = None, /) -> Any:
        """Bind a method to its instance."""
        return self if instance is None else self._bound_to(instance)


class AsyncGuardedGenerator(_AsyncGuarded[P, list[R]], Generic[P, R]):
    """An async generator function; otherwise like `GuardedGenerator`."""

    def __init__(
        self,
        fn: Callable[..., Any],
        guard: Guard,
        prompt: str | Callable[..., Any] | None,
        delivery: Delivery[Any],
    ) -> None:
        super().__init__(fn, guard, prompt, delivery)
        if not isinstance(fn, FunctionType):
            mark_generator(self, AsyncGuardedGenerator.__call__)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[R]:
        """Select, then emit."""
        for piece in (await self.decide(*args, **kwargs)).output or ():
            yield piece

    async def _candidate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = _fresh(args, kwargs)
        return [piece async for piece in self._fn(*self._prefix, *args, **kwargs)]

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: AsyncGuardedGenerator[Concatenate[Any, Q], R], instance: object, owner: type | None, /
    ) -> AsyncGuardedGenerator[Q, R]: ...
    def __get__(self, instance: object, owner: type | None = None, /) -> Any:
        """Bind a method to its instance."""
        return self if instance is None else self._bound_to(instance)


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


_Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def _replayable(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Arguments:
    """Arguments that each candidate can read from the beginning (see `_fresh`)."""
    return tuple(map(replayable, args)), {name: replayable(v) for name, v in kwargs.items()}


def _fresh(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Arguments:
    """The arguments of one candidate."""
    named = {name: with_own_messages(fresh(value)) for name, value in kwargs.items()}
    return tuple(with_own_messages(fresh(value)) for value in args), named


def _named(module: str, qualname: str) -> Any:
    """Look a function up by its name, as pickle does."""
    return functools.reduce(getattr, qualname.split("."), import_module(module))


def _without_first(signature: inspect.Signature) -> inspect.Signature:
    return signature.replace(parameters=list(signature.parameters.values())[1:])
