from __future__ import annotations

import torch

from srr_guard.training.calibration import (
    expected_calibration_error,
    fit_platt,
    refit_platt,
    verdict_bounds,
)


def test_platt_scaling_recovers_the_true_slope_and_intercept() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, generator=generator) * 3
    truth = torch.sigmoid(0.5 * logits + 1.0)
    labels = (torch.rand(20_000, generator=generator) < truth).float()
    slope, intercept, weight = fit_platt(logits, labels)
    assert weight == 0
    torch.testing.assert_close(slope, torch.tensor(0.5), atol=0.05, rtol=0)
    torch.testing.assert_close(intercept, torch.tensor(1.0), atol=0.05, rtol=0)
    calibrated = torch.sigmoid(slope * logits + intercept)
    assert expected_calibration_error(calibrated, labels) < 0.02
    assert expected_calibration_error(torch.sigmoid(logits), labels) > 0.05


def test_separable_data_stays_finite_and_the_order_is_kept() -> None:
    logits, first, second = torch.tensor([[-1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    for against in (None, first, second):
        assert fit_platt(logits, second, against=against).isfinite().all()
        inverted = fit_platt(logits, first, against=against)
        assert inverted.isfinite().all()
        assert (inverted[[0, 2]] >= 0).all()


def test_what_speaks_against_is_weighed() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, generator=generator) * 3
    against = torch.rand(20_000, generator=generator)
    truth = torch.sigmoid(0.5 * (logits - 4.0 * against) + 1.0)
    labels = (torch.rand(20_000, generator=generator) < truth).float()
    fitted = fit_platt(logits, labels, against=against)
    torch.testing.assert_close(fitted, torch.tensor([0.5, 1.0, 4.0]), atol=0.3, rtol=0)
    assert fit_platt(logits, labels, against=1 - against)[2] < 0.1


def test_calibration_error_of_a_liar() -> None:
    p = torch.full((100,), 0.99)
    assert abs(expected_calibration_error(p, torch.zeros(100)) - 0.99) < 1e-5


def test_bounds_leave_few_on_the_wrong_side() -> None:
    p = torch.linspace(0, 1, 1000)
    safe = torch.rand(1000, generator=torch.Generator().manual_seed(0)) < p
    low, high = verdict_bounds(p, safe)
    assert low < high
    assert float((p[safe] < low).float().mean()) <= 0.02
    assert float((p[~safe] > high).float().mean()) <= 0.05


def test_bounds_of_kinds_far_apart_meet() -> None:
    p = torch.tensor([0.1, 0.2, 0.8, 0.9])
    low, high = verdict_bounds(p, p > 0.5)
    assert low == high
    assert 0.2 < low < 0.8


def test_few_rows_move_a_calibration_little_and_many_all_the_way() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.tensor([1.0, 0.0])
    found = []
    for n in (8, 100, 20_000):
        logits = torch.randn(n, generator=generator) * 3
        truth = torch.sigmoid(0.5 * logits + 1.0)
        labels = (torch.rand(n, generator=generator) < truth).float()
        even = torch.full((n,), 1 / n)
        found.append(refit_platt(logits, labels, even, base=base, rows=float(n)))
    torch.testing.assert_close(found[2], torch.tensor([0.5, 1.0]), atol=0.05, rtol=0)
    assert abs(found[0][0] - 1) < 0.5
    assert abs(found[0][1]) < 0.5
    assert all(slope > 0 for slope, _ in found)


def test_rows_that_the_calibration_fits_do_not_move_it() -> None:
    base = torch.tensor([2.0, -1.0])
    logits = torch.linspace(-3, 3, 50)
    expected = torch.sigmoid(2 * logits - 1)
    even = torch.full((50,), 0.02)
    torch.testing.assert_close(refit_platt(logits, expected, even, base=base, rows=50.0), base)
