"""The listwise loss."""

from __future__ import annotations

import torch
from torch import Tensor


def listwise_kl_loss(scores: Tensor, relevant: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL divergence from the ideal to the predicted distribution over each list.

    The ideal p* is uniform over the relevant candidates, the prediction is the softmax of the
    scores; both are taken over the real candidates only.

    Args:
        scores: (B, m) scores, already divided by the temperature.
        relevant: (B, m) bool, True for the candidates that should win.
        mask: (B, m) bool, False for padding; None: no padding.

    Returns:
        Mean over the lists that have a relevant and an irrelevant candidate; zero (with
        gradient) when there is none.

    Requirements:
        Lists should hold at least one candidate of each kind; others are left out.

    References:
        Safety Representation Ranking, arXiv 2505.15710, equation for L = KL(p* || p).

    Example:
        >>> loss = listwise_kl_loss(torch.tensor([[9.0, -9.0]]), torch.tensor([[True, False]]))
        >>> round(float(loss), 3)
        0.0
    """
    real = torch.ones_like(relevant) if mask is None else mask
    relevant = relevant & real
    predicted = torch.log_softmax(scores.masked_fill(~real, -torch.inf), dim=1)
    count = relevant.sum(1, keepdim=True)
    ideal = relevant / count.clamp(min=1)
    # 0 log 0 = 0: neither padding nor an irrelevant candidate adds anything
    cross_entropy = -(ideal * predicted.masked_fill(~relevant, 0.0)).sum(1)
    divergence = cross_entropy - count.clamp(min=1).squeeze(1).log()
    useful = relevant.any(1) & (real & ~relevant).any(1)
    return (divergence * useful).sum() / useful.sum().clamp(min=1)
