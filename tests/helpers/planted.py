"""Features of made-up rows whose labels depend on planted directions: no model, no text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from srr_guard.scorer import HeadConfig
from srr_guard.scorer.head import SRRHead
from srr_guard.training.data import LabelledResponse
from srr_guard.training.feature_store import Examples

WIDTH = 24
CONFIG = HeadConfig(
    width=WIDTH, depths=(1,), poolings=("mean",), pointwise=True, graded=True, listwise=False
)
PLAIN = CONFIG.model_copy(update={"graded": False})


def axis(i: int) -> Tensor:
    """The direction of one of the features."""
    return torch.eye(WIDTH)[i]


class Planted:
    """Makes rows and keeps their features."""

    def __init__(self) -> None:
        self._features: dict[tuple[str, str], Tensor] = {}
        self._requests: dict[str, Tensor] = {}

    def rows(
        self,
        n: int,
        direction: Tensor,
        *,
        seed: int = 0,
        noise: float = 0.5,
        name: str = "own",
        windows: int = 1,
        quiet: int | None = None,
        **fields: str,
    ) -> list[LabelledResponse]:
        """Rows that are safe where their features point along a direction, two to a request.

        The feature `quiet` hardly varies among them.
        """
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, windows, WIDTH, generator=generator)
        x = x[:, :1] + 0.1 * (x - x[:, :1])
        if quiet is not None:
            x[..., quiet] *= 0.1
        safe = x[:, 0] @ direction + noise * torch.randn(n, generator=generator) > 0
        found = []
        for i in range(n):
            row = LabelledResponse(
                prompt=f"{name} {seed} {i // 2}",
                response=f"answer {i}",
                label="safe" if safe[i] else "unsafe",
                source=name,
                **fields,
            )
            self._features[row.prompt, row.response] = x[i]
            self._requests.setdefault(row.prompt, torch.randn(WIDTH, generator=generator))
            found.append(row)
        return found

    def load(self, rows: Sequence[LabelledResponse]) -> Examples:
        """What a feature store would give for these rows."""
        windows = [self._features[row.prompt, row.response] for row in rows]
        requests = torch.stack([self._requests[row.prompt] for row in rows])[:, None]
        means = torch.cat(windows)[:, None]
        return Examples(
            rows=rows,
            prompt={"instruction": requests, "request": requests},
            windows={"mean": means, "last": means},
            owner=torch.repeat_interleave(
                torch.arange(len(rows)), torch.tensor([len(own) for own in windows])
            ),
        )


def planted_head(direction: Tensor, config: HeadConfig = PLAIN, *, gain: float = 2.0) -> SRRHead:
    """A head whose harmless probe reads one direction; its other probes read the next ones."""
    head = SRRHead(config)
    with torch.no_grad():
        head.harmless.linear.weight.copy_(gain * direction[None])
        head.harmless.linear.bias.zero_()
        if config.graded:
            head.answers.linear.weight.copy_(gain * direction.roll(1)[None])
            head.answers.linear.bias.zero_()
            head.harmful_request.linear.weight.zero_()
            head.harmful_request.linear.bias.fill_(-2.0)
    return head.eval().requires_grad_(False)
