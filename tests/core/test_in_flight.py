"""Places for calls: never more than there are, in order, and none lost."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError, Future
from functools import partial

import pytest

from srr_guard import Guard, SamplingPolicy
from srr_guard.core.calls import CandidateCalls, FunctionSource
from srr_guard.core.delivery import MessageDelivery
from srr_guard.core.in_flight import CallLimit
from srr_guard.core.outcomes import read_candidate
from srr_guard.errors import ConfigurationError
from srr_guard.testing import FakeScorer


class Peak:
    """Counts calls under way."""

    def __init__(self) -> None:
        self.now = self.most = self.calls = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.calls += 1
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self.now -= 1


def guard(**sampling) -> Guard:
    policy = SamplingPolicy(**{"n": 4, "backoff": 0.0, **sampling})
    return Guard(scorer=FakeScorer(lambda prompt, answer: 0.9), sampling=policy)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_calls_of_all_requests_on_threads(most):
    limited, peak = guard(max_in_flight=most), Peak()
    meet = threading.Barrier(most)  # proves that so many are under way at once

    def call(index: int) -> str:
        with peak:
            meet.wait(60)
        return "fine"

    requests = [threading.Thread(target=limited.decide, args=("q", call)) for _ in range(3 * most)]
    for request in requests:
        request.start()
    for request in requests:
        request.join(60)
    assert (peak.most, peak.calls) == (most, 12 * most)


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_calls_of_all_requests_as_tasks(most):
    limited, peak = guard(max_in_flight=most), Peak()
    meet = asyncio.Barrier(most)

    async def call(index: int) -> str:
        with peak:
            await meet.wait()
        return "fine"

    await asyncio.gather(*(limited.adecide("q", call) for _ in range(3 * most)))
    assert (peak.most, peak.calls) == (most, 12 * most)


async def test_threads_and_tasks_share_the_places():
    limited, peak = guard(max_in_flight=1), Peak()

    def call(index: int) -> str:
        with peak:
            return "fine"

    async def acall(index: int) -> str:
        with peak:
            await asyncio.sleep(0)
        return "fine"

    on_thread = asyncio.to_thread(limited.decide, "q", call)
    await asyncio.gather(on_thread, limited.adecide("q", acall), limited.adecide("q", acall))
    assert (peak.most, peak.calls) == (1, 12)


def test_failed_calls_give_their_places_back():
    limited = guard(max_in_flight=1, attempts=3)
    calls = []

    def call(index: int) -> str:
        calls.append(index)
        if calls.count(index) < 3:  # of this candidate: others may come between its attempts
            raise ConnectionError
        return "fine"

    assert limited.decide("q", call).output == "fine"
    assert sorted(calls) == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


async def test_cancelled_requests_give_their_places_back():
    limited = guard(max_in_flight=1)
    entered = asyncio.Event()

    async def hang(index: int) -> str:
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def call(index: int) -> str:
        return "fine"

    stuck = asyncio.create_task(limited.adecide("q", hang))
    await entered.wait()
    waiting = asyncio.create_task(limited.adecide("q", call))
    await asyncio.sleep(0)
    gone = asyncio.create_task(limited.adecide("q", call))
    await asyncio.sleep(0)
    gone.cancel()
    stuck.cancel()
    assert (await waiting).output == "fine"
    await asyncio.wait([stuck, gone])
    assert stuck.cancelled()
    assert gone.cancelled()


def test_calls_of_a_request_that_is_over_do_not_start():
    limit, policy = CallLimit(1), SamplingPolicy(n=2, attempts=1)
    entered, held, made = threading.Event(), threading.Event(), []

    def call(index: int) -> str:
        made.append(index)
        entered.set()
        held.wait(60)
        return "fine"

    read = partial(read_candidate, delivery=MessageDelivery(), refusal="no")
    with CandidateCalls(FunctionSource(call), policy, range(2), read=read, limit=limit):
        assert entered.wait(60)
    held.set()
    with limit.place(Future()):
        assert len(made) == 1


def test_a_cancelled_ticket_takes_no_place():
    limit = CallLimit(1)
    held, late = Future(), Future()
    with limit.place(held):
        late.cancel()
        with pytest.raises(CancelledError), limit.place(late):
            raise AssertionError
    with limit.place(Future()):
        pass


def test_no_limit_costs_nothing():
    with CallLimit(None).place(Future()) as nothing:
        assert nothing is None


@pytest.mark.parametrize("most", [0, -1])
def test_impossible_limits(most):
    with pytest.raises(ConfigurationError, match="max_in_flight"):
        SamplingPolicy(max_in_flight=most)


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("is_async", [False, True])
def test_guards_inside_guards_share_a_limit(most, depth, is_async):
    """The calls that wait for others lend them their places, and no more are under way."""
    policy = SamplingPolicy(n=2, max_in_flight=most, deadline=20, attempts=1)
    guard, peak = Guard(scorer=FakeScorer(lambda prompt, answer: 0.9), sampling=policy), Peak()

    def ask(level):
        if level == 0:
            with peak:
                return "fine"
        return guard.decide("q", lambda _: ask(level - 1)).output

    async def aask(level):
        if level == 0:
            with peak:
                await asyncio.sleep(0)
                return "fine"

        async def call(_):
            return await aask(level - 1)

        return (await guard.adecide("q", call)).output

    assert (asyncio.run(aask(depth)) if is_async else ask(depth)) == "fine"
    assert peak.calls == 2**depth
    assert peak.most <= most
