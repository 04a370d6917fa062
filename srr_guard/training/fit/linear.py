"""Linear probes: logistic regression, class means, and their calibration."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from srr_guard.scorer.head import Probe
from srr_guard.training.fit.lessons import Lesson


def standardise(probe: Probe, x: Tensor) -> None:
    """Learn from inputs, (n, k), what a probe subtracts and divides by."""
    probe.offset.copy_(x.mean(0))
    probe.scale.copy_(x.std(0).clamp(min=1e-4))


def fit_logistic(
    probe: Probe, lessons: Sequence[Lesson], *, penalty: float, preference_weight: float
) -> None:
    """Fit a probe in place; pairs of preferences enter as differences, in both directions."""
    x = torch.cat([lesson.x for lesson in lessons])
    standardise(probe, x)
    x = probe.standardised(x)
    y = torch.cat([lesson.y for lesson in lessons])
    weights = torch.cat([lesson.weights for lesson in lessons]) / len(lessons)
    pairs = torch.cat([lesson.differences for lesson in lessons])
    if len(pairs):
        ahead = (pairs / probe.scale).clamp(-8, 8)
        x = torch.cat([x, ahead, -ahead])
        y = torch.cat([y, torch.ones(len(pairs)), torch.zeros(len(pairs))])
        even = torch.full((2 * len(pairs),), preference_weight / (2 * len(pairs)))
        weights = torch.cat([weights, even])
    coefficients, intercept = logistic_regression(x, y, weights, penalty=penalty)
    probe.linear.weight.data.copy_(coefficients[None])
    probe.linear.bias.data.copy_(intercept)


def fit_class_means(probe: Probe, lessons: Sequence[Lesson]) -> None:
    """Fit the request's probe in place by its class means."""
    x = torch.cat([lesson.x for lesson in lessons])
    standardise(probe, x)
    y = torch.cat([lesson.y for lesson in lessons])
    weights = torch.cat([lesson.weights for lesson in lessons]) / len(lessons)
    coefficients, intercept = class_mean_probe(probe.standardised(x), y, weights)
    probe.linear.weight.data.copy_(coefficients[None])
    probe.linear.bias.data.copy_(intercept)


def rescale(probe: Probe, scale: Tensor) -> None:
    """Fold slope and intercept of a calibration into a probe."""
    slope, intercept = scale
    probe.linear.weight.data.mul_(slope)
    probe.linear.bias.data.mul_(slope).add_(intercept)


def loss_of(probe: Probe, lesson: Lesson) -> float:
    """Weighted log loss of a probe."""
    with torch.no_grad():
        logits = probe(lesson.x)
    return float(
        functional.binary_cross_entropy_with_logits(
            logits, lesson.y, weight=lesson.weights, reduction="sum"
        )
    )


def logistic_regression(
    x: Tensor, y: Tensor, weights: Tensor, *, penalty: float
) -> tuple[Tensor, Tensor]:
    """Weighted logistic regression with an L2 penalty, by L-BFGS.

    Args:
        x: (n, k) standardised inputs.
        y: (n,) 0 or 1.
        weights: (n,) weights that sum to about 1.
        penalty: Factor before the squared norm of the coefficients.

    Returns:
        (k,) coefficients and (1,) intercept.
    """
    parameters = torch.zeros(x.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = x @ parameters[:-1] + parameters[-1]
        loss = functional.binary_cross_entropy_with_logits(
            logits, y, weight=weights, reduction="sum"
        )
        loss = loss + penalty * parameters[:-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = parameters.detach()
    return found[:-1], found[-1:]


def class_mean_probe(
    x: Tensor, y: Tensor, weights: Tensor, *, shrinkage: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Linear discriminant: class means, told apart by the covariance that the classes share.

    Args:
        x: (n, k) standardised inputs.
        y: (n,) 0 or 1.
        weights: (n,) weights that sum to 1, half for each class.
        shrinkage: Weight of a round covariance of the same mean variance.

    Returns:
        (k,) coefficients and (1,) intercept of the log odds at even priors.

    References:
        Latent Prototype Moderator, arXiv 2502.16174, which adds tr(S) to the diagonal.
    """
    x, weights = x.double(), weights.double()
    yes, no = weights * y, weights * (1 - y)
    one, zero = yes @ x / yes.sum(), no @ x / no.sum()
    within = x - torch.where(y[:, None] > 0, one, zero)
    scatter = (within * weights[:, None]).T @ within / weights.sum()
    scatter.diagonal().add_(shrinkage * float(scatter.diagonal().mean()) + 1e-12)
    coefficients = torch.linalg.solve(scatter, one - zero)
    intercept = -(one + zero) @ coefficients / 2
    return coefficients.float(), intercept.float()[None]
