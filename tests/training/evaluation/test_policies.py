"""What leaves the guard from lists of stored answers, by hand and as `Guard` decides."""

from __future__ import annotations

import random

import pytest
import torch
from rows import labelled

from srr_guard import DecisionPolicy, Guard, Ranking
from srr_guard.training.data import LabelledResponse
from srr_guard.training.evaluation.baselines import baseline_scores
from srr_guard.training.evaluation.policies import (
    DrawnList,
    best,
    draw_lists,
    policy_figures,
    policy_values,
    safest,
)

ROWS = [LabelledResponse(**row) for row in labelled(20)]
TRUTH = torch.tensor([float(row.safe) for row in ROWS])


def shares(rows: list[LabelledResponse], choices, lists, n: int = 4, mix: str = "natural"):  # type: ignore[no-untyped-def]
    for found in policy_figures(policy_values(rows, lists, choices)):
        if (found.n, found.mix) == (n, mix):
            return {metric: figure.value for metric, figure in found.figures.items()}
    return None


def scores_of(values: torch.Tensor):  # type: ignore[no-untyped-def]
    return lambda indices: values[list(indices)]


def test_lists_hold_answers_of_one_goal_each_once() -> None:
    lists = draw_lists(ROWS)
    assert lists == draw_lists(ROWS)
    assert lists != draw_lists(ROWS, seed=1)
    assert {(d.n, d.mix) for d in lists} == {(n, m) for n in (4, 8) for m in ("natural", "mixed")}
    for drawn in lists:
        assert len(set(drawn.members)) == len(drawn.members) >= 2
        assert {ROWS[i].goal_id for i in drawn.members} == {drawn.goal}
        own = sum(row.goal_id == drawn.goal for row in ROWS)
        assert len(drawn.members) == min(drawn.n, own)
        if drawn.mix == "mixed":
            labels = {ROWS[i].safe for i in drawn.members}
            assert len(labels) == 2 or {ROWS[i].helps for i in drawn.members} == {True, False}


def test_goals_without_a_choice_give_no_lists() -> None:
    lone = [LabelledResponse(prompt=f"q{i}", response="a", label="safe") for i in range(5)]
    assert draw_lists(lone) == []
    assert draw_lists([]) == []
    ranked = [
        LabelledResponse(prompt="q", response=str(i), label="safe", label_conf="preference")
        for i in range(5)
    ]
    assert draw_lists(ranked) == []
    alike = [LabelledResponse(prompt="q", response=str(i), label="unsafe") for i in range(3)]
    assert {d.mix for d in draw_lists(alike)} == {"natural"}


def test_a_perfect_scorer_passes_no_harm_and_every_help() -> None:
    lists = draw_lists(ROWS)
    worth = torch.tensor([float(r.safe) - 0.5 * (r.helps is False) for r in ROWS])
    for mix in ("natural", "mixed"):
        found = shares(ROWS, best(lists, scores_of(worth), TRUTH), lists, mix=mix)
        assert found["harm_passed"] == 0.0
        assert found["needless_refusals"] == 0.0
        assert found["help_passed"] == 1.0
    natural = shares(ROWS, best(lists, scores_of(worth), TRUTH), lists)
    assert natural is not None
    drawn = [d.members for d in lists if (d.n, d.mix) == (4, "natural")]
    assert any(not TRUTH[[*members]].any() for members in drawn)  # all four are unsafe
    assert natural["guard_refusals"] > 0.0
    assert (
        shares(ROWS, best(lists, scores_of(worth), TRUTH), lists, mix="mixed")["guard_refusals"]
        == 0.0
    )


def test_by_hand() -> None:
    def row(text: str, label: str, kind: str) -> LabelledResponse:
        return LabelledResponse(prompt="q", response=text, label=label, kind=kind)

    rows = [
        row("a", "unsafe", "compliance"),
        row("b", "safe", "benign-help"),
        row("c", "safe", "over-refusal"),
    ]
    lists = [DrawnList(4, "natural", "g", (0, 1, 2))]

    def found(scores: list[float], p_safe: list[float] | None) -> dict[str, float] | None:
        p = None if p_safe is None else torch.tensor(p_safe)
        return shares(rows, best(lists, scores_of(torch.tensor(scores)), p), lists)

    harm = {"harm_passed": 1.0, "needless_refusals": 0.0, "help_passed": 0.0, "guard_refusals": 0.0}
    assert found([3, 2, 1], [0.9, 0.9, 0.9]) == harm
    assert found([3, 2, 1], None) == harm
    help_ = {**harm, "harm_passed": 0.0, "help_passed": 1.0}
    assert found([3, 2, 1], [0.4, 0.9, 0.9]) == help_
    assert found([3, 2, 1], [0.4, 0.5, 0.9]) == help_  # the threshold itself is enough
    refusal = {**help_, "help_passed": 0.0, "needless_refusals": 1.0}
    assert found([3, 2, 1], [0.4, 0.4, 0.9]) == refusal  # one that was chosen
    assert found([3, 2, 1], [0.4, 0.4, 0.4]) == {**refusal, "guard_refusals": 1.0}  # its own
    tied = found([1, 1, 1], None)
    assert tied == pytest.approx(
        {
            "harm_passed": 1 / 3,
            "needless_refusals": 1 / 3,
            "help_passed": 1 / 3,
            "guard_refusals": 0.0,
        }
    )


def test_what_the_rows_cannot_show_is_left_out() -> None:
    rows = [LabelledResponse(prompt="q", response=str(i), label="safe") for i in range(4)]
    lists = draw_lists(rows)
    found = shares(rows, best(lists, scores_of(torch.zeros(4))), lists)
    assert found == {"guard_refusals": 0.0}
    assert policy_figures(policy_values([], [], [])) == ()


def test_rules_without_a_threshold_never_refuse_and_random_equals_first() -> None:
    lists = draw_lists(ROWS)
    found = {
        name: shares(ROWS, best(lists, scores), lists, mix="mixed")
        for name, scores in baseline_scores(ROWS).items()
    }
    assert all(values["guard_refusals"] == 0.0 for values in found.values())
    assert found["oracle"]["harm_passed"] == 0.0
    assert found["refusal words"]["needless_refusals"] == 1.0
    assert found["refusal words"]["harm_passed"] < found["random"]["harm_passed"]
    assert found["first"]["harm_passed"] == pytest.approx(found["random"]["harm_passed"], abs=0.1)


class Stored:
    """A scorer that knows its scores."""

    def __init__(self, scores: list[float], p_safe: list[float]) -> None:
        self.ranking = Ranking.from_scores(scores=scores, p_safe=p_safe)

    def score(self, conversation: object, candidates: object) -> Ranking:
        return self.ranking

    async def ascore(self, conversation: object, candidates: object) -> Ranking:
        return self.ranking


@pytest.mark.parametrize("prefer", ["best", "safest"])
def test_the_rules_decide_as_the_guard_does(prefer: str) -> None:
    rng = random.Random(3)
    refused = 0
    for _ in range(200):
        n = rng.randint(2, 8)
        scores = [rng.choice([0.0, 1.0, 2.0]) + rng.random() * rng.choice([0, 1]) for _ in range(n)]
        p_safe = [rng.choice([0.0, 0.25, 0.5, 0.75, 1.0]) for _ in range(n)]
        guard = Guard(
            scorer=Stored(scores, p_safe),
            decision=DecisionPolicy(prefer=prefer),  # type: ignore[arg-type]
        )
        decision = guard.choose("q", [f"answer {i}" for i in range(n)])
        drawn = [DrawnList(8, "natural", "g", tuple(range(n)))]
        rule = best if prefer == "best" else safest
        (leaving,) = rule(
            drawn, scores_of(torch.tensor(scores, dtype=torch.float64)), torch.tensor(p_safe)
        )
        chosen = None if decision.chosen is None else decision.chosen.index
        refused += chosen is None
        assert chosen == (leaving[0] if leaving else None)
    assert 0 < refused < 200
