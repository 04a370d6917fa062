from __future__ import annotations

import pytest
import torch

from srr_guard.scorer.head import Probe
from srr_guard.training.fit.linear import class_mean_probe, rescale


def sample(n: int = 400, k: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = (torch.rand(n, generator=generator) < 0.3).float()
    mix = torch.randn(k, k, generator=generator)
    x = torch.randn(n, k, generator=generator) @ mix + y[:, None] * torch.arange(k)
    weights = torch.where(y > 0, 0.5 / y.sum(), 0.5 / (1 - y).sum())
    return x, y, weights


def test_it_is_the_difference_of_two_mahalanobis_distances() -> None:
    x, y, weights = sample()
    w, b = class_mean_probe(x, y, weights, shrinkage=0.2)
    d = x.double()
    one, zero = d[y > 0].mean(0), d[y == 0].mean(0)
    scatter = torch.zeros(6, 6, dtype=torch.float64)
    for row, label, weight in zip(d, y, weights.double(), strict=True):
        gap = row - (one if label else zero)
        scatter += weight * torch.outer(gap, gap)
    scatter += 0.2 * scatter.diagonal().mean() * torch.eye(6)
    inverse = torch.linalg.inv(scatter)
    for row in d[:20]:
        far, near = row - zero, row - one
        expected = (far @ inverse @ far - near @ inverse @ near) / 2
        assert float(row.float() @ w + b) == pytest.approx(float(expected), rel=1e-3, abs=1e-3)


def test_it_agrees_with_scikit_learn() -> None:
    discriminant = pytest.importorskip("sklearn.discriminant_analysis")
    x, y, weights = sample()
    w, b = class_mean_probe(x, y, weights, shrinkage=0.0)
    theirs = discriminant.LinearDiscriminantAnalysis(solver="lsqr", priors=[0.5, 0.5])
    theirs.fit(x.numpy(), y.numpy())
    assert torch.allclose(
        x @ w + b, torch.tensor(theirs.decision_function(x.numpy())).float(), rtol=1e-2, atol=1e-2
    )


def test_swapped_labels_turn_the_sign_and_a_shift_changes_nothing() -> None:
    x, y, weights = sample()
    w, b = class_mean_probe(x, y, weights)
    swapped, back = class_mean_probe(x, 1 - y, weights)
    torch.testing.assert_close(swapped, -w)
    torch.testing.assert_close(back, -b)
    moved, at = class_mean_probe(x + 3.0, y, weights)
    torch.testing.assert_close((x + 3.0) @ moved + at, x @ w + b, rtol=1e-4, atol=1e-4)


def test_equal_inputs_are_no_division_by_zero() -> None:
    x, y, weights = sample()
    w, b = class_mean_probe(torch.zeros_like(x), y, weights)
    assert torch.equal(w, torch.zeros(6))
    assert torch.isfinite(b).all()


def test_rescaling_scales_the_logits() -> None:
    probe = Probe(6)
    x = torch.randn(5, 6)
    before = probe(x).detach()
    rescale(probe, torch.tensor([0.5, -1.0]))
    torch.testing.assert_close(probe(x).detach(), 0.5 * before - 1.0)
