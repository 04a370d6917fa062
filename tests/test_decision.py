"""Rankings and decisions: invariants, round trips, and no text where none belongs."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from srr_guard.decision import Candidate, Decision, Ranking, ScoredCandidate, Timings, Totals

probability = st.floats(0.0, 1.0)
score = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(score, probability), min_size=1, max_size=12))
def test_ranking_orders_by_score_and_keeps_ties_in_place(pairs):
    scores, p_safe = zip(*pairs, strict=True)
    ranking = Ranking.from_scores(scores=scores, p_safe=p_safe)
    assert sorted(ranking.order) == list(range(len(pairs)))
    for before, after in zip(ranking.order, ranking.order[1:], strict=False):
        assert (scores[before], -before) > (scores[after], -after)
    assert ranking.best == ranking.order[0]
    assert len(ranking) == len(pairs)
    assert Ranking.model_validate_json(ranking.model_dump_json()) == ranking


@given(st.permutations(range(6)))
def test_permuting_candidates_permutes_the_ranking(permutation):
    scores = [0.5, 2.0, -1.0, 3.5, 0.0, 1.0]
    plain = Ranking.from_scores(scores=scores, p_safe=[0.5] * 6)
    moved = Ranking.from_scores(scores=[scores[i] for i in permutation], p_safe=[0.5] * 6)
    assert [permutation[i] for i in moved.order] == list(plain.order)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_unusable_scores(bad):
    with pytest.raises(ValidationError, match="finite"):
        Ranking.from_scores(scores=[0.0, bad], p_safe=[0.5, 0.5])


@pytest.mark.parametrize("bad", [math.nan, -0.01, 1.01, math.inf])
def test_unusable_p_safe(bad):
    with pytest.raises(ValidationError, match="p_safe"):
        Ranking.from_scores(scores=[0.0, 1.0], p_safe=[0.5, bad])


def test_malformed_rankings():
    with pytest.raises(ValidationError, match="at least one"):
        Ranking.from_scores(scores=[], p_safe=[])
    with pytest.raises(ValidationError, match="disagree"):
        Ranking(order=(0, 0), scores=(1.0, 2.0), p_safe=(0.5, 0.5))
    with pytest.raises(ValidationError, match="disagree"):
        Ranking.from_scores(scores=[1.0, 2.0], p_safe=[0.5])


def test_p_help_is_optional_and_checked():
    ranking = Ranking.from_scores(scores=[0.0, 1.0], p_safe=[0.5, 0.5], p_help=[0.1, 0.9])
    assert Ranking.model_validate_json(ranking.model_dump_json()) == ranking
    assert Ranking.from_scores(scores=[0.0], p_safe=[0.5]).p_help is None
    for bad in ([0.5], [0.5, math.nan], [0.5, 1.5]):
        with pytest.raises(ValidationError, match="p_help"):
            Ranking.from_scores(scores=[0.0, 1.0], p_safe=[0.5, 0.5], p_help=bad)


def test_verdicts_come_from_the_bounds():
    ranking = Ranking.from_scores(
        scores=[0.0, 1.0, 2.0, 3.0], p_safe=[0.1, 0.2, 0.79, 0.8], bounds=(0.2, 0.8)
    )
    assert ranking.verdicts == ("hold", "uncertain", "uncertain", "pass")
    assert Ranking.from_scores(scores=[0.0], p_safe=[0.5]).verdicts is None


@pytest.mark.parametrize("bad", [(0.8, 0.2), (-0.1, 0.5), (0.5, 1.1), (math.nan, 0.5)])
def test_unusable_bounds(bad):
    with pytest.raises(ValidationError, match="bounds"):
        Ranking.from_scores(scores=[0.0], p_safe=[0.5], bounds=bad)


@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.1])
def test_unusable_familiarity(bad):
    with pytest.raises(ValidationError, match="familiarity"):
        Ranking.from_scores(scores=[0.0], p_safe=[0.5], familiarity=bad)


@given(st.lists(st.tuples(score, probability), min_size=1, max_size=6), st.data())
def test_taking_candidates_keeps_their_scores_and_order(pairs, data):
    scores, p_safe = zip(*pairs, strict=True)
    ranking = Ranking.from_scores(
        scores=scores, p_safe=p_safe, p_refusal=p_safe, bounds=(0.1, 0.9), familiarity=0.3
    )
    at = data.draw(st.lists(st.sampled_from(range(len(pairs))), min_size=1, max_size=8))
    taken = ranking.take(at)
    assert [taken.scores[k] for k in taken.order] == sorted(taken.scores, reverse=True)
    assert taken.p_safe == taken.p_refusal == tuple(p_safe[i] for i in at)
    assert (taken.bounds, taken.familiarity) == ((0.1, 0.9), 0.3)
    assert taken.marks(0) == ranking.marks(at[0])


def test_one_more_below_all_others():
    ranking = Ranking.from_scores(scores=[1.0, -2.0], p_safe=[0.9, 0.8], p_help=[0.5, 0.6])
    lowest = ranking.with_lowest()
    assert (lowest.order, lowest.p_safe[2], lowest.p_refusal) == ((0, 1, 2), 0.0, None)
    assert lowest.scores[2] < min(ranking.scores)


def decision(**changes) -> Decision:
    chosen = ScoredCandidate(index=1, text="the secret", output=object(), score=2.0, p_safe=0.9)
    values = {
        "reason": "best_of_n",
        "chosen": chosen,
        "candidates": (chosen,),
        "ranking": Ranking.from_scores(scores=[2.0], p_safe=[0.9]),
        "sampled": 2,
        "failed": 1,
        "distinct": 1,
        "failures": ("ValueError",),
        "timings": Timings(generation=1.0, scoring=0.5, overhead=0.25),
        "totals": Totals(requests=3, candidates=6, bypasses=1),
        "output": "the secret",
    }
    return Decision(**{**values, **changes})


def test_summary_is_json_without_text():
    text = json.dumps(decision().summary())
    assert "secret" not in text
    assert json.loads(text)["p_safe"] == 0.9
    assert json.loads(text)["timings"]["scoring"] == 0.5


def test_summary_of_a_refusal_and_of_an_unscored_answer():
    assert decision(reason="refused", chosen=None).summary()["chosen"] is None
    unscored = decision(chosen=Candidate(index=0, text="x")).summary()
    assert (unscored["chosen"], unscored["p_safe"]) == (0, None)


def test_decision_round_trips_without_outputs():
    original = decision()
    restored = Decision.model_validate_json(original.model_dump_json())
    assert restored.chosen.text == "the secret"
    assert restored.output is None
    assert restored.summary() == original.summary()
    assert restored.totals == original.totals


def test_results_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        decision().reason = "accepted"


def test_timings_total():
    assert Timings(generation=1.0, scoring=0.5, overhead=0.25).total == 1.75


def test_mean_candidates():
    assert Totals(requests=4, candidates=5).mean_candidates == 1.25
    assert Totals().mean_candidates == 0.0
