"""Turns the result of a candidate call into a candidate, a failure, or another attempt.

No threads and no tasks: sync and async calls share it.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar, cast

from tenacity import RetryCallState, retry_if_exception

from srr_guard.characters import is_blank
from srr_guard.core.delivery import refused
from srr_guard.decision import Candidate
from srr_guard.errors import (
    InvalidInputError,
    MissingExtraError,
    NotRepeatableError,
    SamplingError,
)
from srr_guard.filters import is_refusal
from srr_guard.policy import SamplingPolicy
from srr_guard.protocols import CandidateSource, CutOff, Declined, Delivery, PlannedSource
from srr_guard.reading import read

Outcome = Candidate | Exception

Read = Callable[[int, Any], Outcome]
"""From a candidate's index and output to the candidate, or to why it cannot be used."""

_Call = TypeVar("_Call", Future[list[Outcome]], asyncio.Task[list[Outcome]])


def read_candidate(index: int, output: Any, *, delivery: Delivery[Any], refusal: str) -> Outcome:
    """Read one output; an error if it is blank or unusable.

    Args:
        index: Which candidate it is.
        output: What the model returned.
        delivery: The form of the output.
        refusal: Stands in for an answer that the provider took away.
    """
    if isinstance(output, CutOff):
        return _cut_off(index, output.output, delivery)
    if isinstance(output, Declined):
        return _declined(index, output.output, delivery, refusal)
    if isinstance(output, Mapping) and output.get("__interrupt__"):
        raise _not_repeatable("interrupts its graph to ask a human")
    blank = SamplingError(f"candidate {index} is blank: the model returned no text")
    if output is None:
        return blank
    try:
        reading = delivery.read(output)
    except (InvalidInputError, SamplingError) as error:
        return error
    if not isinstance(reading.text, str):
        return InvalidInputError(f"the text of an answer must be a str, got {reading.text!r:.60}")
    says_nothing = is_blank(reading.text) and not reading.unreadable
    if says_nothing and delivery.declined(output):
        return _declined(index, output, delivery, refusal)
    if says_nothing:
        return _without_answer(index) if reading.trace else blank
    return Candidate(
        index=index,
        text=reading.text,
        trace=reading.trace,
        unreadable=reading.unreadable,
        output=output,
    )


def _cut_off(index: int, output: Any, delivery: Delivery[Any]) -> Outcome:
    """What was cut off, as far as it came: no schema is asked of it."""
    try:
        reading = delivery.read(output)
    except (InvalidInputError, SamplingError):
        reading = read(output)
    return Candidate(
        index=index,
        text=reading.text,
        trace=reading.trace,
        unreadable=reading.unreadable,
        cut=True,
        output=output,
    )


def _declined(index: int, output: Any, delivery: Delivery[Any], refusal: str) -> Outcome:
    """A refusal in the form of this output, or the error where it has none."""
    if output is None or delivery.refusal(refusal, output) is None:
        return refused()
    return Candidate(index=index, text=refusal, declined=True, output=output)


def _without_answer(index: int) -> SamplingError:
    return SamplingError(
        f"candidate {index} is blank: it holds reasoning and no answer; if it was cut by length, "
        "raise the model's limit of tokens"
    )


def must_propagate(error: BaseException) -> bool:
    """Tell control flow from a failed candidate.

    True for KeyboardInterrupt, CancelledError and the like, for the exceptions by which
    LangGraph interrupts or leaves a graph, for NotRepeatableError, and for MissingExtraError,
    which no other attempt or policy mends; also for a task group's error around one of them.
    """
    error = _ungrouped(error)
    return (
        not isinstance(error, Exception)
        or isinstance(error, (NotRepeatableError, MissingExtraError))
        or (_leaves_graph(error))
    )


def _ungrouped(error: BaseException) -> BaseException:
    """Of a group of errors the first that is control flow; any other error itself."""
    if isinstance(error, BaseExceptionGroup):
        inside = (_ungrouped(one) for one in error.exceptions)
        return next(filter(must_propagate, inside), error)
    return error


def _leaves_graph(error: BaseException) -> bool:
    langgraph = sys.modules.get("langgraph.errors")
    return langgraph is not None and isinstance(error, langgraph.GraphBubbleUp)


def _not_repeatable(does: str) -> NotRepeatableError:
    return NotRepeatableError(
        f"what is guarded {does}, which each candidate would do again: put the guard inside, "
        "around the model call alone, and interrupt or hand over outside it"
    )


def _of_recipe(source: PlannedSource, outcome: Outcome) -> Outcome:
    """Note on a candidate by which recipe it was made."""
    if not isinstance(outcome, Candidate):
        return outcome
    return outcome.model_copy(update={"recipe": source.recipe(outcome.index)})


class CallPlan:
    """The time limits of calls, and what their results mean."""

    def __init__(
        self, source: CandidateSource[Any], policy: SamplingPolicy, read: Read, limit: float | None
    ) -> None:
        self._read = read
        self._policy = policy
        self._planned = isinstance(source, PlannedSource)  # once, for such a check is slow
        limits = {"timeout": None if source.batches else policy.timeout, "deadline": limit}
        self._limit = min(((s, name) for name, s in limits.items() if s is not None), default=None)
        self._started = time.perf_counter()

    def divided(self, source: CandidateSource[Any], indices: Sequence[int]) -> list[Sequence[int]]:
        """Divide candidates among calls."""
        if self._planned:
            return cast("PlannedSource", source).jobs(indices)
        return [indices] if source.batches else [[i] for i in indices]

    def left(self) -> float | None:
        """Seconds until calls are late; None: no limit."""
        if self._limit is None:
            return None
        return max(0.0, self._started + self._limit[0] - time.perf_counter())

    def read(self, source: CandidateSource[Any], job: Sequence[int], outputs: Any) -> list[Outcome]:
        """Read the outputs of a call that returned.

        Raises:
            SamplingError: None is usable; another attempt may help.
            InvalidInputError: The only output is of a kind that has no text.
        """
        if not isinstance(outputs, Sequence) or isinstance(outputs, (str, bytes)):
            raise SamplingError(
                f"the batched call returned {type(outputs).__name__!r}, not a list of answers"
            )
        given = list(outputs)[: len(job)]
        outcomes = [self._read(i, output) for i, output in zip(job, given, strict=False)]
        if self._planned:
            outcomes = [_of_recipe(cast("PlannedSource", source), found) for found in outcomes]
        outcomes += [
            SamplingError(f"the batched call returned {len(given)} of {len(job)} answers")
            for _ in job[len(given) :]
        ]
        if not any(isinstance(outcome, Candidate) for outcome in outcomes):
            raise next(outcome for outcome in outcomes if isinstance(outcome, Exception))
        return outcomes

    def retry_options(self) -> dict[str, Any]:
        """Options of tenacity: which errors to retry, and the wait before each attempt."""
        policy = self._policy

        def worth_it(error: BaseException) -> bool:
            wanted = isinstance(error, policy.retry_on) and not must_propagate(error)
            # as providers' errors say
            hopeless = getattr(error, "is_retryable", True) is False or is_refusal(error)
            return wanted and not hopeless and not isinstance(error, InvalidInputError)

        def backoff(state: RetryCallState) -> float:
            longest = min(policy.backoff * 2.0 ** (state.attempt_number - 1), policy.backoff_max)
            return longest * random.uniform(0.5, 1.0)

        return {"wait": backoff, "retry": retry_if_exception(worth_it), "reraise": True}

    def failed(self, job: Sequence[int], error: Exception) -> list[Outcome]:
        """Outcomes of a call whose last attempt failed.

        Raises:
            NotRepeatableError: The call interrupts or leaves a LangGraph graph.
            BaseException: The error itself, when it must propagate.
        """
        inner = _ungrouped(error)
        if _leaves_graph(inner):
            raise _not_repeatable(f"leaves its graph by {type(inner).__name__}") from error
        if must_propagate(inner):
            raise inner
        return [error for _ in job]

    def cancelled(self, job: Sequence[int]) -> list[Outcome]:
        """Outcomes of a call that cancelled itself; its caller did not."""
        return [SamplingError(f"candidate {i} was cancelled from inside") for i in job]

    def collect(
        self, calls: dict[_Call, Sequence[int]], done: Iterable[_Call], *, for_all: bool
    ) -> dict[int, Outcome]:
        """Outcomes of the calls that are done, and of the late ones."""
        outcomes: dict[int, Outcome] = {}
        for call in done:
            job = calls[call]
            result = self.cancelled(job) if call.cancelled() else call.result()
            outcomes.update(zip(job, result, strict=True))
        if for_all or not outcomes:
            for i in (i for job in calls.values() for i in job):
                outcomes.setdefault(i, self._late(i))
        else:
            for call in done:
                del calls[call]
        return outcomes

    def _late(self, index: int) -> TimeoutError:
        seconds, name = self._limit or (0.0, "deadline")
        return TimeoutError(
            f"candidate {index} timed out after {round(seconds, 3)} s (`SamplingPolicy.{name}`)"
        )
