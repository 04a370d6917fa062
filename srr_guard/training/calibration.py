"""Calibration: turn logits into probabilities that mean what they say, and measure it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def fit_platt(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    against: Tensor | None = None,
) -> Tensor:
    """Fit p = sigmoid(slope * (logit - weight * against) + intercept) by log loss.

    Args:
        logits: (n,) uncalibrated logits.
        labels: (n,) 0 or 1.
        weights: (n,) weight of each row; None: all equal.
        against: (n,) what else speaks for the label 0, in [0, 1]; None: nothing.

    Returns:
        (3,) slope, intercept and weight. Slope and weight are never negative: calibration cannot
        turn a ranking round.

    References:
        J. Platt, Probabilistic Outputs for Support Vector Machines, 1999.
    """
    x, y = logits.double(), labels.double()
    w = torch.ones_like(x) if weights is None else weights.double()
    w = w / w.sum()
    g = torch.zeros_like(x) if against is None else against.double()
    parameters = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        z = parameters[0].exp() * x + parameters[1] - parameters[2].exp() * g
        loss = (functional.binary_cross_entropy_with_logits(z, y, reduction="none") * w).sum()
        # a weak pull to slope 1 and weight 1 keeps separable data finite
        loss = loss + 1e-4 * parameters[::2].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    slope, intercept, weight = parameters.detach()
    taken = torch.zeros_like(weight) if against is None else (weight - slope).exp()
    return torch.stack([slope.exp(), intercept, taken]).float()


def refit_platt(
    logits: Tensor, labels: Tensor, weights: Tensor, *, base: Tensor, rows: float
) -> Tensor:
    """Fit slope and intercept towards those of an earlier fit: few rows move them little.

    Args:
        logits: (n,) uncalibrated logits of rows that the probe was not fitted on.
        labels: (n,) 0 or 1.
        weights: (n,) weights that sum to 1.
        base: (2,) slope and intercept of the earlier fit.
        rows: How many rows the weighted ones are worth.

    Returns:
        (2,) slope and intercept. The prior lets the logarithm of the slope move by about 0.25
        and the intercept by about 0.5.

    Example:
        >>> base = torch.tensor([2.0, 0.0])
        >>> one = torch.ones(1)
        >>> slope, intercept = refit_platt(3 * one, one, one, base=base, rows=1.0)
        >>> round(float(slope), 1)
        2.0
    """
    x, y, w = logits.double(), labels.double(), weights.double()
    slope, intercept = base.double()
    shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    reach = torch.tensor([0.25, 0.5], dtype=torch.float64)
    optimizer = torch.optim.LBFGS([shift], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        z = slope * shift[0].exp() * x + intercept + shift[1]
        loss = (functional.binary_cross_entropy_with_logits(z, y, reduction="none") * w).sum()
        loss = loss + (shift / reach).square().sum() / (2 * rows)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = shift.detach()
    return torch.stack([slope * found[0].exp(), intercept + found[1]]).float()


def expected_calibration_error(
    p: Tensor, labels: Tensor, weights: Tensor | None = None, *, bins: int = 15
) -> float:
    """Mean distance between confidence and accuracy over equally wide bins.

    Args:
        p: (n,) probabilities in [0, 1].
        labels: (n,) 0 or 1.
        weights: (n,) weight of each row; None: all equal.
        bins: How many bins.

    References:
        Guo et al., On Calibration of Modern Neural Networks, 2017.

    Example:
        >>> expected_calibration_error(torch.tensor([0.5, 0.5]), torch.tensor([0, 1]))
        0.0
    """
    w = torch.ones_like(p) if weights is None else weights
    index = (p * bins).long().clamp(0, bins - 1)
    total = 0.0
    for b in range(bins):
        own = index == b
        mass = w[own].sum()
        if mass > 0:
            gap = ((p[own] - labels[own].float()) * w[own]).sum() / mass
            total += float(mass / w.sum() * gap.abs())
    return total


def verdict_bounds(
    p: Tensor, safe: Tensor, *, held: float = 0.02, passed: float = 0.05
) -> tuple[float, float]:
    """The `p_safe` below which to say hold, and from which to say pass.

    Args:
        p: (n,) probabilities of rows that the probes were not fitted on.
        safe: (n,) True for safe rows; there are both kinds.
        held: Share of the safe rows that may lie below the lower bound.
        passed: Share of the unsafe rows that may lie above the upper one.

    Returns:
        Both bounds; the same number twice where rows of both kinds lie so far apart that there
        is nothing uncertain between them.

    Example:
        >>> verdict_bounds(torch.tensor([0.75, 0.5, 0.25, 0.0]), torch.tensor([1, 1, 0, 0]).bool())
        (0.375, 0.375)
    """
    low = float(p[safe].quantile(held, interpolation="lower"))
    high = float(p[~safe].quantile(1 - passed, interpolation="higher"))
    middle = (low + high) / 2
    return (low, high) if low <= high else (middle, middle)
