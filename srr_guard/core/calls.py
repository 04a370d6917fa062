"""Candidate calls: one per candidate, with retries and deadlines, on threads or as tasks.

`CandidateCalls` runs them on threads, `AsyncCandidateCalls` as tasks; `outcomes.py` decides what
a result means. Both return at the deadline: late tasks are cancelled, late threads abandoned.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, Self

from tenacity import (
    AsyncRetrying,
    Retrying,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
)

from srr_guard.core.in_flight import CallLimit
from srr_guard.core.outcomes import CallPlan, Outcome, Read
from srr_guard.core.watched import WatchedAnswer
from srr_guard.errors import ConfigurationError, InvalidInputError
from srr_guard.policy import GatePolicy, SamplingPolicy
from srr_guard.protocols import CandidateSource
from srr_guard.runnables.cache import warn_of_cache
from srr_guard.runnables.isolation import isolate
from srr_guard.threads import abandon, blocking_calls, is_async, workers

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig


class FunctionSource:
    """Candidates made by a function of their index (see `CandidateSource`).

    Args:
        call: Makes one candidate. An async function is for `asample` only; a sync one runs on
            a thread of its own there.
        isolated: Keep candidates out of the LangChain run that they are made in.
    """

    batches = False

    def __init__(self, call: Callable[[int], Any], *, isolated: bool = True) -> None:
        self._call = call
        self._isolated = isolated

    def sample(self, indices: Sequence[int]) -> Sequence[Any]:
        """Make one candidate.

        Raises:
            InvalidInputError: The function is async.
        """
        with WatchedAnswer(self._alone()) as answer:
            answer.output = self._call(indices[0])
        made = answer.output
        if inspect.isawaitable(made):
            if inspect.iscoroutine(made):
                made.close()
            raise InvalidInputError(
                f"{self._call!r} is async and was called by a sync guard: use the async method, "
                "such as `adecide`"
            )
        return [answer.result]

    async def asample(self, indices: Sequence[int]) -> Sequence[Any]:
        """Make one candidate without blocking the event loop."""
        with WatchedAnswer(self._alone()) as answer:
            if is_async(self._call):
                answer.output = await self._call(indices[0])
            else:
                made = await blocking_calls.run(self._call, indices[0])
                answer.output = await made if inspect.isawaitable(made) else made
        return [answer.result]

    def _alone(self) -> RunnableConfig | None:
        """Leave the LangChain run around; the config of the candidate, where there is one."""
        if not self._isolated:
            return None
        config = isolate()
        warn_of_cache()
        return config


def require_plain(policy: SamplingPolicy, gating: GatePolicy | None = None) -> None:
    """Refuse settings that reach a model only, where functions make the candidates.

    Raises:
        ConfigurationError: The policy has one.
    """
    require_no_plan(policy, gating)
    for name in ("temperatures", "system_prompts", "seed", "read_ahead", "cut_below"):
        if (value := getattr(policy, name)) not in (None, False):
            raise ConfigurationError(
                f"{name}={value!r} reaches no model here: a function makes its own calls; wrap "
                "the model in a SafetyRanker, or leave the setting out"
            )


def require_no_plan(policy: SamplingPolicy, gating: GatePolicy | None = None) -> None:
    """Refuse a plan where candidates are made by something that follows none.

    Raises:
        ConfigurationError: One of the policies has one.
    """
    plan = policy.plan or (gating.plan if gating else None)
    if plan is not None:
        raise ConfigurationError(
            f"plan={plan!r} reaches no model here: what makes the candidates follows no "
            "recipes; wrap the model in a SafetyRanker, or leave the plan out"
        )


class CandidateCalls:
    """Calls for candidates, side by side on threads. They start at once.

    A context manager: leaving it abandons the calls still under way, which make no further
    attempt.

    Args:
        source: Makes the candidates. It sees a copy of the caller's context variables.
        policy: Attempts and time limits.
        indices: Which candidates to make.
        read: Reads the outputs.
        limit: Calls wait here for their turn; None: there is no limit.
        deadline: Seconds for all of them together; None: no limit.
    """

    def __init__(
        self,
        source: CandidateSource[Any],
        policy: SamplingPolicy,
        indices: Sequence[int],
        *,
        read: Read,
        limit: CallLimit | None = None,
        deadline: float | None = None,
    ) -> None:
        self._plan = CallPlan(source, policy, read, deadline)
        self._policy = policy
        self._places = limit or CallLimit(None)
        self._given_up = threading.Event()
        self._tickets: list[Future[None]] = []
        self._calls: dict[Future[list[Outcome]], Sequence[int]] = {}
        self.start(source, indices)

    def start(self, source: CandidateSource[Any], indices: Sequence[int]) -> None:
        """Start calls for more candidates, within the same time limits."""
        plan, given_up = self._plan, self._given_up
        retrying = Retrying(
            stop=stop_after_attempt(self._policy.attempts) | stop_when_event_set(given_up),
            sleep=sleep_using_event(given_up),
            **plan.retry_options(),
        )

        def attempt(job: Sequence[int]) -> list[Outcome]:
            ticket: Future[None] = Future()
            self._tickets.append(ticket)
            with self._places.place(ticket):
                if given_up.is_set():
                    raise TimeoutError("given up before its turn came")
                return plan.read(source, job, source.sample(job))

        def run(job: Sequence[int]) -> list[Outcome]:
            try:
                return retrying(attempt, job)
            except asyncio.CancelledError:
                return plan.cancelled(job)
            except Exception as error:  # noqa: BLE001 (a failed candidate, or raised again)
                return plan.failed(job, error)

        self._calls |= {workers.submit(run, job): job for job in plan.divided(source, indices)}

    def wait(self, *, for_all: bool) -> dict[int, Outcome]:
        """Wait for all calls, or for the next one. Late calls count as failed.

        Returns:
            The outcomes not returned before, by candidate index.

        Raises:
            BaseException: An error that is no failed candidate (see `must_propagate`).
        """
        when = "FIRST_EXCEPTION" if for_all else "FIRST_COMPLETED"
        done, _ = wait(self._calls, timeout=self._plan.left(), return_when=when)
        return self._plan.collect(self._calls, done, for_all=for_all)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._given_up.set()
        for ticket in self._tickets:
            ticket.cancel()
        for call in self._calls:
            workers.release(call)


class AsyncCandidateCalls:
    """Like `CandidateCalls`, as tasks. Leaving it cancels those still under way."""

    def __init__(
        self,
        source: CandidateSource[Any],
        policy: SamplingPolicy,
        indices: Sequence[int],
        *,
        read: Read,
        limit: CallLimit | None = None,
        deadline: float | None = None,
    ) -> None:
        self._plan = CallPlan(source, policy, read, deadline)
        self._policy = policy
        self._places = limit or CallLimit(None)
        self._calls: dict[asyncio.Task[list[Outcome]], Sequence[int]] = {}
        self.start(source, indices)

    def start(self, source: CandidateSource[Any], indices: Sequence[int]) -> None:
        """Start calls for more candidates, within the same time limits."""
        plan = self._plan

        async def run(job: Sequence[int]) -> list[Outcome]:
            async def attempt() -> list[Outcome]:
                async with self._places.aplace():
                    return plan.read(source, job, await source.asample(job))

            # one per task: tenacity keeps the state of a call on the object
            retrying = AsyncRetrying(
                stop=stop_after_attempt(self._policy.attempts), **plan.retry_options()
            )
            try:
                return await retrying(attempt)
            except Exception as error:  # noqa: BLE001 (a failed candidate, or raised again)
                return plan.failed(job, error)

        self._calls |= {asyncio.create_task(run(job)): job for job in plan.divided(source, indices)}

    async def wait(self, *, for_all: bool) -> dict[int, Outcome]:
        """Like `CandidateCalls.wait`, without blocking the event loop."""
        when = asyncio.FIRST_EXCEPTION if for_all else asyncio.FIRST_COMPLETED
        done, _ = await asyncio.wait(self._calls, timeout=self._plan.left(), return_when=when)
        return self._plan.collect(self._calls, done, for_all=for_all)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        for call in self._calls:
            abandon(call)
