"""`@srr_guard`: the guard for plain functions, sync and async, and for generators."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from srr_guard._guarded import (
    AsyncGuardedFunction,
    AsyncGuardedGenerator,
    GuardedFunction,
    GuardedGenerator,
    refuse_in_one_piece,
    text_of_pieces,
)
from srr_guard.conversation import candidate_text
from srr_guard.decision import Decision
from srr_guard.errors import ConfigurationError
from srr_guard.policy import DecisionPolicy, SamplingPolicy
from srr_guard.scoring import ResponseScorer
from srr_guard.selection import Selector, refuse_like

P = ParamSpec("P")
R = TypeVar("R")


class _Decorator(Protocol):
    """What `@srr_guard(...)` returns: it keeps the types of the function it is put on."""

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
    prompt: str | Callable[..., Any] | None = None,
    text: Callable[[Any], str] | None = None,
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
    text: Callable[[Any], str] | None = None,
    sampling: SamplingPolicy | None = None,
    decision: DecisionPolicy | None = None,
    on_decision: Callable[[Decision], object] | None = None,
) -> Any:
    """Call a function several times and pass the best safe answer on.

    With or without arguments, on sync and async functions, on generators of both kinds and on
    methods (below `@classmethod` and `@staticmethod`, or above them). The function may return
    a str, a message, a pydantic object, a dict, or anything that `text` can read. It runs on
    a thread of its own per candidate (an async one as a task), with a copy of its caller's
    context variables, and must bear being called several times. A generator's pieces are
    collected, and the best candidate's emitted after the decision. Inside a LangChain run,
    what it calls is kept out of that run's callbacks, so no candidate's token is streamed.

    Args:
        fn: The function, when used without arguments.
        scorer: What ranks the candidates; None: the scorer shipped with srr_guard, loaded on
            first use.
        n: Candidates per call; short for `sampling=SamplingPolicy(n=...)`.
        prompt: Name of the parameter that holds the prompt, or a function that is called with
            the function's own arguments and returns it. None: the first parameter, `self` and
            `cls` not counted.
        text: A function from what the function returns (from the list of its pieces, for a
            generator) to the text that is scored. None: see `candidate_text`.
        sampling: How candidates are sampled.
        decision: What may be passed on.
        on_decision: Called with each Decision; see `SafetyRanker`.

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
    if n is not None and sampling is not None:
        raise ConfigurationError(
            f"n={n!r} and sampling={sampling!r} both say how many: give one of them"
        )
    if text is not None and not callable(text):
        raise ConfigurationError(f"text={text!r} cannot be used: give a function to a str")

    def selector(in_pieces: bool) -> Selector:
        return Selector(
            scorer=scorer,
            sampling=sampling or (SamplingPolicy() if n is None else SamplingPolicy(n=n)),
            decision=decision or DecisionPolicy(),
            on_decision=on_decision,
            text=text or (text_of_pieces if in_pieces else candidate_text),
            refuse=refuse_in_one_piece if in_pieces else refuse_like,
        )

    whole = selector(in_pieces=False)  # now: bad settings are an error where they stand

    def decorate(fn: Any) -> Any:
        if isinstance(fn, (classmethod, staticmethod)):
            return type(fn)(decorate(fn.__func__))
        if not callable(fn):
            raise ConfigurationError(f"@srr_guard on {fn!r}: put it on a function")
        if inspect.isgeneratorfunction(fn):
            return GuardedGenerator(fn, selector(in_pieces=True), prompt)
        if inspect.isasyncgenfunction(fn):
            return AsyncGuardedGenerator(fn, selector(in_pieces=True), prompt)
        kind = AsyncGuardedFunction if inspect.iscoroutinefunction(fn) else GuardedFunction
        return kind(fn, whole, prompt)

    return decorate if fn is None else decorate(fn)
