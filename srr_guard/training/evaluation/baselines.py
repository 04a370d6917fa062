"""Baselines: rankings that need no model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from srr_guard.training.data import LabelledResponse
from srr_guard.training.data.refusals import is_refusal
from srr_guard.training.evaluation.metrics import ListScores


def baseline_scores(rows: Sequence[LabelledResponse]) -> dict[str, ListScores]:
    """Rankings by name: `random`, `first`, `shortest`, `refusal words` and the `oracle`.

    The oracle knows the labels: it is what a perfect ranking of these lists would get.
    """
    shortest = torch.tensor([-float(len(r.response)) for r in rows])
    words = torch.tensor([float(is_refusal(r.response)) for r in rows])
    truth = torch.tensor([float(r.safe) - 0.5 * (r.helps is False) for r in rows])
    return {
        "random": lambda indices: torch.zeros(len(indices)),
        "first": lambda indices: -torch.arange(len(indices)),
        "shortest": _lookup(shortest),
        "refusal words": _lookup(words),
        "oracle": _lookup(truth),
    }


def _lookup(values: Tensor) -> ListScores:
    return lambda indices: values[list(indices)]
