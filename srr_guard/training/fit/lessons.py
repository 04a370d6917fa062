"""Lessons: inputs, targets and weights of one probe, from labelled rows and their features."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from srr_guard.errors import DataError
from srr_guard.scorer.head import SRRHead
from srr_guard.training.feature_store import Examples
from srr_guard.training.fit.targets import (
    Target,
    answers_targets,
    harmful_request_targets,
    harmless_targets,
    preference_pairs,
    row_weights,
)

ProbeName = Literal["harmless", "answers", "harmful_request"]


@dataclass(frozen=True, eq=False)
class Lesson:
    """The targets of one probe on one side of the split.

    Attributes:
        x: (n, k) inputs.
        y: (n,) 0 or 1.
        weights: (n,) weights that sum to 1, half for each class.
        differences: (p, k) inputs of the better answer minus those of the worse one.
    """

    x: Tensor
    y: Tensor
    weights: Tensor
    differences: Tensor


def lesson(
    head: SRRHead,
    name: ProbeName,
    side: Examples,
    source_weights: Mapping[str, float] | None,
    *,
    harmful_sources: Collection[str] = (),
) -> Lesson:
    """What one side of the split teaches a probe.

    Raises:
        DataError: The rows do not have both labels.
    """
    rows, of_request = side.rows, name == "harmful_request"
    if name == "harmless":
        targets = harmless_targets(rows)
    elif name == "answers":
        targets = answers_targets(rows)
    else:
        targets = harmful_request_targets(rows, harmful_sources=harmful_sources)
    if not {True, False} <= set(targets):
        raise DataError(
            f"the rows do not show both sides of {name.replace('_', ' ')!r}: give rows with "
            "`kind` benign-help, over-refusal, refusal and compliance"
        )
    windows = _taught_windows(side, targets, first_only=of_request)
    owner = side.owner[windows]
    weights = row_weights(rows, targets, source_weights)
    pairs = preference_pairs(rows) if name == "harmless" else []
    better, worse = (side.first[torch.tensor(ends, dtype=torch.int64)] for ends in _ends(pairs))
    read = partial(_inputs, head, side, of_request=of_request)
    return Lesson(
        x=read(windows),
        y=torch.tensor([float(targets[i] or False) for i in owner.tolist()]),
        weights=weights[owner] / torch.bincount(owner)[owner],
        differences=read(better) - read(worse),
    )


def _ends(pairs: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [better for better, _ in pairs], [worse for _, worse in pairs]


def _taught_windows(side: Examples, targets: Sequence[Target], *, first_only: bool) -> Tensor:
    """Windows of the rows that have a target: all of them, or the first of each row."""
    known = torch.tensor([t is not None for t in targets])
    if first_only:
        return side.first[known]
    return known[side.owner].nonzero().squeeze(1)


def _inputs(head: SRRHead, side: Examples, windows: Tensor, *, of_request: bool) -> Tensor:
    """Numbers (w, k) that a probe reads of these windows, or of their requests."""
    states = side.states(windows)
    return head.request_inputs(states) if of_request else head.candidate_inputs(states)


def requests(head: SRRHead, side: Examples) -> Tensor:
    """(n, request_inputs) of each different prompt."""
    seen: dict[str, int] = {}
    for i, row in enumerate(side.rows):
        seen.setdefault(row.prompt, i)
    windows = side.first[torch.tensor(list(seen.values()))]
    return _inputs(head, side, windows, of_request=True)
