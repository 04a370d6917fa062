"""The space in which a soft prompt is trained: four main directions of the prompts' states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

DIRECTIONS = 4
"""Main directions of the states, in which the probes read."""

_HARM_WEIGHT, _REST_WEIGHT = 1e-2, 1e-3
"""Weights of the second and the third part of the loss."""


@dataclass(frozen=True, eq=False)
class LogisticProbe:
    """A linear probe on the main directions.

    Attributes:
        weight: (k,)
        bias: ()
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def fit(cls, z: Tensor, y: Tensor, *, ridge: float = 1.0) -> LogisticProbe:
        """Fit a logistic regression to soft labels, by Newton's method.

        Args:
            z: (n, k) coordinates.
            y: (n,) labels in [0, 1].
            ridge: Weight of the squared length of the weights, halved; the bias is free.
        """
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits, pad

        x, y = pad(z.double(), (0, 1), value=1.0), y.double()
        penalty = torch.full((x.shape[1],), ridge, dtype=torch.float64)
        penalty[-1] = 1e-9
        found = torch.zeros(x.shape[1], dtype=torch.float64)

        def cost(at: Tensor) -> Tensor:
            fit = binary_cross_entropy_with_logits(x @ at, y, reduction="sum")
            return fit + (penalty * at**2).sum() / 2

        for _ in range(100):
            p = torch.sigmoid(x @ found)
            gradient = x.T @ (p - y) + penalty * found
            curvature = (x * (p * (1 - p))[:, None]).T @ x + penalty.diag()
            step, before = torch.linalg.solve(curvature, gradient), cost(found)
            share = 1.0
            while cost(found - share * step) > before and share > 1e-6:
                share /= 2
            found = found - share * step
            if float(step.abs().max()) < 1e-10:
                break
        return cls(found[:-1].float(), found[-1].float())

    def __call__(self, z: Tensor) -> Tensor:
        """Logits (n,) of coordinates (n, d); the first k count."""
        return z[:, : len(self.weight)] @ self.weight + self.bias


@dataclass(frozen=True, eq=False)
class PromptSpace:
    """Coordinates of prompts' states, and two probes on the first of them.

    Attributes:
        mean: (d,) the origin.
        basis: (d, d) orthonormal columns; the first are the main directions.
        complies: Tells prompts that are complied with.
        harmless: Tells harmless requests.
    """

    mean: Tensor
    basis: Tensor
    complies: LogisticProbe
    harmless: LogisticProbe

    @classmethod
    def fit(cls, states: Tensor, compliance: Tensor, harmless: Tensor, *, seed: int) -> PromptSpace:
        """Find the directions and fit the probes.

        Args:
            states: (n, d) last states of prompts.
            compliance: (n,) share of each prompt's answers that comply.
            harmless: (n,) 1 for harmless requests, 0 for harmful ones.
            seed: Of the directions beyond the main ones; any will do.
        """
        mean = states.mean(0)
        basis = orthonormal(states - mean, seed=seed)
        z = (states - mean) @ basis[:, :DIRECTIONS]
        return cls(mean, basis, LogisticProbe.fit(z, compliance), LogisticProbe.fit(z, harmless))

    def __call__(self, states: Tensor) -> Tensor:
        """Coordinates (n, d) of states (n, d)."""
        return (states - self.mean) @ self.basis

    def loss(self, z: Tensor, before: Tensor, harmless: Tensor) -> Tensor:
        """Loss of a soft prompt relative to the text that it began as.

        Compliance shall fall for harmful requests and rise for harmless ones; so shall, weakly,
        what tells them apart; all other coordinates stay.

        Args:
            z: (n, d) coordinates of prompts under the soft prompt.
            before: (n, d) under the text.
            harmless: (n,) 1 for harmless requests, 0 for harmful ones.
        """
        from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

        compliance = cross_entropy(self.complies(z) - self.complies(before), harmless)
        harm = cross_entropy(self.harmless(z) - self.harmless(before), harmless)
        rest = ((z - before)[:, DIRECTIONS:] ** 2).mean()
        return compliance + _HARM_WEIGHT * harm + _REST_WEIGHT * rest


def orthonormal(centred: Tensor, *, seed: int) -> Tensor:
    """An orthonormal basis (d, d) whose first columns are the main directions of states (n, d)."""
    import torch

    width = centred.shape[1]
    main = torch.linalg.svd(centred.double(), full_matrices=False).Vh[:DIRECTIONS].T
    numbers = torch.Generator().manual_seed(seed)
    others = torch.randn(width, width - DIRECTIONS, generator=numbers, dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([main, others], dim=1)).Q
    basis[:, :DIRECTIONS] = main
    found: Tensor = basis.float()
    return found
