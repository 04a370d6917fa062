"""A thousand requests at once: each gets its own answer, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from limits import Limits

from srr_guard import SafetyRanker, SamplingPolicy, srr_guard
from srr_guard.errors import SamplingError, ScorerError
from srr_guard.testing import FakeScorer

REQUESTS = 1000


class Recorder:
    """A model and a scorer that misbehave at random, and know which prompts they saw."""

    def __init__(self, seed: int, *, limits: Limits | None = None) -> None:
        self.random = random.Random(seed)
        self.limits = limits
        self.running = 0

    async def answer(self, prompt: str) -> str:
        self.running += 1
        try:
            if self.limits is not None and self.random.random() < 0.1:
                await self.limits.hang()
            await asyncio.sleep(self.random.random() * 0.02)
            if self.random.random() < 0.2:
                raise ConnectionError("at random")
            return f"answer to {prompt} #{self.random.random()}"
        finally:
            self.running -= 1

    async def ascore(self, conversation, candidates):
        assert all(text.startswith(f"answer to {conversation.prompt} #") for text in candidates)
        await asyncio.sleep(self.random.random() * 0.005)
        if self.random.random() < 0.05:
            raise RuntimeError("at random")
        return FakeScorer(lambda prompt, text: 0.6)._rank(conversation, candidates)

    def score(self, conversation, candidates):
        raise AssertionError("async callers only")


async def until(holds) -> None:
    """Wait for something that is bound to happen."""
    while not holds():
        await asyncio.sleep(0.001)


POLICIES = {
    "plain": SamplingPolicy(n=3, attempts=2, backoff=0.001),
    "adaptive": SamplingPolicy(n=4, initial=2, accept_at=0.6, attempts=1),
    "hanging": SamplingPolicy(n=3, attempts=1),
}


@pytest.mark.may_block  # a thousand tasks in one iteration of a busy machine's loop
@pytest.mark.parametrize("name", POLICIES)
async def test_a_thousand_at_once(name, limits):
    recorder = Recorder(seed=7, limits=limits if name == "hanging" else None)
    guard = SafetyRanker(recorder.answer, scorer=recorder, sampling=POLICIES[name])
    own_tasks = asyncio.all_tasks()

    async def request(i: int) -> str:
        limits.new_request()
        try:
            answer = await guard.ainvoke(f"prompt {i}.")
        except (SamplingError, ScorerError) as error:
            return type(error).__name__
        assert answer.startswith(f"answer to prompt {i}. #"), (i, answer)
        return "own answer"

    tasks = [asyncio.create_task(request(i)) for i in range(REQUESTS)]
    chance = random.Random(3)
    cancelled = chance.sample(tasks, REQUESTS // 10)
    for task in cancelled:
        asyncio.get_running_loop().call_later(chance.random() * 0.2, task.cancel)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    kinds = [r if isinstance(r, str) else type(r).__name__ for r in results]
    counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    print(f"\n{name}: {counts}")  # noqa: T201 (shown with -s)

    assert set(counts) <= {
        "own answer",
        "CancelledError",
        "AllCandidatesFailedError",
        "ScoringError",
    }
    assert counts["own answer"] > REQUESTS / 4
    assert counts.get("CancelledError", 0) <= len(cancelled)
    await until(lambda: asyncio.all_tasks() == own_tasks)
    assert recorder.running == 0, "candidates that nobody waits for are still running"


@pytest.mark.may_block
async def test_memory_returns_to_where_it_was():
    recorder = Recorder(seed=1)
    guard = SafetyRanker(recorder.answer, scorer=recorder, sampling=POLICIES["adaptive"])

    async def round_of(size: int) -> int:
        await asyncio.gather(
            *(guard.ainvoke(f"p{i}.") for i in range(size)), return_exceptions=True
        )
        await until(lambda: len(asyncio.all_tasks()) == 1)
        await asyncio.sleep(0.05)  # cancelled timers stay in the loop until they are due
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        await round_of(200)
        before = await round_of(200)
        after = min(await round_of(600), await round_of(200))  # a leak stays; cancelled timers go
    finally:
        tracemalloc.stop()
    kept = after - before
    print(f"\nkept after 600 requests: {kept} bytes")  # noqa: T201
    assert kept < 200_000


def test_threads_return_to_where_they_were(limits):
    """Abandoned calls end by themselves; the next requests use the threads that are there."""
    chance, hung = random.Random(5), []

    def answer(prompt: str) -> str:
        if chance.random() < 0.5 and not hung_out:
            hung.append(threading.current_thread())
            limits.hang_thread()
        return f"answer to {prompt}"

    hung_out = False
    guarded = srr_guard(
        scorer=FakeScorer(lambda prompt, text: 0.9),
        sampling=SamplingPolicy(n=2, attempts=1),
    )(answer)

    def request(i: int) -> bool:
        limits.new_request()
        try:
            return guarded(f"prompt {i}.") == f"answer to prompt {i}."
        except SamplingError:
            return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(request, range(200)))
    assert len(hung) > 50, "this test needs calls that hang"
    assert all(thread.is_alive() for thread in hung)
    hung_out = True
    limits.release()
    for thread in hung:
        thread.join(60)
    assert not any(thread.is_alive() for thread in hung)
    idle = threading.active_count()
    assert all(guarded(f"prompt {i}.") == f"answer to prompt {i}." for i in range(50))
    assert threading.active_count() <= idle + 3


def test_one_ranker_shared_by_32_threads():
    def answer(prompt: str) -> str:
        time.sleep(chance.random() * 0.002)
        return f"answer to {prompt}"

    chance = random.Random(9)
    guard = SafetyRanker(
        answer,
        scorer=FakeScorer(lambda prompt, text: (len(prompt) % 10) / 10 + 0.05),
        sampling=SamplingPolicy(n=2),
    )

    def numbers(i: int) -> tuple[str, float]:
        decision = guard.decide("x" * (i % 50) + f"{i}.")
        return decision.candidates[0].text, decision.candidates[0].p_safe

    alone = [numbers(i) for i in range(200)]
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(numbers, range(200))) == alone
