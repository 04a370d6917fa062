"""The decision rule: which of the answers that may be passed on is passed on."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srr_guard import DecisionPolicy, Ranking, SafetyRanker, SamplingPolicy, ScoredCandidate
from srr_guard.core.best_of_n import BestOfN
from srr_guard.decision import Candidate
from srr_guard.errors import ConfigurationError, ScoringError
from srr_guard.policy import DEFAULT_REFUSAL
from srr_guard.testing import FakeScorer, ScriptedChatModel

# text: (listwise score, p_safe)
TABLE = {"a": (1.0, 0.7), "b": (3.0, 0.1), "c": (2.0, 0.8), "d": (1.5, 0.95)}


class Table(FakeScorer):
    def __init__(self, *, familiarity: float | None = None) -> None:
        super().__init__(lambda prompt, answer: 0.0)
        self.familiarity = familiarity

    def _rank(self, conversation, candidates):
        scores, p_safe = zip(*(TABLE[text] for text in candidates), strict=True)
        return Ranking.from_scores(scores=scores, p_safe=p_safe, familiarity=self.familiarity)


@pytest.fixture(params=["sync", "async"])
def decide(request):
    def decide(policy, answers="abcd", scorer=None):
        guard = SafetyRanker(
            ScriptedChatModel(answers=list(answers)),
            scorer=scorer or Table(),
            sampling=SamplingPolicy(n=len(answers)),
            decision=policy,
        )
        return guard.decide("q") if request.param == "sync" else asyncio.run(guard.adecide("q"))

    return decide


@pytest.mark.parametrize(
    ("prefer", "chosen"),
    [
        ("best", "c"),
        ("safest", "d"),
        (lambda safe: safe[-1], "a"),
        (lambda safe: min(safe, key=lambda c: c.p_safe).index, "a"),
    ],
)
def test_prefer(decide, prefer, chosen):
    decision = decide(DecisionPolicy(prefer=prefer))
    assert (decision.output.content, decision.reason) == (chosen, "best_of_n")


@pytest.mark.parametrize(
    ("familiarity", "least", "chosen"),
    [(0.04, 0.05, "d"), (0.05, 0.05, "c"), (0.0, 0.0, "c"), (None, 1.0, "c")],
)
def test_the_safest_where_the_request_is_unfamiliar(decide, familiarity, least, chosen):
    policy = DecisionPolicy(min_familiarity=least)
    decision = decide(policy, scorer=Table(familiarity=familiarity))
    assert decision.output.content == chosen
    assert decision.summary()["familiarity"] == familiarity
    policy = DecisionPolicy(min_familiarity=least, prefer="first")
    assert_first(decide(policy, scorer=Table(familiarity=familiarity)))


def test_prefer_first(decide):
    assert_first(decide(DecisionPolicy(prefer="first")))


def assert_first(decision):
    """Which answer the first candidate has is chance."""
    assert decision.chosen.index == min(c.index for c in decision.candidates if c.p_safe >= 0.5)


def test_function_sees_only_those_above_the_threshold_best_first(decide):
    seen = []
    decide(DecisionPolicy(threshold=0.75, prefer=lambda safe: seen.append(safe) or safe[0]))
    assert [c.text for c in seen[0]] == ["c", "d"]
    assert all(isinstance(c, ScoredCandidate) for c in seen[0])


@pytest.mark.parametrize("choice", [None, "text", 17, Candidate(index=0, text="a")])
def test_function_that_chooses_none_of_them(decide, choice):
    with pytest.raises(ConfigurationError, match="must return one of the candidates"):
        decide(DecisionPolicy(prefer=lambda safe: choice))


def test_function_cannot_choose_what_is_below_the_threshold():
    policy = DecisionPolicy(threshold=0.75, prefer=lambda safe: 0)
    with pytest.raises(ConfigurationError, match=r"here one of \[1\]"):
        choose(policy, [0.1, 0.9])


def test_errors_of_the_function_reach_the_caller(decide):
    with pytest.raises(ZeroDivisionError):
        decide(DecisionPolicy(prefer=lambda safe: 1 // 0))


def test_function_is_not_asked_when_nothing_may_be_passed_on(decide):
    policy = DecisionPolicy(threshold=1.0, prefer=lambda safe: pytest.fail("asked"))
    assert decide(policy).output.content == DEFAULT_REFUSAL


def choose(policy: DecisionPolicy, p_safe, scores=None) -> ScoredCandidate | None:
    """The rule itself, without any sampling."""
    state = BestOfN(SamplingPolicy(n=len(p_safe)), policy)
    state.next_round()
    state.receive({i: Candidate(index=i, text=str(i)) for i in range(len(p_safe))})
    state.take(Ranking.from_scores(scores=scores or p_safe, p_safe=p_safe))
    safe = state.eligible()
    return state.choose(safe) if safe else None


unit = st.floats(0.0, 1.0)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(-5, 5), unit), min_size=1, max_size=10),
    threshold=unit,
    prefer=st.sampled_from(["best", "safest", "first", min, max]),
)
def test_rule(rows, threshold, prefer):
    scores, p_safe = (list(column) for column in zip(*rows, strict=True))
    pick = prefer
    if callable(prefer):
        pick = lambda safe: prefer(safe, key=lambda c: c.score)  # noqa: E731
    chosen = choose(DecisionPolicy(threshold=threshold, prefer=pick), p_safe, scores)
    safe = [i for i, p in enumerate(p_safe) if p >= threshold]
    if not safe:
        assert chosen is None
        return
    assert chosen.index in safe
    match prefer:
        case "best":
            assert chosen.score == max(scores[i] for i in safe)
        case "safest":
            assert chosen.p_safe == max(p_safe)
        case "first":
            assert chosen.index == safe[0]
        case _:
            assert chosen.score == prefer(scores[i] for i in safe)


class Hanging:
    """A scorer that never answers."""

    def __init__(self, limits) -> None:
        self._limits = limits

    def score(self, conversation, candidates):
        self._limits.hang_thread("scorer")

    async def ascore(self, conversation, candidates):
        await self._limits.hang("scorer")


class TestScoringTimeout:
    def guard(self, scorer, **policy):
        return SafetyRanker(
            ScriptedChatModel(answers=["good"]),
            scorer=scorer,
            sampling=SamplingPolicy(n=1),
            decision=DecisionPolicy(**policy),
        )

    def test_default_fails_closed(self, decide, limits):
        with pytest.raises(ScoringError, match=r"scoring_timeout=7\.5 s"):
            decide(DecisionPolicy(scoring_timeout=7.5), scorer=Hanging(limits))

    def test_refuse(self, decide, limits):
        policy = DecisionPolicy(scoring_timeout=7.5, scorer_error="refuse")
        assert decide(policy, scorer=Hanging(limits)).output.content == DEFAULT_REFUSAL

    def test_none_waits(self, decide):
        slow = FakeScorer(lambda prompt, answer: 1.0, delay=0.1)
        assert decide(DecisionPolicy(scoring_timeout=None), scorer=slow).reason == "best_of_n"

    def test_timeout_of_the_scorer_itself_is_a_failure_like_any_other(self, decide):
        own = FakeScorer(lambda prompt, answer: 1.0, error=TimeoutError("socket"))
        with pytest.raises(ScoringError, match="failed with TimeoutError"):
            decide(DecisionPolicy(), scorer=own)

    def test_scorer_that_cancels_itself_is_a_failure(self, decide):
        class Cancelling(Table):
            def _rank(self, conversation, candidates):
                raise asyncio.CancelledError

        with pytest.raises(ScoringError, match="cancelled from inside"):
            decide(DecisionPolicy(), scorer=Cancelling())

    async def test_cancelled_caller_cancels_the_scoring(self):
        begun, state = asyncio.Event(), []

        class Slow(FakeScorer):
            async def ascore(self, conversation, candidates):
                begun.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    state.append("cancelled")
                    raise

        task = asyncio.create_task(self.guard(Slow(lambda p, a: 1.0)).ainvoke("q"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert state == ["cancelled"]

    async def test_scorer_that_ignores_its_cancellation(self, limits):
        release, ended = asyncio.Event(), []

        class Stubborn(FakeScorer):
            async def ascore(self, conversation, candidates):
                try:
                    await limits.hang("scorer")
                except asyncio.CancelledError:
                    await release.wait()
                ended.append("late")
                return Ranking.from_scores(scores=[1.0], p_safe=[1.0])

        with pytest.raises(ScoringError):
            await self.guard(Stubborn(lambda p, a: 1.0)).ainvoke("q")
        assert ended == []
        release.set()
        while not ended:
            await asyncio.sleep(0)


async def choose_later(safe):
    return safe[0]


def choose_in_pieces(safe):
    yield safe[0]


@pytest.mark.parametrize(("prefer", "kind"), [(choose_later, "async"), (choose_in_pieces, "gen")])
def test_functions_that_return_no_choice_are_refused_at_once(prefer, kind):
    with pytest.raises(ConfigurationError, match=f"prefer=.*cannot be used, it is .*{kind}"):
        DecisionPolicy(prefer=prefer)


def test_true_is_no_index():
    policy = DecisionPolicy(prefer=lambda candidates: True)
    model = ScriptedChatModel(answers=["a", "c"])
    ranker = SafetyRanker(model, scorer=Table(), sampling=SamplingPolicy(n=2), decision=policy)
    with pytest.raises(ConfigurationError, match="returned 'bool'"):
        ranker.invoke("q")
