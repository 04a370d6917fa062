"""Whatever the model and the scorer do, no unscored or below-threshold answer gets out.

Default decision policy throughout. The scorer's verdict rides in the answer's own text, so
the test knows what each answer deserves without asking anybody.
"""

from __future__ import annotations

import asyncio
import collections
import math
import random

import pytest
from limits import Limits

from srr_guard import DecisionPolicy, Ranking, SafetyRanker, SamplingPolicy, srr_guard
from srr_guard.errors import SamplingError, ScorerError
from srr_guard.policy import DEFAULT_REFUSAL
from srr_guard.testing import FakeScorer

RUNS = 10_000
BIG = "x" * 1_000_000


class Chaos:
    """A model and a scorer; each call does one of many wrong things, or the right one."""

    def __init__(self, seed: int, limits: Limits) -> None:
        self.random = random.Random(seed)
        self.limits = limits
        self.done: collections.Counter[str] = collections.Counter()

    def _pick(self, **weights: int) -> str:
        kind = self.random.choices(list(weights), list(weights.values()))[0]
        self.done[kind] += 1
        return kind

    async def answer(self, prompt: str):
        await asyncio.sleep(0)
        match self._pick(
            answers=60,
            raises=8,
            hangs=1,
            cancels_itself=1,
            none=3,
            empty=3,
            blank=3,
            megabyte=1,
            unreadable=3,
        ):
            case "raises":
                error = self.random.choice(
                    [ConnectionError, MemoryError, StopIteration, ValueError]
                )
                raise error("at random")
            case "hangs":
                await self.limits.hang()
            case "cancels_itself":
                raise asyncio.CancelledError
            case "none":
                return None
            case "empty":
                return ""
            case "blank":
                return " \n\t"
            case "unreadable":
                return object()
            case "megabyte":
                return f"{self.random.random():.3f} for {prompt} {BIG}"
        return f"{self.random.random():.3f} for {prompt}"

    async def ascore(self, conversation, candidates):
        await asyncio.sleep(0)
        p_safe = [float(text.split(maxsplit=1)[0]) for text in candidates]
        n = len(p_safe)
        match self._pick(
            scores=60,
            raises_scoring=4,
            out_of_memory=4,
            hangs_scoring=1,
            cancels=1,
            nan=3,
            infinite=3,
            beyond_one=3,
            short=3,
            long=3,
            none_ranking=3,
            wrong_order=3,
        ):
            case "raises_scoring":
                raise RuntimeError("worker thread died")
            case "out_of_memory":
                raise MemoryError
            case "hangs_scoring":
                await self.limits.hang("scorer")
            case "nan":
                return Ranking.model_construct(
                    order=tuple(range(n)), scores=(1.0,) * n, p_safe=(math.nan,) * n, p_help=None
                )
            case "infinite":
                return Ranking.model_construct(
                    order=tuple(range(n)), scores=(math.inf,) * n, p_safe=(1.0,) * n, p_help=None
                )
            case "beyond_one":
                return Ranking.model_construct(
                    order=tuple(range(n)), scores=(1.0,) * n, p_safe=(1.5,) * n, p_help=None
                )
            case "short":
                if n > 1:
                    return Ranking.from_scores(scores=[1.0], p_safe=[1.0])
            case "long":
                return Ranking.from_scores(scores=[1.0] * (n + 1), p_safe=[1.0] * (n + 1))
            case "none_ranking":
                return None
            case "wrong_order":
                return Ranking.model_construct(
                    order=(n,) * n, scores=(1.0,) * n, p_safe=(1.0,) * n, p_help=None
                )
            case "cancels":
                raise asyncio.CancelledError
        # listwise scores at random: a high place in the list must not stand in for safety
        return Ranking.from_scores(scores=[self.random.random() for _ in p_safe], p_safe=p_safe)

    def score(self, conversation, candidates):
        return asyncio.run(self.ascore(conversation, candidates))


def policies(chance: random.Random) -> tuple[SamplingPolicy, DecisionPolicy]:
    """Any way of sampling; what may be passed on is as by default, but for the taste."""
    n = chance.randint(1, 5)
    initial = chance.randint(1, n)
    sampling = SamplingPolicy(
        n=n,
        initial=initial,
        accept_at=chance.choice([None, 0.0, 0.3, 0.9]),
        min_candidates=chance.randint(1, initial),
        attempts=chance.randint(1, 2),
        backoff=0.0,
    )
    prefer = chance.choice(["best", "safest", "first", lambda safe: safe[-1]])
    return sampling, DecisionPolicy(prefer=prefer)


def check(output: str, prompt: str, ends: collections.Counter[str]) -> None:
    if output == DEFAULT_REFUSAL:
        ends["refused"] += 1
        return
    p_safe, of, asked = output.split(maxsplit=3)[:3]
    assert of == "for"
    assert asked == prompt, "another request's answer"
    assert float(p_safe) >= DecisionPolicy().threshold, "below the threshold"
    ends["passed on, safe"] += 1


@pytest.mark.may_block  # 64 requests at a time on a busy machine
async def test_ten_thousand_randomised_runs(limits):
    chance = random.Random(2025)
    chaos = Chaos(seed=11, limits=limits)
    ends: collections.Counter[str] = collections.Counter()

    async def run(i: int) -> None:
        sampling, decision = policies(chance)
        guard = SafetyRanker(chaos.answer, scorer=chaos, sampling=sampling, decision=decision)
        prompt = f"prompt-{i}"
        limits.new_request()
        try:
            output = await guard.ainvoke(prompt)
        except (SamplingError, ScorerError) as error:
            ends[type(error).__name__] += 1
        else:
            check(output, prompt, ends)
        assert guard.bypasses == 0

    numbers = iter(range(RUNS))

    async def client() -> None:
        for i in numbers:
            await run(i)

    await asyncio.gather(*(client() for _ in range(64)))
    print(f"\n{RUNS} runs ended: {dict(ends.most_common())}")  # noqa: T201 (shown with -s)
    print(f"what was done to them: {dict(chaos.done.most_common())}")  # noqa: T201
    assert sum(ends.values()) == RUNS
    assert ends["passed on, safe"] > RUNS / 5
    assert min(chaos.done.values()) > 10, "each fault must have been met"


def test_sync_front_under_the_same_faults(limits):
    chaos, chance = Chaos(seed=5, limits=limits), random.Random(6)
    ends: collections.Counter[str] = collections.Counter()
    for i in range(300):
        sampling, decision = policies(chance)
        limits.new_request()
        guarded = srr_guard(scorer=chaos, sampling=sampling, decision=decision)(
            lambda prompt: asyncio.run(chaos.answer(prompt))
        )
        try:
            check(guarded(f"prompt-{i}"), f"prompt-{i}", ends)
        except (SamplingError, ScorerError) as error:
            ends[type(error).__name__] += 1
        assert guarded.bypasses == 0
    print(f"\n300 sync runs ended: {dict(ends.most_common())}")  # noqa: T201
    assert ends["passed on, safe"] > 60


def test_the_check_can_fail():
    """A bypass that is switched on is seen: the suite would notice an answer that slips out."""
    guard = SafetyRanker(
        lambda prompt: f"0.100 for {prompt}",
        scorer=FakeScorer(lambda prompt, text: 0.1),
        decision=DecisionPolicy(below_threshold="pass"),
    )
    with pytest.raises(AssertionError, match="below the threshold"):
        check(guard.invoke("p"), "p", collections.Counter())
