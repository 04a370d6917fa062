"""`@srr_guard`: the guard for plain functions, sync and async."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, cast, overload

from srr_guard.conversation import Conversation
from srr_guard.decision import Decision
from srr_guard.errors import ConfigurationError, InvalidInputError
from srr_guard.policy import DecisionPolicy, SamplingPolicy
from srr_guard.scoring import ResponseScorer
from srr_guard.selection import Selector

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")


class _Guarded(Generic[P, R]):
    """What both kinds of guarded functions share: where the prompt is, who decides."""

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
        return self._selector.bypasses

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


class GuardedFunction(_Guarded[P, R]):
    """A sync function whose best safe answer of several is passed on.

    Called like the function itself, it returns the same kind of value; `decide` takes the
    same arguments and returns the Decision.
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Answer with the best safe candidate."""
        return cast("R", self.decide(*args, **kwargs).output)

    def decide(self, *args: P.args, **kwargs: P.kwargs) -> Decision:
        """Sample, score and decide.

        Raises:
            InvalidInputError: The prompt is empty or cannot be read.
            SamplingError: Too few candidates came back, or none may be passed on.
            ScorerError: The candidates could not be scored and the policy says to raise.
        """

        def call(_: int) -> Any:
            _isolate()
            return self._fn(*self._prefix, *args, **kwargs)

        return self._selector.decide(self._conversation(args, kwargs), call)

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: GuardedFunction[Concatenate[Any, Q], R], instance: object, owner: type | None, /
    ) -> GuardedFunction[Q, R]: ...
    def __get__(self, instance: object, owner: type | None = None, /) -> Any:
        """As a method: bound to its instance."""
        return self if instance is None else self._bound_to(instance)


class AsyncGuardedFunction(_Guarded[P, R]):
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

    async def decide(self, *args: P.args, **kwargs: P.kwargs) -> Decision:
        """Sample, score and decide, without blocking the event loop.

        Raises:
            InvalidInputError: The prompt is empty or cannot be read.
            SamplingError: Too few candidates came back, or none may be passed on.
            ScorerError: The candidates could not be scored and the policy says to raise.
        """

        async def call(_: int) -> Any:
            _isolate()
            return await self._fn(*self._prefix, *args, **kwargs)

        return await self._selector.adecide(self._conversation(args, kwargs), call)

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: AsyncGuardedFunction[Concatenate[Any, Q], R], instance: object, owner: type | None, /
    ) -> AsyncGuardedFunction[Q, R]: ...
    def __get__(self, instance: object, owner: type | None = None, /) -> Any:
        """As a method: bound to its instance."""
        return self if instance is None else self._bound_to(instance)


class _Decorator(Protocol):
    """What `@srr_guard(...)` returns: it keeps the types of the function it is put on."""

    # The overloads overlap because a coroutine is an R like any other; the first one wins.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncGuardedFunction[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> GuardedFunction[P, R]: ...


@overload
def srr_guard(  # type: ignore[overload-overlap]
    fn: Callable[P, Coroutine[Any, Any, R]], /
) -> AsyncGuardedFunction[P, R]: ...
@overload
def srr_guard(fn: Callable[P, R], /) -> GuardedFunction[P, R]: ...
@overload
def srr_guard(
    *,
    scorer: ResponseScorer | None = None,
    n: int | None = None,
    prompt: str | Callable[..., Any] | None = None,
    sampling: SamplingPolicy | None = None,
    decision: DecisionPolicy | None = None,
    on_decision: Callable[[Decision], object] | None = None,
) -> _Decorator: ...
def srr_guard(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    scorer: ResponseScorer | None = None,
    n: int | None = None,
    prompt: str | Callable[..., Any] | None = None,
    sampling: SamplingPolicy | None = None,
    decision: DecisionPolicy | None = None,
    on_decision: Callable[[Decision], object] | None = None,
) -> Any:
    """Call a function several times and pass the best safe answer on.

    With or without arguments, on sync and async functions and on methods. The function may
    return a str, a message, a pydantic object or a dict. It runs on a thread of its own per
    candidate (an async one as a task), with a copy of its caller's context variables, and
    must bear being called several times. Inside a LangChain run, what it calls is kept out of
    that run's callbacks, so no candidate's token is streamed.

    Args:
        fn: The function, when used without arguments.
        scorer: What ranks the candidates; None: the scorer shipped with srr_guard, loaded on
            first use.
        n: Candidates per call; short for `sampling=SamplingPolicy(n=...)`.
        prompt: Name of the parameter that holds the prompt, or a function that is called with
            the function's own arguments and returns it. None: the first parameter, `self` and
            `cls` not counted.
        sampling: How candidates are sampled.
        decision: What may be passed on.
        on_decision: Called with each Decision; see `SafetyRanker`.

    Raises:
        ConfigurationError: The function has no such parameter, is a generator, or an
            argument is of the wrong kind.

    Example:
        >>> from srr_guard.testing import FakeScorer
        >>> answers = iter(["bad", "good", "bad", "bad"])
        >>> @srr_guard(scorer=FakeScorer(lambda prompt, text: 0.9 if text == "good" else 0.1))
        ... def answer(question: str) -> str:
        ...     return next(answers)
        >>> answer("How do magnets work?")
        'good'
    """
    if n is not None and sampling is not None:
        raise ConfigurationError(
            f"n={n!r} and sampling={sampling!r} both say how many: give one of them"
        )
    selector = Selector(
        scorer=scorer,
        sampling=sampling or (SamplingPolicy() if n is None else SamplingPolicy(n=n)),
        decision=decision or DecisionPolicy(),
        on_decision=on_decision,
    )

    def decorate(fn: Callable[..., Any]) -> Any:
        if not callable(fn):
            raise ConfigurationError(f"@srr_guard on {fn!r}: put it on a function")
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise ConfigurationError(
                f"@srr_guard on the generator {_name(fn)!r}: return the whole answer instead"
            )
        kind = AsyncGuardedFunction if inspect.iscoroutinefunction(fn) else GuardedFunction
        return kind(fn, selector, prompt)

    return decorate if fn is None else decorate(fn)


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
    """Keep a candidate out of the callbacks of the LangChain run it is called in.

    It sets a context variable of the candidate's own copied context, so nothing is to be
    undone. Where LangChain's runnables were never imported there is no such run.
    """
    config = sys.modules.get("langchain_core.runnables.config")
    if config is not None and (current := config.var_child_runnable_config.get()):
        config.var_child_runnable_config.set({**current, "callbacks": []})


def _without_first(signature: inspect.Signature) -> inspect.Signature:
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _mark_as_coroutine_function(obj: Any) -> None:
    """Let frameworks that ask see an async function."""
    mark = getattr(inspect, "markcoroutinefunction", None)
    if mark is not None:
        mark(obj)
    else:  # Python 3.11
        obj._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
