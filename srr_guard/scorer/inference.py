"""From windows of hidden states to scores: the worst window of a candidate counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srr_guard.scorer.head import SRRHead


@dataclass(frozen=True, eq=False)
class Judged:
    """n candidates, each judged by itself.

    Attributes:
        harmless: (n,) logit of p(harmless) of the worst window.
        p_safe: (n,) calibrated probability.
        help: (n,) logit of p(help), mean over the windows.
        states: `mean` and `last` of the worst window, (n, D, d) each.
        instruction: (n, D, d).
    """

    harmless: Tensor
    p_safe: Tensor
    help: Tensor
    states: dict[str, Tensor]
    instruction: Tensor


def judge(
    head: SRRHead, *, mean: Tensor, last: Tensor, instruction: Tensor, owner: Tensor
) -> Judged:
    """Judge candidates by themselves.

    Args:
        head: A trained head; D are its depths.
        mean: (W, D, d), mean states of W windows.
        last: (W, D, d), their last tokens' states.
        instruction: (n, D, d), the prompt's last token, for each candidate.
        owner: (W,) int64, ascending: the candidate each window belongs to.
    """
    states = {"mean": mean, "last": last}
    with torch.inference_mode():
        harmless, help_ = head.pointwise_logits(
            {k: v[:, None] for k, v in states.items()}, instruction[owner][:, None]
        )
        harmless, help_ = harmless[:, 0], help_[:, 0]
        n = len(instruction)
        worst = torch.tensor(
            [int(torch.where(owner == i, harmless, torch.inf).argmin()) for i in range(n)]
        )
        total = torch.zeros(n).index_add_(0, owner, help_)
        return Judged(
            harmless=harmless[worst],
            p_safe=head.calibrated(harmless[worst]),
            help=total / torch.bincount(owner, minlength=n),
            states={k: v[worst] for k, v in states.items()},
            instruction=instruction,
        )


def list_scores(head: SRRHead, judged: Judged, indices: Sequence[int] | None = None) -> Tensor:
    """Listwise scores of the candidates `indices` as one list, (len(indices),)."""
    chosen = torch.arange(len(judged.help)) if indices is None else torch.tensor(list(indices))
    with torch.inference_mode():
        scores = torch.zeros(len(chosen))
        if head.config.pointwise:
            scores = head.relevance(judged.harmless[chosen], judged.help[chosen])
        if head.config.listwise:
            states = {k: v[chosen][None] for k, v in judged.states.items()}
            scores = scores + head.listwise_scores(states, judged.instruction[chosen][None])[0]
        return scores
