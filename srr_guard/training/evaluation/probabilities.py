"""Figures and curves of `p_safe`: does it tell harm from the rest, and mean what it says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from srr_guard.training.calibration import expected_calibration_error
from srr_guard.training.data import LabelledResponse
from srr_guard.training.evaluation.metrics import THRESHOLD, Figure, Metric, bootstrap

_BINS = 10
_POINTS = 101
_FALSE_ALARMS = 0.01


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class OperatingPoint(_Frozen):
    """One threshold on `p_safe` and its effect.

    Attributes:
        name: What the threshold is.
        threshold: Answers below it are blocked.
        recall: Share of the unsafe answers blocked.
        false_alarms: Share of the safe answers blocked.
    """

    name: str
    threshold: float
    recall: float
    false_alarms: float


class ReliabilityBin(_Frozen):
    """Answers whose `p_safe` is alike: what it says, and what is true of them.

    Attributes:
        confidence: Mean `p_safe`.
        safe: Share that is safe.
        rows: How many answers.
    """

    confidence: float
    safe: float
    rows: int


class ProbabilityCurves(_Frozen):
    """Curves of `p_safe` over one set.

    Attributes:
        roc: Points (false alarms, recall), from none blocked to all.
        operating_points: The default threshold, and the one with 1% false alarms.
        reliability: Bins of equal width, empty ones left out.
    """

    roc: tuple[tuple[float, float], ...]
    operating_points: tuple[OperatingPoint, ...]
    reliability: tuple[ReliabilityBin, ...]


def probability_figures(
    rows: Sequence[LabelledResponse], p_safe: Tensor, *, seed: int = 0
) -> dict[Metric, Figure]:
    """Figures of `p_safe` over rows with labels that stand by themselves.

    - `harm_blocked`: share of the unsafe rows below the default threshold.
    - `help_blocked`: share of the helpful answers to benign requests below it.
    - `auroc`: a safe row has a higher p_safe than an unsafe one.
    - `f1`: of finding unsafe rows at the default threshold.
    - `recall_at_1_fpr`: share of the unsafe rows caught when 1% of the safe ones are blocked.
    - `recall_at_5_fpr`: the same at 5%.
    - `calibration_error`: expected calibration error over 15 bins.

    Args:
        rows: Labelled responses.
        p_safe: (n,) their probabilities.
        seed: Makes the bootstrap repeatable.
    """
    keep = [i for i, r in enumerate(rows) if r.absolute]
    figures: dict[Metric, Figure] = {
        **_blocked("harm_blocked", rows, p_safe, [i for i in keep if not rows[i].safe]),
        **_blocked("help_blocked", rows, p_safe, [i for i in keep if rows[i].helps]),
    }
    labels = torch.tensor([rows[i].safe for i in keep])
    if len(set(labels.tolist())) < 2:
        return figures
    p = p_safe[keep]
    goals: defaultdict[str, list[int]] = defaultdict(list)
    for k, i in enumerate(keep):
        goals[rows[i].goal_id].append(k)
    members = [torch.tensor(g) for g in goals.values()]
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(members), (100, len(members)), generator=generator).tolist()
    draws = [torch.cat([members[g] for g in drawn]) for drawn in picks]
    draws = [d for d in draws if 0 < int(labels[d].sum()) < len(d)]
    measures: dict[Metric, Callable[[Tensor, Tensor], float]] = {
        "auroc": _auroc,
        "f1": _f1,
        "recall_at_1_fpr": partial(_recall, false_alarms=_FALSE_ALARMS),
        "recall_at_5_fpr": partial(_recall, false_alarms=0.05),
        "calibration_error": expected_calibration_error,
    }
    for metric, measure in measures.items():
        spread = torch.tensor([measure(p[d], labels[d]) for d in draws])
        figures[metric] = Figure(
            value=measure(p, labels),
            low=float(spread.quantile(0.025)),
            high=float(spread.quantile(0.975)),
            goals=len(members),
        )
    return figures


def probability_curves(
    rows: Sequence[LabelledResponse], p_safe: Tensor
) -> ProbabilityCurves | None:
    """Curves over the rows with labels that stand by themselves; None without both labels.

    Args:
        rows: Labelled responses.
        p_safe: (n,) their probabilities.
    """
    keep = [i for i, r in enumerate(rows) if r.absolute]
    safe = torch.tensor([rows[i].safe for i in keep], dtype=torch.bool)
    if not safe.any() or safe.all():
        return None
    p = p_safe[keep]
    thresholds = p[safe].quantile(torch.linspace(0, 1, _POINTS, dtype=p.dtype))
    roc = [(0.0, 0.0), *((_below(p[safe], t), _below(p[~safe], t)) for t in thresholds), (1.0, 1.0)]
    points = (
        ("default threshold", torch.tensor(THRESHOLD)),
        ("1% false alarms", p[safe].quantile(_FALSE_ALARMS)),
    )
    index = (p * _BINS).long().clamp(0, _BINS - 1)
    bins = [index == b for b in range(_BINS) if (index == b).any()]
    return ProbabilityCurves(
        roc=tuple(roc),
        operating_points=tuple(
            OperatingPoint(
                name=name,
                threshold=float(t),
                recall=_below(p[~safe], t),
                false_alarms=_below(p[safe], t),
            )
            for name, t in points
        ),
        reliability=tuple(
            ReliabilityBin(
                confidence=float(p[own].mean()),
                safe=float(safe[own].float().mean()),
                rows=int(own.sum()),
            )
            for own in bins
        ),
    )


def _below(p: Tensor, threshold: Tensor) -> float:
    return float((p < threshold).float().mean())


def _blocked(
    metric: Metric, rows: Sequence[LabelledResponse], p_safe: Tensor, chosen: Sequence[int]
) -> dict[Metric, Figure]:
    """Share of the chosen rows below the default threshold; nothing where there are none."""
    by_goal: defaultdict[str, list[float]] = defaultdict(list)
    for i in chosen:
        by_goal[rows[i].goal_id].append(float(p_safe[i] < THRESHOLD))
    return {metric: bootstrap(list(by_goal.values()))} if by_goal else {}


def _auroc(p: Tensor, safe: Tensor) -> float:
    """Area under the ROC curve, ties counted by half."""
    good, bad = p[safe], p[~safe].sort().values
    below = torch.searchsorted(bad, good) + torch.searchsorted(bad, good, right=True)
    return float(below.double().mean() / (2 * len(bad)))


def _f1(p: Tensor, safe: Tensor) -> float:
    """F1 of the default threshold; unsafe is the positive class."""
    found = p < THRESHOLD
    hits = int((found & ~safe).sum())
    return 2 * hits / int(found.sum() + (~safe).sum())


def _recall(p: Tensor, safe: Tensor, *, false_alarms: float) -> float:
    """Share of unsafe rows below the threshold that blocks this share of the safe ones."""
    return _below(p[~safe], p[safe].quantile(false_alarms))
