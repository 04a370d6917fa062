"""What a probe reads of labelled rows: one standardised input, logit, target and weight a row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from srr_guard.scorer.head import Probe, SRRHead
from srr_guard.training.data import LabelledResponse
from srr_guard.training.feature_store import Examples, judge_examples
from srr_guard.training.fit.targets import (
    SAFE_SHARE,
    Target,
    answers_targets,
    harmful_request_targets,
    harmless_targets,
    row_weights,
)

Part = Literal["harmless", "answers", "harmful_request"]
"""A probe of the head that can be moved."""


@dataclass(frozen=True, eq=False)
class View:
    """The n rows that have a target for one probe.

    Attributes:
        x: (n, k) float64 standardised inputs: of the worst window for `harmless`, the mean of
            the windows for `answers`, of the request for `harmful_request`.
        logits: (n,) logits of the base's probe; for `harmless` those behind `p_safe`.
        y: (n,) 0 or 1.
        weights: (n,) weights that sum to 1.
        goals: The goal of each row.
        positive: Share of the weights for the target 1 (see `positive_share`).
    """

    x: Tensor
    logits: Tensor
    y: Tensor
    weights: Tensor
    goals: tuple[str, ...]
    positive: float = 0.5

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: Tensor) -> View:
        """Some of the rows; their weights are balanced anew."""
        y = self.y[rows]
        return View(
            x=self.x[rows],
            logits=self.logits[rows],
            y=y,
            weights=balanced(self.weights[rows], y, positive=self.positive),
            goals=tuple(self.goals[i] for i in rows.tolist()),
            positive=self.positive,
        )

    @property
    def fewest(self) -> int:
        """How many rows have the rarer target."""
        return int(min(self.y.sum(), (1 - self.y).sum()))

    @property
    def effective_rows(self) -> float:
        """Equally weighted rows that would say as much."""
        return float(1 / self.weights.square().sum())


def parts_of(head: SRRHead) -> tuple[Part, ...]:
    """The probes that a head has."""
    return ("harmless", "answers", "harmful_request") if head.config.graded else ("harmless",)


def probe_of(head: SRRHead, part: Part) -> Probe:
    """One of the head's probes."""
    probe = head.get_submodule(part)
    assert isinstance(probe, Probe)
    return probe


def targets_of(rows: Sequence[LabelledResponse], part: Part) -> list[Target]:
    """The target of each row for a probe; None where the row has none."""
    if part == "harmless":
        return harmless_targets(rows)
    return answers_targets(rows) if part == "answers" else harmful_request_targets(rows)


def positive_share(part: Part) -> float:
    """Weight of the rows with the target 1: `p_safe` keeps the share it is calibrated for."""
    return SAFE_SHARE if part == "harmless" else 0.5


def view_of(head: SRRHead, part: Part, examples: Examples) -> View:
    """Read what a probe sees of the rows that have a target for it."""
    rows = examples.rows
    targets = targets_of(rows, part)
    x, logits = inputs_of(head, part, examples)
    known = torch.tensor([i for i, t in enumerate(targets) if t is not None], dtype=torch.int64)
    positive = positive_share(part)
    return View(
        x=x[known],
        logits=logits[known],
        y=torch.tensor([float(targets[i] or False) for i in known.tolist()]).double(),
        weights=row_weights(rows, targets, positive=positive).double()[known],
        goals=tuple(rows[i].goal_id for i in known.tolist()),
        positive=positive,
    )


def inputs_of(head: SRRHead, part: Part, examples: Examples) -> tuple[Tensor, Tensor]:
    """Read (n, k) standardised inputs and (n,) logits of a probe, one of each row (see `View`)."""
    probe, owner, n = probe_of(head, part), examples.owner, len(examples)
    with torch.no_grad():
        if part == "harmful_request":
            x = probe.standardised(head.request_inputs(examples.states(examples.first)))
        else:
            windows = torch.arange(len(owner))
            x = probe.standardised(head.candidate_inputs(examples.states(windows)))
            if part == "harmless":
                x = x[_lowest(probe.linear(x)[:, 0], owner)]
                return x.double(), head.safety(judge_examples(head, examples).probes).double()
            sums = x.new_zeros(n, x.shape[1]).index_add_(0, owner, x)
            x = sums / torch.bincount(owner, minlength=n)[:, None]
        return x.double(), probe.linear(x)[:, 0].double()


def balanced(weights: Tensor, y: Tensor, *, positive: float = 0.5) -> Tensor:
    """Weights that sum to 1, a share of them for y = 1; all for the only target there is."""
    mass = torch.stack([(weights * (1 - y)).sum(), (weights * y).sum()])
    share = weights.new_tensor([1 - positive, positive]) * (mass > 0)
    return weights * (share / share.sum() / mass.clamp(min=1e-12))[y.long()]


def _lowest(logits: Tensor, owner: Tensor) -> Tensor:
    """Index of each row's window with the lowest logit."""
    members: defaultdict[int, list[int]] = defaultdict(list)
    for window, row in enumerate(owner.tolist()):
        members[row].append(window)
    values = logits.tolist()
    return torch.tensor([min(own, key=values.__getitem__) for own in members.values()])
