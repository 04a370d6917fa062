"""`@srr_guard`: the guard for plain functions, sync and async, and for generators."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from srr_guard.core.calls import require_plain
from srr_guard.core.delivery import MessageDelivery, PiecesDelivery
from srr_guard.core.guard import Guard
from srr_guard.decision import Decision
from srr_guard.errors import ConfigurationError
from srr_guard.policy import DecisionPolicy, GatePolicy, SamplingPolicy
from srr_guard.protocols import PromptGate, ResponseScorer
from srr_guard.settings import require_function
from srr_guard.threads import is_async, is_async_generator, is_generator
from srr_guard.wrappers.guarded import (
    AsyncGuardedFunction,
    AsyncGuardedGenerator,
    GuardedFunction,
    GuardedGenerator,
)
from srr_guard.wrappers.settings import guard_of

P = ParamSpec("P")
R = TypeVar("R")


class _Decorator(Protocol):
    """Returned by `@srr_guard(...)`; keeps the types of the function it is put on."""

    # The overloads overlap because a coroutine is an R like any other; the first one wins.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncGuardedFunction[P, R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, fn: Callable[P, AsyncIterator[R]], /
    ) -> AsyncGuardedGenerator[P, R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, fn: Callable[P, Iterator[R]], /
    ) -> GuardedGenerator[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> GuardedFunction[P, R]: ...


@overload
def srr_guard(  # type: ignore[overload-overlap]
    fn: Callable[P, Coroutine[Any, Any, R]], /
) -> AsyncGuardedFunction[P, R]: ...
@overload
def srr_guard(  # type: ignore[overload-overlap]
    fn: Callable[P, AsyncIterator[R]], /
) -> AsyncGuardedGenerator[P, R]: ...
@overload
def srr_guard(  # type: ignore[overload-overlap]
    fn: Callable[P, Iterator[R]], /
) -> GuardedGenerator[P, R]: ...
@overload
def srr_guard(fn: Callable[P, R], /) -> GuardedFunction[P, R]: ...
@overload
def srr_guard(
    *,
    scorer: ResponseScorer | None = None,
    n: int | None = None,
    threshold: float | None = None,
    prompt: str | Callable[..., Any] | None = None,
    text: Callable[[Any], str] | None = None,
    sampling: SamplingPolicy | None = None,
    decision: DecisionPolicy | None = None,
    gating: GatePolicy | None = None,
    gate: PromptGate | None = None,
    on_decision: Callable[[Decision], object] | None = None,
    guard: Guard | None = None,
) -> _Decorator: ...
def srr_guard(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    scorer: ResponseScorer | None = None,
    n: int | None = None,
    threshold: float | None = None,
    prompt: str | Callable[..., Any] | None = None,
    text: Callable[[Any], str] | None = None,
    sampling: SamplingPolicy | None = None,
    decision: DecisionPolicy | None = None,
    gating: GatePolicy | None = None,
    gate: PromptGate | None = None,
    on_decision: Callable[[Decision], object] | None = None,
    guard: Guard | None = None,
) -> Any:
    """Call a function several times and pass the best safe answer on.

    With or without arguments, on sync and async functions, on generators of both kinds and on
    methods (below `@classmethod` and `@staticmethod`, or above them). The function may return
    a str, a message, a pydantic object, a dict, or anything that `text` can read. It is called
    several times: on a thread per candidate (an async one as a task), with a copy of its
    caller's context variables. A generator's pieces are collected, and the best candidate's
    emitted after the decision. Inside a LangChain run, what the function calls is kept out of
    that run's callbacks.

    Args:
        fn: The function, when used without arguments.
        scorer: Ranks the candidates; None: the shipped scorer, loaded on first use.
        n: Candidates per call; short for `sampling=SamplingPolicy(n=...)`.
        threshold: Short for `decision=DecisionPolicy(threshold=...)`.
        prompt: Name of the parameter that holds the prompt, or a function that is called with
            the function's own arguments and returns it. None: the first parameter, `self` and
            `cls` not counted, after all parameters that hold lists of messages.
        text: A function from what the function returns (from the list of its pieces, for a
            generator) to the text that is scored. None: see `srr_guard.reading.read`.
        sampling: How candidates are sampled.
        decision: What may be passed on.
        gating: What is decided from the prompt alone (see `Guard`).
        gate: Assesses prompts (see `Guard`).
        on_decision: Called with each Decision (see `Guard`).
        guard: A guard to share, in place of `scorer`, the policies, `gate` and `on_decision`.

    Raises:
        ConfigurationError: The function has no such parameter, or an argument is of the wrong
            kind.

    Example:
        >>> from srr_guard.testing import FakeScorer
        >>> answers = iter(["bad", "good", "bad", "bad"])
        >>> @srr_guard(scorer=FakeScorer(lambda prompt, text: 0.9 if text == "good" else 0.1))
        ... def answer(question: str) -> str:
        ...     return next(answers)
        >>> answer("How do magnets work?")
        'good'
    """
    require_function("text", text, "a function to a str")
    if callable(prompt):
        require_function("prompt", prompt, "a function from the arguments to the prompt")
    # now, so that bad settings are an error where they stand
    shared = guard_of(
        guard,
        scorer=scorer,
        sampling=sampling,
        decision=decision,
        gating=gating,
        gate=gate,
        on_decision=on_decision,
        n=n,
        threshold=threshold,
    )
    require_plain(shared.sampling, shared.gating)

    def decorate(fn: Any) -> Any:
        if isinstance(fn, (classmethod, staticmethod)):
            return type(fn)(decorate(fn.__func__))
        if not callable(fn):
            raise ConfigurationError(f"@srr_guard on {fn!r}: put it on a function")
        if is_generator(fn):
            return GuardedGenerator(fn, shared, prompt, PiecesDelivery(text))
        if is_async_generator(fn):
            return AsyncGuardedGenerator(fn, shared, prompt, PiecesDelivery(text))
        kind = AsyncGuardedFunction if is_async(fn) else GuardedFunction
        form = str if getattr(fn, "__annotations__", {}).get("return") in (str, "str") else None
        return kind(fn, shared, prompt, MessageDelivery(text, form=form))

    return decorate if fn is None else decorate(fn)
