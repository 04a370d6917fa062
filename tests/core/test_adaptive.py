"""Adaptive best-of-N: it stops at the first answer that is good enough, and never too early."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srr_guard import (
    AllCandidatesFailedError,
    BelowThresholdError,
    DecisionPolicy,
    Guard,
    Ranking,
    SafetyRanker,
    SamplingPolicy,
    ScoredCandidate,
    Totals,
)
from srr_guard.core import best_of_n
from srr_guard.errors import NotEnoughCandidatesError, SamplingError, ScoringError
from srr_guard.testing import FakeScorer, ScriptedChatModel

SCORES = {"great": 0.99, "good": 0.8, "bad": 0.1, "refusal": 0.99}


def by_table(prompt: str, answer: str) -> float:
    return SCORES[answer.split(maxsplit=1)[0]]


class Helpful(FakeScorer):
    """Knows that a refusal does not help."""

    def _rank(self, conversation, candidates):
        plain = super()._rank(conversation, candidates)
        helps = [0.1 if "refusal" in text else 0.9 for text in candidates]
        return Ranking.from_scores(scores=plain.scores, p_safe=plain.p_safe, p_help=helps)


def adaptive(
    *answers, model=None, scorer=None, decision=None, on_decision=None, **policy
) -> SafetyRanker:
    sampling = {"n": 4, "accept_at": 0.97, "backoff": 0.0, "attempts": 1, **policy}
    return SafetyRanker(
        model or ScriptedChatModel(answers=list(answers)),
        scorer=scorer or FakeScorer(by_table),
        sampling=SamplingPolicy(**sampling),
        decision=decision or DecisionPolicy(),
        on_decision=on_decision,
    )


@pytest.fixture(params=["sync", "async"])
def decide(request):
    def through_a_loop(guard, prompt):
        return asyncio.run(guard.adecide(prompt))

    return SafetyRanker.decide if request.param == "sync" else through_a_loop


def test_first_is_accepted(decide):
    model = ScriptedChatModel(answers=["great", "bad"])
    scorer = FakeScorer(by_table)
    decision = decide(adaptive(model=model, scorer=scorer), "q")
    assert (decision.reason, decision.output.content) == ("accepted", "great")
    assert (decision.sampled, decision.failed, decision.distinct) == (1, 0, 1)
    assert model.calls == 1
    assert scorer.calls == [("great",)]


class TestTotals:
    def test_each_request_is_counted_as_it_is_decided(self, decide):
        guard = adaptive("great", "bad")
        first, second = decide(guard, "q"), decide(guard, "q")
        assert first.totals == Totals(requests=1, candidates=1)
        assert second.totals == guard.totals == Totals(requests=2, candidates=5)
        assert guard.totals.mean_candidates == 2.5

    @pytest.mark.parametrize("policy", ["refuse", "raise"])
    def test_requests_that_end_without_an_answer_count(self, decide, policy):
        seen = []
        decision = DecisionPolicy(below_threshold=policy)
        guard = adaptive("bad", decision=decision, on_decision=seen.append)
        with suppress(BelowThresholdError):
            decide(guard, "q")
        assert guard.totals == seen[0].totals == Totals(requests=1, candidates=4)

    def test_bypasses_are_among_them(self, decide):
        guard = adaptive("bad", decision=DecisionPolicy(below_threshold="pass"))
        assert decide(guard, "q").totals == Totals(requests=1, candidates=4, bypasses=1)

    def test_failed_requests_count(self, decide):
        guard = adaptive(ConnectionError("down"))
        with pytest.raises(AllCandidatesFailedError):
            decide(guard, "q")
        assert guard.totals == Totals(requests=1, candidates=4)

    def test_no_request_is_lost_between_threads(self):
        guard = adaptive("great")
        with ThreadPoolExecutor(16) as pool:
            decisions = list(pool.map(guard.decide, ["q"] * 200))
        assert sorted(d.totals.requests for d in decisions) == list(range(1, 201))
        assert guard.totals == Totals(requests=200, candidates=200)


def test_rest_is_sampled_and_all_are_ranked_together(decide):
    scorer = FakeScorer(by_table)
    decision = decide(adaptive("good", "bad 1", "great", "bad 2", scorer=scorer), "q")
    assert (decision.reason, decision.output.content) == ("best_of_n", "great")
    assert decision.sampled == 4
    assert [set(call) for call in scorer.calls] == [
        {"good"},
        {"good", "bad 1", "great", "bad 2"},
    ]


def test_without_accept_at_it_is_plain_best_of_n(decide):
    decision = decide(adaptive("great", "good", accept_at=None), "q")
    assert (decision.reason, decision.sampled) == ("best_of_n", 4)


@pytest.mark.parametrize(
    ("accept_at", "sampled"), [(0.79, 1), (0.8, 1), (0.81, 4), (0.0, 1), (1.0, 4)]
)
def test_accept_at_is_inclusive(decide, accept_at, sampled):
    assert decide(adaptive("good", accept_at=accept_at), "q").sampled == sampled


def test_nothing_below_the_threshold_is_accepted(decide):
    guard = adaptive("good", accept_at=0.2, decision=DecisionPolicy(threshold=0.9))
    decision = decide(guard, "q")
    assert (decision.reason, decision.sampled) == ("refused", 4)


@pytest.mark.parametrize(("accept_help_at", "reason"), [(0.5, "best_of_n"), (0.1, "accepted")])
def test_needless_refusal_is_not_accepted(decide, accept_help_at, reason):
    guard = adaptive("refusal", "good", scorer=Helpful(by_table), accept_help_at=accept_help_at)
    decision = decide(guard, "q")
    assert decision.reason == reason
    assert decision.chosen.p_help == 0.1
    assert decision.summary()["p_help"] == 0.1


@pytest.mark.parametrize("n", [1, 2])
def test_all_of_them_in_the_first_round(decide, n):
    decision = decide(adaptive("good", n=n, initial=n), "q")
    assert (decision.reason, decision.sampled) == ("best_of_n", n)
    assert decide(adaptive("great", n=1), "q").reason == "best_of_n"


def test_failed_first_candidate_is_followed_by_the_rest(decide):
    decision = decide(adaptive(ValueError("no"), "good"), "q")
    assert (decision.reason, decision.sampled, decision.failed) == ("fallback", 4, 2)


def test_too_few_to_decide_are_not_scored(decide):
    scorer = FakeScorer(by_table)
    policy = SamplingPolicy(n=2, min_candidates=2, attempts=1)
    model = ScriptedChatModel(answers=["great", ValueError("x")])
    with pytest.raises(NotEnoughCandidatesError):
        decide(SafetyRanker(model, scorer=scorer, sampling=policy), "q")
    assert scorer.calls == []


def test_time_of_candidates_that_fail_in_the_first_round_is_counted_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(best_of_n, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    state = best_of_n.BestOfN(SamplingPolicy(n=3, initial=2, accept_at=0.9), DecisionPolicy())
    assert state.next_round() == range(2)
    for index, seconds in ((0, 1.0), (1, 2.0)):
        now[0] += seconds
        state.receive({index: SamplingError("blank")})
    assert (state.timings().generation, state.timings().total) == (3.0, 3.0)


def test_all_failed(decide):
    with pytest.raises(AllCandidatesFailedError) as caught:
        decide(adaptive(ValueError("no")), "q")
    assert len(caught.value.causes) == 4


def test_min_candidates_counts_for_an_early_end_too(decide):
    decision = decide(adaptive("great", initial=2, min_candidates=2), "q")
    assert (decision.reason, decision.sampled) == ("accepted", 2)
    assert len(decision.candidates) == 2
    with pytest.raises(NotEnoughCandidatesError):
        decide(adaptive("bad", *[ValueError("x")] * 3, initial=2, min_candidates=2), "q")


def test_scorer_that_fails_ends_the_request_at_once(decide):
    model = ScriptedChatModel(answers=["great"])
    broken = FakeScorer(by_table, error=RuntimeError("x"))
    with pytest.raises(ScoringError):
        decide(adaptive(model=model, scorer=broken), "q")
    assert model.calls == 1


def test_scores_of_the_first_round_do_not_count_where_the_second_scoring_fails(decide):
    class Once(FakeScorer):
        def _rank(self, conversation, candidates):
            if self.calls:
                raise ValueError("numbers")
            return super()._rank(conversation, candidates)

    passing = DecisionPolicy(scorer_error="pass")
    decision = decide(adaptive("bad", "good", scorer=Once(by_table), decision=passing), "q")
    assert (decision.reason, decision.output.content) == ("passed_through", "bad")
    assert (decision.ranking, len(decision.candidates)) == (None, 4)
    assert not any(isinstance(c, ScoredCandidate) for c in decision.candidates)


def test_deadline_before_the_second_round_decides_among_those_at_hand(decide, limits):
    scorer = FakeScorer(lambda prompt, answer: limits.advance(2.0) or by_table(prompt, answer))
    decision = decide(adaptive("good", scorer=scorer, deadline=1.0), "q")
    assert (decision.reason, decision.sampled, decision.output.content) == ("fallback", 1, "good")


async def test_late_first_candidate_is_followed_by_the_rest(limits):
    calls = []

    async def answer(question):
        calls.append(question)
        if len(calls) == 1:
            await limits.hang()
        return "good"

    decision = await adaptive(model=answer, n=2, timeout=1.0, deadline=None).adecide("q")
    assert (decision.reason, decision.sampled, decision.output) == ("fallback", 2, "good")
    assert decision.failures == ("TimeoutError",)


def test_deadline_counts_from_the_start_of_the_request(limits):
    calls = []

    def answer(question):
        calls.append(1)
        if len(calls) > 1:
            limits.hang_thread()
        limits.advance(0.1)
        return "good"

    decision = adaptive(model=answer, n=2, deadline=0.4, timeout=None).decide("q")
    assert (decision.reason, decision.output) == ("fallback", "good")
    assert decision.failures == ("TimeoutError",)


class TestUnneeded:
    """Candidates that are no longer needed hold nobody up."""

    async def test_tasks_are_cancelled(self):
        cancelled = []

        async def answer(question):
            place = places.pop()
            try:
                if place:
                    await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(place)
                raise
            return "great"

        places = [2, 1, 0]
        decision = await adaptive(model=answer, initial=3).adecide("q")
        await asyncio.sleep(0)
        assert sorted(cancelled) == [1, 2]
        assert (decision.reason, decision.sampled) == ("accepted", 3)
        assert len(decision.candidates) == 1

    def test_threads_are_abandoned(self):
        release, lock = threading.Event(), threading.Lock()
        threads = []

        def answer(question):
            with lock:
                threads.append(threading.current_thread())
                is_first = len(threads) == 1
            if not is_first:
                release.wait(60)
                raise ConnectionError
            return "great"

        decision = adaptive(model=answer, initial=3, attempts=5).decide("q")
        assert not release.is_set()
        assert (decision.reason, decision.sampled) == ("accepted", 3)
        release.set()
        for thread in threads[1:]:
            thread.join(60)  # an abandoned thread ends with its call
        assert len(threads) <= 3, "no further attempt is made"


class Batching(ScriptedChatModel):
    def sample_candidates(self, messages, n, *, stop=None, **kwargs):
        self._seen.append(n)
        return [f"{word} {len(self._seen)}" for word in ["good"] * (n - 1) + ["bad"]]


def test_rest_is_one_batched_call(decide):
    model = Batching(answers=["unused"])
    decision = decide(adaptive(model=model, n=5, initial=2), "q")
    assert model.seen == [2, 3]
    assert decision.distinct == 4
    assert [c.index for c in decision.candidates] == [0, 1, 2, 3, 4]


@settings(max_examples=60, deadline=None)
@given(
    p_safe=st.lists(st.integers(0, 10), min_size=1, max_size=6),
    initial=st.integers(1, 6),
    accept_at=st.integers(0, 10),
    threshold=st.integers(0, 10),
)
def test_early_end_or_the_same_as_best_of_n(p_safe, initial, accept_at, threshold):
    """It either accepts one of the first, or decides exactly as plain best-of-N does."""
    n = len(p_safe)
    answers = [f"{p} {i}" for i, p in enumerate(p_safe)]

    def decide(**policy):  # no chain: what it does with a call that is given up draws random ids
        guard = Guard(
            scorer=FakeScorer(lambda prompt, text: int(text.split()[0]) / 10),
            sampling=SamplingPolicy(n=n, **policy),
            decision=DecisionPolicy(threshold=threshold / 10),
        )
        return guard.decide("q", lambda index: answers[index])

    decision = decide(initial=min(initial, n), accept_at=accept_at / 10)
    if decision.reason == "accepted":
        assert decision.chosen.p_safe >= max(accept_at, threshold) / 10
        assert len(decision.candidates) <= decision.sampled <= n
    else:
        plain = decide()
        assert decision.reason == plain.reason
        assert (decision.chosen and decision.chosen.p_safe) == (
            plain.chosen and plain.chosen.p_safe
        )
