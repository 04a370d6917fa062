"""Draws tokens: all rows in few operations, each with its own random numbers.

Temperature first, then the smallest set of likeliest tokens whose probabilities sum to `top_p`,
as transformers' warpers do it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_LIKELIEST = 256
"""Tokens that are sorted first; where they are not enough, all are."""


@dataclass(frozen=True, eq=False)
class Draw:
    """How the tokens of one row are drawn.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: Share of the probability that sampling is limited to, in (0, 1].
        random: The row's own random numbers; one is used for each token.
    """

    temperature: float
    top_p: float
    random: random.Random


def draw(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """Draw a token for each row of logits (rows, vocabulary), float32."""
    greedy = [i for i, d in enumerate(draws) if d.temperature == 0.0]
    if len(greedy) == len(draws):
        return list(map(int, logits.argmax(-1).tolist()))
    sampled = [i for i, d in enumerate(draws) if d.temperature > 0.0]
    if not greedy:
        return _sampled(logits, draws)
    tokens = dict(zip(greedy, logits[greedy].argmax(-1).tolist(), strict=True))
    found = _sampled(logits[sampled], [draws[i] for i in sampled])
    tokens |= dict(zip(sampled, found, strict=True))
    return [int(tokens[i]) for i in range(len(draws))]


def _sampled(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """Each row's token is where its random number falls in its cumulated probabilities."""
    import torch

    shares = torch.tensor([d.top_p for d in draws], dtype=torch.float64)[:, None]
    temperatures = torch.tensor([d.temperature for d in draws], device=logits.device)[:, None]
    numbers = torch.tensor([d.random.random() for d in draws], dtype=torch.float64)
    probabilities = (logits / temperatures).softmax(-1)
    size = min(_LIKELIEST, logits.shape[1])
    values, ids = (t.cpu() for t in probabilities.topk(size))
    cumulated = values.double().cumsum(-1)
    enough = (cumulated[:, -1:] >= shares)[:, 0].tolist()
    tokens = ids.gather(1, _places(values, cumulated, shares, numbers[:, None]))[:, 0].tolist()
    for i, done in enumerate(enough):
        if not done:
            tokens[i] = _among_all(probabilities[i].cpu(), shares[i], numbers[i])
    return list(map(int, tokens))


def _among_all(row: Tensor, share: Tensor, number: Tensor) -> int:
    """The token of one row (vocabulary,) whose likeliest tokens are too many to be sorted first."""
    # tokens below the limit have less than 1 - share together, so none of them is kept
    ids = (row >= float(1.0 - share) / len(row)).nonzero()[:, 0]
    values = row[ids]
    if share < 1.0:
        values, order = values.sort(descending=True)
        ids = ids[order]
    place = _places(values[None], values.double().cumsum(-1)[None], share[None], number[None, None])
    return int(ids[place[0, 0]])


def _places(values: Tensor, cumulated: Tensor, shares: Tensor, numbers: Tensor) -> Tensor:
    """Where (rows, 1) the numbers fall among descending probabilities (rows, tokens)."""
    import torch

    kept = (cumulated - values.double() < shares).sum(-1, keepdim=True).clamp_(min=1)
    whole = cumulated.gather(1, kept - 1)
    return torch.searchsorted(cumulated, numbers * whole, right=True).minimum(kept - 1)
