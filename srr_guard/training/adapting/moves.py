"""A probe moved away from the base: ridge regression towards its coefficients, and its cap."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from srr_guard.scorer.head import SRRHead
from srr_guard.training.adapting.views import Part, View, probe_of

_OFFSET = 1.0  # logits that the prior lets an offset common to all rows take
_HALVINGS = 20


@dataclass(frozen=True, eq=False)
class Move:
    """A step of one probe: logit(x) = base(x) + direction · x + offset, and its calibration.

    Attributes:
        strength: Logits that the prior lets a typical row's logit move; 0: the base.
        direction: (k,) added to the coefficients on standardised inputs.
        offset: Added to the intercept.
        calibration: (2,) new slope and intercept of `p_safe`; None: the base's.
        scale: Share of the step that is made, in [0, 1] (see `capped`).
    """

    strength: float
    direction: Tensor
    offset: float
    calibration: Tensor | None = None
    scale: float = 1.0


def moved(head: SRRHead, moves: Mapping[Part, Move]) -> SRRHead:
    """A copy of a head with its probes moved."""
    found = copy.deepcopy(head)
    for part, move in moves.items():
        linear = probe_of(found, part).linear
        with torch.no_grad():
            linear.weight.add_((move.scale * move.direction).to(linear.weight))
            linear.bias.add_(move.scale * move.offset)
            if move.calibration is not None:
                found.calibration.copy_(_between(found.calibration, move))
    return found


def _between(base: Tensor, move: Move) -> Tensor:
    """Slope, by its logarithm, and intercept on the way from the base's to the move's."""
    assert move.calibration is not None
    slope = base[0] * (move.calibration[0] / base[0]) ** move.scale
    return torch.stack([slope, torch.lerp(base[1], move.calibration[1], move.scale)])


class Ridge:
    """Fits moves of any strength to the same rows; the rows' kernel is taken apart once.

    Minimises the weighted log loss of slope * (base(x) + w · z + b) + intercept, plus
    |w|^2 / (2 n strength^2) and the like for b. z are the inputs around the rows' mean, in units
    of their root mean square norm, so that `strength` is a number of logits and more rows move
    the probe further. Texts to keep are learnt beside the rows, and weigh as much: their labels
    are the base's own probabilities.

    Args:
        view: The rows.
        link: Slope and intercept of the base's calibration; (1, 0) where there is none.
        kept: (m, k) standardised inputs and (m,) logits of texts to keep; None: none.

    References:
        Z. Li and D. Hoiem, Learning without Forgetting, 2016.
    """

    def __init__(
        self,
        view: View,
        link: tuple[float, float],
        kept: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.view = view
        self.link = link
        self._centre = view.weights @ view.x
        centred = view.x - self._centre
        norm = (view.weights @ centred.square().sum(1)).sqrt().clamp(min=1e-9)
        self._z, self._norm = centred / norm, norm
        self._logits, self._y, self._weights = view.logits, view.y, view.weights
        if kept is not None and len(kept[1]):
            x, logits = kept
            self._z = torch.cat([self._z, (x - self._centre) / norm])
            self._logits = torch.cat([view.logits, logits])
            self._y = torch.cat([view.y, torch.sigmoid(link[0] * logits + link[1])])
            even = torch.full_like(logits, 1 / len(logits))
            self._weights = torch.cat([view.weights, even])
        self._last: Tensor | None = None

    def fit(self, strength: float) -> Move:
        """The move of this strength."""
        k = self.view.x.shape[1]
        if strength == 0:
            return Move(0.0, torch.zeros(k, dtype=torch.float64), 0.0)
        features, back = self._factors
        rows = self.view.effective_rows
        penalty = features.new_full((features.shape[1] + 1,), 1 / (rows * strength**2))
        penalty[-1] = 1 / (rows * _OFFSET**2)
        found = self._newton(torch.cat([features, torch.ones_like(features[:, :1])], 1), penalty)
        direction = back @ found[:-1] / self._norm
        return Move(strength, direction, float(found[-1] - direction @ self._centre))

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor]:
        """(n, r) coordinates of all texts in their own span, and (k, r) the way back."""
        values, vectors = torch.linalg.eigh(self._z @ self._z.T)
        keep = values > 1e-6 * values.max().clamp(min=1e-12)
        roots, vectors = values[keep].sqrt(), vectors[:, keep]
        return vectors * roots, self._z.T @ (vectors / roots)

    def _newton(self, features: Tensor, penalty: Tensor) -> Tensor:
        """Minimise by Newton's method with halved steps; the loss is strictly convex."""
        slope, intercept = self.link

        def logits(theta: Tensor) -> Tensor:
            return slope * (self._logits + features @ theta) + intercept

        def loss(theta: Tensor) -> float:
            data = log_loss(logits(theta), self._y) @ self._weights
            return float(data + (penalty * theta.square()).sum() / 2)

        theta = torch.zeros_like(penalty) if self._last is None else self._last
        best = loss(theta)
        for _ in range(50):
            p = torch.sigmoid(logits(theta))
            gradient = slope * (features.T @ (self._weights * (p - self._y))) + penalty * theta
            curvature = slope**2 * self._weights * p * (1 - p)
            hessian = features.T @ (curvature[:, None] * features) + penalty.diag()
            step = torch.linalg.solve(hessian, gradient)
            for halving in range(_HALVINGS):
                tried = theta - step * 0.5**halving
                if (value := loss(tried)) < best:
                    break
            else:
                break
            theta, gained = tried, best - value
            best = value
            if gained < 1e-9:
                break
        self._last = theta  # near the next strength's
        return theta


def log_loss(logits: Tensor, y: Tensor) -> Tensor:
    """(n,) log loss of each row."""
    return functional.binary_cross_entropy_with_logits(logits, y, reduction="none")


def capped(move: Move, drift: Callable[[Move], float], most: float) -> Move:
    """The largest part of a move that drifts no further than allowed.

    Args:
        move: The whole move.
        drift: How far a move drifts; 0 at a scale of 0.
        most: The largest drift allowed.
    """
    if drift(move) <= most:
        return move
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        if drift(replace(move, scale=middle)) <= most:
            low = middle
        else:
            high = middle
    return replace(move, scale=low)
