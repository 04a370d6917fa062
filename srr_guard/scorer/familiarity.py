"""How familiar a request is: its place among the requests of the training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_POINTS = 101


class Familiarity(nn.Module):
    """The share of training requests that are at least as unusual as a given one.

    Unusual is what lies far from the mean of the training requests: the mean squared coordinate
    along their main directions, each in its standard deviations, plus what lies outside of these
    directions, relative to its mean.

    Args:
        inputs: Numbers that describe a request (`HeadConfig.request_inputs`).
        directions: Main directions to keep.

    Example:
        >>> requests = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
        >>> familiarity = Familiarity(8, 4)
        >>> familiarity.fit(requests[:200], requests[200:])
        >>> shares = familiarity(torch.stack([requests[:200].mean(0), requests[0] + 50]))
        >>> [round(share, 2) for share in shares.tolist()]
        [1.0, 0.0]
    """

    offset: Tensor
    scale: Tensor
    basis: Tensor
    spread: Tensor
    outside: Tensor
    points: Tensor

    def __init__(self, inputs: int, directions: int) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("basis", torch.zeros(directions, inputs))
        self.register_buffer("spread", torch.ones(directions))
        self.register_buffer("outside", torch.ones(()))
        self.register_buffer("points", torch.linspace(0.0, 1.0, _POINTS))

    def forward(self, x: Tensor) -> Tensor:
        """Shares (...) of requests (..., inputs)."""
        rank = torch.searchsorted(self.points, self.distance(x).contiguous(), side="left")
        return 1.0 - rank.clamp(max=_POINTS - 1) / (_POINTS - 1)

    def distance(self, x: Tensor) -> Tensor:
        """How unusual requests (..., inputs) are, (...); about 2 for those of the training."""
        x = ((x - self.offset) / self.scale).clamp(-8, 8)
        along = x @ self.basis.T
        rest = x.square().sum(-1) - along.square().sum(-1)
        return (along / self.spread).square().mean(-1) + rest / self.outside

    @torch.no_grad()
    def fit(self, requests: Tensor, others: Tensor) -> None:
        """Learn what is usual.

        Args:
            requests: (n, inputs) of the training.
            others: (m, inputs) of other goals: the shares are counted among them.
        """
        self.offset.copy_(requests.mean(0))
        self.scale.copy_(requests.std(0).clamp(min=1e-4))
        x = ((requests - self.offset) / self.scale).clamp(-8, 8)
        values, vectors = torch.linalg.eigh(x.T @ x / len(x))
        self.basis.copy_(vectors[:, -len(self.basis) :].T)
        self.spread.copy_(values[-len(self.spread) :].clamp(min=1e-6).sqrt())
        rest = x.square().sum(-1) - (x @ self.basis.T).square().sum(-1)
        self.outside.copy_(rest.mean().clamp(min=1e-6))
        self.points.copy_(self.distance(others).quantile(torch.linspace(0.0, 1.0, _POINTS)))
