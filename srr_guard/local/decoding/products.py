"""Products of few rows with large weights, near the speed at which memory is read.

BLAS libraries are slow where one factor has a handful of rows: 8 rows times a Llama's weights in
float32 take 2.5 times as long as reading the weights. As a batch of products with panels of the
same weights, where they lie, they take 1.3 times as long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FEWEST = 3
"""Rows from which on a row's product no longer depends on how many others there are."""

_MOST = 15
"""Rows up to which it does not; more are multiplied in parts."""

_PANEL = 64


def product(rows: Tensor, weight: Tensor) -> Tensor:
    """Multiply (rows, inputs) by a weight (outputs, inputs), as `nn.Linear` holds it."""
    import torch

    if len(rows) > _MOST:
        parts = torch.tensor_split(rows, -(-len(rows) // _MOST))
        return torch.cat([product(part, weight) for part in parts])
    count, inputs = rows.shape
    panels, rest = divmod(len(weight), _PANEL)
    out = rows.new_empty(count, len(weight))
    if panels:
        whole = weight[: panels * _PANEL].view(panels, _PANEL, inputs)
        found = torch.bmm(rows.expand(panels, count, inputs), whole.transpose(1, 2))
        if not rest:
            return found.transpose(0, 1).reshape(count, -1)
        out[:, :-rest].view(count, panels, _PANEL).copy_(found.transpose(0, 1))
    torch.mm(rows, weight[len(weight) - rest :].t(), out=out[:, len(weight) - rest :])
    return out
