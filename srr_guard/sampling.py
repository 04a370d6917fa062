"""Best-of-N sampling: call the wrapped thing once per candidate and keep what comes back.

One core decides what a call's result means; `sample` and `asample` only run the calls, the
first on threads, the second as tasks. Both answer at the deadline at the latest: a call that
is late is cancelled where it can be (a task) and abandoned where it cannot (a thread).
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

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
from srr_guard.errors import (
    AllCandidatesFailedError,
    InvalidInputError,
    NotEnoughCandidatesError,
    SamplingError,
)
from srr_guard.policy import SamplingPolicy

T = TypeVar("T")

_Outcome = Candidate | Exception

# A caller's thread waits for each of these, so there are never more than the callers want.
_workers = Workers(max_threads=None)


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


@dataclass(frozen=True, slots=True)
class Sampled:
    """What one round of sampling gave.

    Attributes:
        candidates: The candidates that came back, by index.
        causes: The errors of those that did not, in the order of the candidates.
        seconds: How long the round took.
    """

    candidates: tuple[Candidate, ...]
    causes: tuple[Exception, ...]
    seconds: float


def sample(
    call: Callable[[int], Any],
    policy: SamplingPolicy,
    *,
    batched: Callable[[int], Sequence[Any]] | None = None,
) -> Sampled:
    """Sample candidates side by side on threads.

    Args:
        call: Called with the candidate's index, once per candidate and attempt; returns the
            wrapped thing's output. It sees a copy of the caller's context variables.
        policy: How many, how often, how long.
        batched: Called with n instead, for all outputs at once; ignored when the policy says
            `batched="never"`. Only `deadline` limits it.

    Raises:
        AllCandidatesFailedError: No candidate came back.
        NotEnoughCandidatesError: Fewer came back than `policy.min_candidates`.
        BaseException: Whatever must not be taken for a failure (see `must_propagate`).
    """
    started = time.perf_counter()
    jobs = _jobs(policy, call, batched)
    given_up = threading.Event()
    retrying = Retrying(
        stop=stop_after_attempt(policy.attempts) | stop_when_event_set(given_up),
        sleep=sleep_using_event(given_up),
        **_retry_options(policy),
    )

    def run(job: _Job[Any]) -> Sequence[_Outcome]:
        try:
            outcomes: Sequence[_Outcome] = retrying(lambda: _read(job, job.call()))
        except Exception as error:  # noqa: BLE001 (a failed candidate, or raised again)
            return _failures(job, error)
        return outcomes

    futures = [_workers.submit(run, job) for job in jobs]
    try:
        done, _ = wait(futures, timeout=jobs[0].limit, return_when="FIRST_EXCEPTION")
        outcomes = [f.result() if f in done else None for f in futures]
    finally:
        given_up.set()
        for future in futures:
            if not future.done():
                _workers.release(future)
    return _finish(policy, jobs, outcomes, time.perf_counter() - started)


async def asample(
    call: Callable[[int], Awaitable[Any]],
    policy: SamplingPolicy,
    *,
    batched: Callable[[int], Awaitable[Sequence[Any]]] | None = None,
) -> Sampled:
    """Sample candidates side by side as tasks; otherwise like `sample`."""
    started = time.perf_counter()
    jobs = _jobs(policy, call, batched)

    async def run(job: _Job[Awaitable[Any]]) -> Sequence[_Outcome]:
        async def attempt() -> Sequence[_Outcome]:
            return _read(job, await job.call())

        retrying = AsyncRetrying(stop=stop_after_attempt(policy.attempts), **_retry_options(policy))
        try:
            outcomes: Sequence[_Outcome] = await retrying(attempt)
        except Exception as error:  # noqa: BLE001 (a failed candidate, or raised again)
            return _failures(job, error)
        return outcomes

    tasks = [asyncio.create_task(run(job)) for job in jobs]
    try:
        done, _ = await asyncio.wait(
            tasks, timeout=jobs[0].limit, return_when=asyncio.FIRST_EXCEPTION
        )
        outcomes = [t.result() if t in done else None for t in tasks]
    finally:
        for task in tasks:
            _abandon(task)
    return _finish(policy, jobs, outcomes, time.perf_counter() - started)


def must_propagate(error: BaseException) -> bool:
    """Whether an error is control flow, not a failed candidate.

    True for KeyboardInterrupt, CancelledError and the like, and for what LangGraph raises to
    interrupt a graph or to leave it, which are ordinary exceptions by type.
    """
    langgraph = sys.modules.get("langgraph.errors")
    return not isinstance(error, Exception) or (
        langgraph is not None and isinstance(error, langgraph.GraphBubbleUp)
    )


# ---- the core: no threads, no tasks, no clock ----


@dataclass(frozen=True, slots=True)
class _Job(Generic[T]):
    """One call that gives the outputs of some candidates: of one, or of all in a batch."""

    indices: range
    call: Callable[[], T]
    limit: float | None
    batched: bool


def _jobs(
    policy: SamplingPolicy, call: Callable[[int], T], batched: Callable[[int], T] | None
) -> list[_Job[T]]:
    """The calls to make; all of them start together and have the same limit."""
    if batched is not None and policy.batched == "auto":
        return [_Job(range(policy.n), partial(batched, policy.n), policy.deadline, True)]
    limit = min((s for s in (policy.timeout, policy.deadline) if s is not None), default=None)
    return [_Job(range(i, i + 1), partial(call, i), limit, False) for i in range(policy.n)]


def _read(job: _Job[Any], result: Any) -> Sequence[_Outcome]:
    """Outcomes of a call that returned.

    Raises:
        SamplingError: Nothing in it can be used; another attempt may do better.
        InvalidInputError: The only output is of a kind that has no text.
    """
    if job.batched and not isinstance(result, Sequence):
        raise SamplingError(
            f"the batched call returned {type(result).__name__!r} in place of a list of answers"
        )
    outputs = list(result)[: len(job.indices)] if job.batched else [result]
    outcomes = [_candidate(i, output) for i, output in zip(job.indices, outputs, strict=False)]
    outcomes += [
        SamplingError(f"the batched call returned {len(outputs)} of {len(job.indices)} answers")
        for _ in job.indices[len(outputs) :]
    ]
    if not any(isinstance(outcome, Candidate) for outcome in outcomes):
        raise next(outcome for outcome in outcomes if isinstance(outcome, Exception))
    return outcomes


def _candidate(index: int, output: Any) -> _Outcome:
    try:
        text = "" if output is None else candidate_text(output)
    except InvalidInputError as error:
        return error
    if not text.strip():
        return SamplingError(f"candidate {index} is blank: the model returned no text")
    return Candidate(index=index, text=text, output=output)


def _failures(job: _Job[Any], error: Exception) -> Sequence[_Outcome]:
    """Outcomes of a call whose last attempt failed; what must propagate is raised again."""
    if must_propagate(error):
        raise error
    return [error for _ in job.indices]


def _finish(
    policy: SamplingPolicy,
    jobs: Sequence[_Job[Any]],
    results: Sequence[Sequence[_Outcome] | None],
    seconds: float,
) -> Sampled:
    outcomes: list[_Outcome] = []
    for job, result in zip(jobs, results, strict=True):
        late = [TimeoutError(f"candidate {i} was not back in {job.limit} s") for i in job.indices]
        outcomes += late if result is None else result
    candidates = tuple(o for o in outcomes if isinstance(o, Candidate))
    causes = tuple(o for o in outcomes if isinstance(o, Exception))
    if not candidates:
        raise AllCandidatesFailedError(causes) from causes[0]
    if len(candidates) < policy.min_candidates:
        raise NotEnoughCandidatesError(
            succeeded=len(candidates), required=policy.min_candidates, causes=causes
        ) from causes[0]
    return Sampled(candidates=candidates, causes=causes, seconds=seconds)


def _retry_options(policy: SamplingPolicy) -> dict[str, Any]:
    def backoff(state: RetryCallState) -> float:
        longest = min(policy.backoff * 2.0 ** (state.attempt_number - 1), policy.backoff_max)
        return longest * random.uniform(0.5, 1.0)

    return {"wait": backoff, "retry": retry_if_exception(_worth_retrying), "reraise": True}


def _worth_retrying(error: BaseException) -> bool:
    return not must_propagate(error) and not isinstance(error, InvalidInputError)


def _abandon(task: asyncio.Task[Any]) -> None:
    """Cancel a task without waiting for it, and take note of whatever it raises later."""
    if task.cancel():
        task.add_done_callback(lambda t: t.cancelled() or t.exception())
    elif not task.cancelled():
        task.exception()
