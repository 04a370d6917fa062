"""Planted shifts are learnt from few rows, and what the base knew is kept."""

from __future__ import annotations

import pytest
import torch
from planted import CONFIG, PLAIN, Planted, axis, planted_head
from torch import Tensor

from srr_guard.scorer.head import SRRHead
from srr_guard.training.adapting import STRENGTHS, AdaptedHead, Search, adapt_head
from srr_guard.training.adapting.choice import find_moves, goal_folds
from srr_guard.training.adapting.moves import moved
from srr_guard.training.adapting.views import probe_of
from srr_guard.training.calibration import expected_calibration_error
from srr_guard.training.data import LabelledResponse
from srr_guard.training.feature_store import judge_examples

OLD, NEW = axis(0), (axis(0) + 2 * axis(1)) / 5**0.5


def auroc(head: SRRHead, planted: Planted, rows: list[LabelledResponse]) -> float:
    return area(judge_examples(head, planted.load(rows)).p_safe, rows)


def area(p_safe: Tensor, rows: list[LabelledResponse]) -> float:
    """Share of pairs in which the safe row has the higher p_safe."""
    safe = torch.tensor([row.safe for row in rows])
    return float((p_safe[safe][:, None] > p_safe[~safe][None]).float().mean())


def adapted(
    planted: Planted, rows: list[LabelledResponse], head: SRRHead, search: Search | None = None
) -> AdaptedHead:
    anchors = planted.rows(20, OLD, seed=99, name="anchors", quiet=1)
    return adapt_head(head, rows, planted.load, anchors, search=search)


def weights(head: SRRHead) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in head.state_dict().items()}


@pytest.mark.parametrize("config", [PLAIN, CONFIG], ids=["plain", "graded"])
def test_strength_zero_is_exactly_the_base(config) -> None:  # type: ignore[no-untyped-def]
    planted = Planted()
    head = planted_head(OLD, config)
    base = weights(head)
    found = adapted(planted, planted.rows(64, NEW), head, Search(strength=0))
    assert all(torch.equal(found.head.state_dict()[name], t) for name, t in base.items())
    assert torch.equal(found.before.p_safe, found.after.p_safe)
    assert found.steps == {}


def test_the_base_itself_is_never_changed() -> None:
    planted = Planted()
    head = planted_head(OLD)
    base = weights(head)
    found = adapted(planted, planted.rows(64, NEW), head)
    assert found.steps["harmless"].moved
    assert all(torch.equal(head.state_dict()[name], t) for name, t in base.items())


def test_equal_seeds_give_equal_heads() -> None:
    heads = []
    for _ in range(2):
        planted = Planted()
        found = adapted(planted, planted.rows(64, NEW), planted_head(OLD), Search(seed=3))
        heads.append(weights(found.head))
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


@pytest.mark.parametrize("windows", [1, 3])
def test_a_planted_shift_is_learnt_from_64_rows(windows: int) -> None:
    planted = Planted()
    head = planted_head(OLD)
    rows = planted.rows(64, NEW, windows=windows)
    found = adapted(planted, rows, head)
    new = planted.rows(1000, NEW, seed=1, name="new")
    old = planted.rows(1000, OLD, seed=2, name="old", quiet=1)
    step = found.steps["harmless"]
    assert step.moved
    assert step.gain.low > 0
    assert step.strength in STRENGTHS
    assert auroc(found.head, planted, new) > auroc(head, planted, new) + 0.05
    assert auroc(found.head, planted, old) > auroc(head, planted, old) - 0.1


def test_held_out_figures_are_no_better_than_on_new_rows() -> None:
    """They are of heads that did not see the rows: labels at random are not learnt."""
    planted = Planted()
    rows = planted.rows(64, axis(3), noise=100.0)
    found = adapted(planted, rows, planted_head(OLD), Search(strength=4.0, most_drift=1.0))
    held_out = area(found.after.p_safe, rows)
    assert held_out < 0.65
    assert auroc(found.head, planted, rows) > held_out + 0.2


def test_without_a_gain_the_base_is_kept() -> None:
    """A base that is right already is left alone but for bad luck."""
    planted = Planted()
    head = planted_head(OLD, gain=3.4)
    kept = []
    for seed in range(8):
        rows = planted.rows(64, OLD, seed=seed)
        found = adapted(planted, rows, head)
        if not found.steps["harmless"].moved:
            kept.append(seed)
            base, own = head.state_dict(), found.head.state_dict()
            assert all(torch.equal(own[name], t) for name, t in base.items())
            assert torch.equal(found.after.p_safe, found.before.p_safe)
    assert len(kept) >= 6
    by_hand = adapted(planted, planted.rows(64, OLD), head, Search(strength=4.0, most_drift=1.0))
    assert by_hand.steps["harmless"].moved
    assert by_hand.steps["harmless"].gain.value < 0


@pytest.mark.parametrize("most", [0.001, 0.01, 0.05])
def test_other_texts_drift_no_further_than_allowed(most: float) -> None:
    planted = Planted()
    found = adapted(planted, planted.rows(64, NEW), planted_head(OLD), Search(4.0, most_drift=most))
    step = found.steps["harmless"]
    assert step.scale < 1
    assert step.drift.texts == 20
    assert most / 2 < step.drift.mean <= most * 1.001
    assert step.drift.largest >= step.drift.mean


def test_calibration_follows_the_rows() -> None:
    """A base that is far too sure of itself, with the right direction."""
    planted = Planted()
    head = planted_head(OLD, gain=20.0)
    rows = planted.rows(200, OLD, noise=2.0)
    found = adapted(planted, rows, head, Search(most_drift=1.0))
    new = planted.rows(1000, OLD, seed=5, noise=2.0, name="new")
    error = [
        expected_calibration_error(
            judge_examples(h, planted.load(new)).p_safe, torch.tensor([row.safe for row in new])
        )
        for h in (head, found.head)
    ]
    assert error[1] < 0.7 * error[0]


def test_answers_and_requests_are_moved_where_the_rows_speak_of_them() -> None:
    planted = Planted()
    head = planted_head(OLD, CONFIG)
    rows = planted.rows(80, NEW)
    kinds = {True: "benign-help", False: "refusal"}
    answer = [bool(planted.load([r]).windows["mean"][0, 0] @ axis(5) > 0) for r in rows]
    told = [
        r.model_copy(update={"kind": kinds[a]} | ({"prompt_type": "safe"} if a else {}))
        for r, a in zip(rows, answer, strict=True)
    ]
    found = adapted(planted, told, head, Search(most_drift=1.0))
    assert found.steps["answers"].moved
    assert found.steps["answers"].gain.low > 0
    direction = probe_of(found.head, "answers").linear.weight[0]
    assert int(direction.abs().argmax()) == 5 or direction[5] > 0.5
    assert (
        torch.equal(
            probe_of(found.head, "harmful_request").linear.weight,
            probe_of(head, "harmful_request").linear.weight,
        )
        or found.steps["harmful_request"].moved
    )
    silent = adapted(planted, rows, head, Search(most_drift=1.0))
    assert "answers" not in silent.steps


def test_answers_move_no_further_than_p_safe_may_drift() -> None:
    planted, search = Planted(), Search(4.0, most_drift=0.01)
    rows = planted.rows(80, NEW)
    told = [
        r.model_copy(update={"kind": ("benign-help", "refusal")[i % 2]}) for i, r in enumerate(rows)
    ]
    anchors = planted.load(planted.rows(20, OLD, seed=99, name="anchors"))
    head = planted_head(OLD, CONFIG)
    head.answers.linear.weight.mul_(0.1)
    free = find_moves(head, planted.load(told), anchors, search)["answers"]
    head.compliance.fill_(16.0)  # p_safe is all compliance, and steep where it changes
    head.harmless.linear.weight.zero_()
    head.harmful_request.linear.bias.zero_()
    head.calibration.copy_(torch.tensor([4.0, 24.0]))
    move = find_moves(head, planted.load(told), anchors, search)["answers"]
    assert move.scale < free.scale
    p_safe = [judge_examples(h, anchors).p_safe for h in (head, moved(head, {"answers": move}))]
    assert float((p_safe[1] - p_safe[0]).abs().mean()) <= search.most_drift * 1.001


def test_a_probe_needs_a_few_rows_of_both_sides() -> None:
    planted = Planted()
    rows = planted.rows(64, NEW)
    few = [r for r in rows if r.safe] + [r for r in rows if not r.safe][:3]
    anchors = planted.load(planted.rows(4, OLD, name="anchors"))
    assert find_moves(planted_head(OLD), planted.load(few), anchors, Search()) == {}
    one_goal = [r.model_copy(update={"goal_id": "g"}) for r in rows]
    assert find_moves(planted_head(OLD), planted.load(one_goal), anchors, Search()) == {}


@pytest.mark.parametrize("n", [2, 3, 7, 40])
def test_folds_share_no_goal_and_miss_no_row(n: int) -> None:
    goals = [f"g{i % n}" for i in range(3 * n)]
    y = [i % n < n / 2 for i in range(3 * n)]
    folds = goal_folds(goals, y, seed=0)
    assert sorted(i for fold in folds for i in fold.tolist()) == list(range(3 * n))
    sides = [{goals[i] for i in fold.tolist()} for fold in folds]
    assert sum(map(len, sides)) == n
    if n == 40:
        assert all(0 < sum(y[i] for i in fold.tolist()) < len(fold) for fold in folds)
        assert [f.tolist() for f in folds] != [f.tolist() for f in goal_folds(goals, y, seed=1)]
