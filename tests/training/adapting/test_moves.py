"""The ridge fit: its optimum, its limits, and the cap on a step."""

from __future__ import annotations

import pytest
import torch
from planted import CONFIG, Planted, axis, planted_head

from srr_guard.training.adapting.moves import Move, Ridge, capped, log_loss, moved
from srr_guard.training.adapting.views import View, balanced, inputs_of, view_of
from srr_guard.training.feature_store import judge_examples
from srr_guard.training.fit.targets import SAFE_SHARE

PLANTED = Planted()
ROWS = PLANTED.rows(60, axis(1))
HEAD = planted_head(axis(0))


def view() -> View:
    return view_of(HEAD, "harmless", PLANTED.load(ROWS))


def test_the_fit_is_the_minimum_of_what_it_says() -> None:
    rows, strength, link = view(), 1.5, (0.8, -0.3)
    move = Ridge(rows, link).fit(strength)
    centre = rows.weights @ rows.x
    norm = (rows.weights @ (rows.x - centre).square().sum(1)).sqrt()

    def objective(direction: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        logits = rows.logits + (rows.x - centre) @ direction + offset
        loss = log_loss(link[0] * logits + link[1], rows.y) @ rows.weights
        prior = (norm * direction / strength).square().sum() + offset**2
        return loss + prior / (2 * rows.effective_rows)

    direction = move.direction.clone().requires_grad_()
    offset = (move.offset + move.direction @ centre).clone().requires_grad_()
    objective(direction, offset).backward()
    assert direction.grad is not None
    assert offset.grad is not None
    assert float(direction.grad.norm()) < 1e-5
    assert abs(float(offset.grad)) < 1e-5


def test_weaker_steps_are_smaller_down_to_none() -> None:
    ridge = Ridge(view(), (1.0, 0.0))
    sizes = [float(ridge.fit(s).direction.norm()) for s in (0.0, 0.01, 0.1, 1.0, 4.0)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 0.0
    assert sizes[1] < 0.01 * sizes[-1]
    assert ridge.fit(0.0).offset == 0.0


def test_the_order_of_the_strengths_does_not_matter() -> None:
    first, second = Ridge(view(), (1.0, 0.0)), Ridge(view(), (1.0, 0.0))
    up = [first.fit(s).direction for s in (0.5, 4.0)]
    down = [second.fit(s).direction for s in (4.0, 0.5)]
    torch.testing.assert_close(up, down[::-1], atol=1e-4, rtol=1e-4)


def test_texts_to_keep_move_less() -> None:
    anchors = PLANTED.load(PLANTED.rows(40, axis(0), seed=7, name="kept"))
    kept = inputs_of(HEAD, "harmless", anchors)
    shifts = []
    for given in (None, kept):
        move = Ridge(view(), (1.0, 0.0), given).fit(4.0)
        shifts.append(float((kept[0] @ move.direction + move.offset).abs().mean()))
    assert shifts[1] < 0.8 * shifts[0]


def test_a_move_does_what_it_says() -> None:
    rows = view()
    move = Move(1.0, axis(2).double(), 0.5, calibration=torch.tensor([4.0, 1.0]))
    found = moved(HEAD, {"harmless": move})
    examples = PLANTED.load(ROWS)
    _, logits = inputs_of(found, "harmless", examples)
    torch.testing.assert_close(logits, rows.logits + rows.x[:, 2] + 0.5, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.calibration, torch.tensor([4.0, 1.0]))
    half = moved(HEAD, {"harmless": Move(1.0, move.direction, 0.5, move.calibration, scale=0.5)})
    torch.testing.assert_close(half.calibration, torch.tensor([2.0, 0.5]))


@pytest.mark.parametrize("most", [0.1, 0.5, 3.0])
def test_a_step_is_cut_just_short_of_the_cap(most: float) -> None:
    step = Move(1.0, torch.ones(3), 0.0)
    found = capped(step, lambda move: 2 * move.scale, most)
    assert found.scale == pytest.approx(min(1.0, most / 2), abs=1e-3)
    assert 2 * found.scale <= most


def test_balanced_weights() -> None:
    y = torch.tensor([1.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(
        balanced(torch.ones(4), y), torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    )
    assert float(balanced(torch.ones(3), torch.ones(3)).sum()) == pytest.approx(1.0)
    tilted = balanced(torch.ones(4), y, positive=0.6)
    torch.testing.assert_close(tilted, torch.tensor([0.2, 0.2, 0.2, 0.4]))


def test_some_rows_of_a_view_keep_its_share() -> None:
    rows = view()
    assert float(rows.weights @ rows.y) == pytest.approx(SAFE_SHARE)
    some = rows[torch.arange(0, len(rows), 3)]
    assert float(some.weights @ some.y) == pytest.approx(SAFE_SHARE)


def test_compliance_is_part_of_what_is_learnt() -> None:
    head = planted_head(axis(0), CONFIG)
    head.compliance.fill_(2.0)
    examples = PLANTED.load(ROWS)
    judged = judge_examples(head, examples)
    _, logits = inputs_of(head, "harmless", examples)
    slope, intercept = head.calibration
    torch.testing.assert_close(torch.sigmoid(slope * logits.float() + intercept), judged.p_safe)
    assert (logits < judged.probes.harmless).all()
