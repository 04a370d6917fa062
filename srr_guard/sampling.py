"""Sampling: call the wrapped thing once per candidate and keep what comes back.

One core decides what a call's result means; `Round` and `AsyncRound` only run the calls, the
first on threads, the second as tasks. Both answer at the deadline at the latest: a call that
is late is cancelled where it can be (a task) and abandoned where it cannot (a thread).
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from typing import Any, Generic, Protocol, Self, TypeVar, runtime_checkable

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
)

from srr_guard._threads import Workers
from srr_guard.conversation import candidate_text
from srr_guard.decision import Candidate
from srr_guard.errors import InvalidInputError, SamplingError
from srr_guard.policy import SamplingPolicy

T = TypeVar("T")

Outcome = Candidate | Exception

# A caller's thread waits for each of these, so there are never more than the callers want.
workers = Workers(max_threads=None)


@runtime_checkable
class SupportsCandidateSampling(Protocol):
    """A chat model that samples several answers to one prompt in one call.

    `SafetyRanker` uses it when `SamplingPolicy.batched` is `auto`. A model may offer
    `asample_candidates` with the same arguments too; without it, async callers run
    `sample_candidates` on a thread.
    """

    def sample_candidates(
        self, messages: list[Any], n: int, *, stop: list[str] | None = None, **kwargs: Any
    ) -> Sequence[Any]:
        """Sample `n` answers to one list of messages, as messages."""
        ...


class Round:
    """Calls for some candidates, side by side on threads; they start when it is made.

    As a context manager it gives up at its end on the calls that are still under way: they
    make no further attempt, and nobody waits for their threads.

    Args:
        call: Called with the candidate's index, once per candidate and attempt; returns the
            wrapped thing's output. It sees a copy of the caller's context variables.
        policy: How often and how long.
        indices: Which candidates to sample.
        batched: Called with the indices instead, for all outputs at once; ignored when the
            policy says `batched="never"`. Only the deadline limits it.
        deadline: Seconds until the round must be over; None: no limit.
        text: Renders an output to the text that is scored.
    """

    def __init__(
        self,
        call: Callable[[int], Any],
        policy: SamplingPolicy,
        indices: range,
        *,
        batched: Callable[[range], Sequence[Any]] | None = None,
        deadline: float | None = None,
        text: Callable[[Any], str] = candidate_text,
    ) -> None:
        plan = _Plan(call, policy, indices, batched, deadline, text)
        self._plan = plan
        self._given_up = threading.Event()

        retrying = Retrying(
            stop=stop_after_attempt(policy.attempts) | stop_when_event_set(self._given_up),
            sleep=sleep_using_event(self._given_up),
            **plan.retry_options(),
        )

        def run(job: range) -> list[Outcome]:
            try:
                return retrying(lambda: plan.read(job, plan.call(job)))
            except asyncio.CancelledError:
                return plan.cancelled(job)
            except Exception as error:  # noqa: BLE001 (a failed candidate, or raised again)
                return plan.failed(job, error)

        self._calls = {workers.submit(run, job): job for job in plan.jobs}

    def wait(self, *, for_all: bool) -> dict[int, Outcome]:
        """Wait until all calls are back, or the next of them; late ones count as failed.

        Returns:
            The outcomes not returned before, by candidate index.

        Raises:
            BaseException: Whatever must not be taken for a failure (see `must_propagate`).
        """
        when = "FIRST_EXCEPTION" if for_all else "FIRST_COMPLETED"
        done, _ = wait(self._calls, timeout=self._plan.left(), return_when=when)
        return self._plan.collect(self._calls, done, for_all=for_all)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._given_up.set()
        for call in self._calls:
            workers.release(call)


class AsyncRound:
    """Like `Round`, as tasks; those still under way at its end are cancelled."""

    def __init__(
        self,
        call: Callable[[int], Awaitable[Any]],
        policy: SamplingPolicy,
        indices: range,
        *,
        batched: Callable[[range], Awaitable[Sequence[Any]]] | None = None,
        deadline: float | None = None,
        text: Callable[[Any], str] = candidate_text,
    ) -> None:
        plan = _Plan(call, policy, indices, batched, deadline, text)
        self._plan = plan

        async def run(job: range) -> list[Outcome]:
            async def attempt() -> list[Outcome]:
                return plan.read(job, await plan.call(job))

            # one for each task: tenacity keeps the state of a call on the object
            retrying = AsyncRetrying(
                stop=stop_after_attempt(policy.attempts), **plan.retry_options()
            )
            try:
                return await retrying(attempt)
            except Exception as error:  # noqa: BLE001 (a failed candidate, or raised again)
                return plan.failed(job, error)

        self._calls = {asyncio.create_task(run(job)): job for job in plan.jobs}

    async def wait(self, *, for_all: bool) -> dict[int, Outcome]:
        """Like `Round.wait`, without blocking the event loop."""
        when = asyncio.FIRST_EXCEPTION if for_all else asyncio.FIRST_COMPLETED
        done, _ = await asyncio.wait(self._calls, timeout=self._plan.left(), return_when=when)
        return self._plan.collect(self._calls, done, for_all=for_all)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        for call in self._calls:
            abandon(call)


def must_propagate(error: BaseException) -> bool:
    """Whether an error is control flow, not a failed candidate.

    True for KeyboardInterrupt, CancelledError and the like, and for what LangGraph raises to
    interrupt a graph or to leave it, which are ordinary exceptions by type.
    """
    langgraph = sys.modules.get("langgraph.errors")
    return not isinstance(error, Exception) or (
        langgraph is not None and isinstance(error, langgraph.GraphBubbleUp)
    )


def abandon(task: asyncio.Task[Any]) -> None:
    """Cancel a task without waiting for it, and take note of whatever it raises later."""
    if task.cancel():
        task.add_done_callback(lambda t: t.cancelled() or t.exception())
    elif not task.cancelled():
        task.exception()


# ---- the core: no threads, no tasks ----

_Call = TypeVar("_Call", Future[list[Outcome]], asyncio.Task[list[Outcome]])


class _Plan(Generic[T]):
    """Which calls to make, and what their results mean."""

    def __init__(
        self,
        call: Callable[[int], T],
        policy: SamplingPolicy,
        indices: range,
        batched: Callable[[range], T] | None,
        deadline: float | None,
        text: Callable[[Any], str],
    ) -> None:
        self._single = call
        self._text = text
        self._policy = policy
        self._batched = batched if policy.batched == "auto" else None
        self.jobs = (
            [indices] if self._batched else [indices[i : i + 1] for i in range(len(indices))]
        )
        limits = (None if self._batched else policy.timeout, deadline)
        self._limit = min((s for s in limits if s is not None), default=None)
        self._started = time.perf_counter()

    def left(self) -> float | None:
        """Seconds until calls are late; None: no limit."""
        if self._limit is None:
            return None
        return max(0.0, self._started + self._limit - time.perf_counter())

    def call(self, job: range) -> T:
        """Call the wrapped thing for these candidates."""
        return self._batched(job) if self._batched else self._single(job[0])

    def read(self, job: range, result: Any) -> list[Outcome]:
        """Outcomes of a call that returned.

        Raises:
            SamplingError: Nothing in it can be used; another attempt may do better.
            InvalidInputError: The only output is of a kind that has no text.
        """
        if self._batched and not isinstance(result, Sequence):
            raise SamplingError(
                f"the batched call returned {type(result).__name__!r} in place of a list of answers"
            )
        outputs = list(result)[: len(job)] if self._batched else [result]
        outcomes = [self._candidate(i, output) for i, output in zip(job, outputs, strict=False)]
        outcomes += [
            SamplingError(f"the batched call returned {len(outputs)} of {len(job)} answers")
            for _ in job[len(outputs) :]
        ]
        if not any(isinstance(outcome, Candidate) for outcome in outcomes):
            raise next(outcome for outcome in outcomes if isinstance(outcome, Exception))
        return outcomes

    def _candidate(self, index: int, output: Any) -> Outcome:
        try:
            text = "" if output is None else self._text(output)
        except InvalidInputError as error:
            return error
        if not isinstance(text, str):
            return InvalidInputError(f"the text of an answer must be a str, got {text!r:.60}")
        if not text.strip():
            return SamplingError(f"candidate {index} is blank: the model returned no text")
        return Candidate(index=index, text=text, output=output)

    def retry_options(self) -> dict[str, Any]:
        """Which errors are worth another attempt, and how long to wait before it."""
        policy = self._policy

        def worth_it(error: BaseException) -> bool:
            wanted = isinstance(error, policy.retry_on) and not must_propagate(error)
            return wanted and not isinstance(error, InvalidInputError)

        def backoff(state: RetryCallState) -> float:
            longest = min(policy.backoff * 2.0 ** (state.attempt_number - 1), policy.backoff_max)
            return longest * random.uniform(0.5, 1.0)

        return {"wait": backoff, "retry": retry_if_exception(worth_it), "reraise": True}

    def failed(self, job: range, error: Exception) -> list[Outcome]:
        """Outcomes of a call whose last attempt failed.

        Raises:
            Exception: The error itself, when it must propagate.
        """
        if must_propagate(error):
            raise error
        return [error for _ in job]

    def cancelled(self, job: range) -> list[Outcome]:
        """Outcomes of a call that was cancelled by what it called, not by its caller."""
        return [SamplingError(f"candidate {i} was cancelled from inside") for i in job]

    def collect(
        self, calls: dict[_Call, range], done: Iterable[_Call], *, for_all: bool
    ) -> dict[int, Outcome]:
        """Outcomes of calls that are done, and of all others when these are late."""
        outcomes: dict[int, Outcome] = {}
        for call in done:
            job = calls[call]
            result = self.cancelled(job) if call.cancelled() else call.result()
            outcomes.update(zip(job, result, strict=True))
        if for_all or not outcomes:
            for job in calls.values():
                for i in job:
                    late = TimeoutError(f"candidate {i} was not back in {self._limit} s")
                    outcomes.setdefault(i, late)
        else:
            for call in done:
                del calls[call]
        return outcomes
