"""Choose how strongly each probe is moved, by cross-validation over goals."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from srr_guard.scorer.head import SRRHead
from srr_guard.training.adapting.moves import Move, Ridge, capped, log_loss, moved
from srr_guard.training.adapting.views import Part, View, inputs_of, parts_of, view_of
from srr_guard.training.calibration import refit_platt
from srr_guard.training.feature_store import Examples, judge_examples

STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Strengths that `auto` chooses from; 0 leaves the probe as it is."""

FOLDS = 5
MOST_KEPT = 200
"""Most anchors that are learnt beside the rows; drift is measured on all."""

FEWEST = 4
"""A probe is left alone where fewer rows than this show one of its sides."""

Strength = float | Literal["auto"]


@dataclass(frozen=True)
class Search:
    """Settings of the search for moves.

    Attributes:
        strength: Logits that a typical row may move; `auto`: chosen by cross-validation.
        most_drift: Largest mean change of a probability on the anchors.
        seed: Changes the folds.
    """

    strength: Strength = "auto"
    most_drift: float = 0.05
    seed: int = 0


def goal_folds(
    goals: Sequence[str], y: Sequence[bool], *, folds: int = FOLDS, seed: int
) -> list[Tensor]:
    """Indices of the rows of each fold; no goal is in two, and each has a share of both labels.

    Args:
        goals: The goal of each row.
        y: The label of each row.
        folds: How many; no more than there are goals.
        seed: Changes which goals they are.
    """
    members: defaultdict[str, list[int]] = defaultdict(list)
    for i, goal in enumerate(goals):
        members[goal].append(i)
    order = sorted(members)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda goal: sum(y[i] for i in members[goal]) / len(members[goal]))
    folds = min(folds, len(order))
    dealt = [[i for goal in order[k::folds] for i in members[goal]] for k in range(folds)]
    return [torch.tensor(sorted(rows)) for rows in dealt]


def find_moves(
    head: SRRHead, examples: Examples, anchors: Examples, search: Search
) -> dict[Part, Move]:
    """The move of each probe whose both sides the rows show.

    Args:
        head: The base; it needs a pointwise path.
        examples: Labelled rows of the deployment.
        anchors: Texts on which the probabilities may move only so far.
        search: Settings.
    """
    if search.strength == 0:
        return {}
    found: dict[Part, Move] = {}
    for part in parts_of(head):
        view = view_of(head, part, examples)
        if view.fewest < FEWEST or len(set(view.goals)) < 2:
            continue
        slope, intercept = head.calibration.tolist() if part == "harmless" else (1.0, 0.0)
        link = (slope, intercept)
        kept = _spread(inputs_of(head, part, anchors))
        strength, logits = _choose(view, link, kept, search)
        move = Ridge(view, link, kept).fit(strength)
        if part == "harmless":
            platt = refit_platt(
                logits, view.y, view.weights, base=head.calibration, rows=view.effective_rows
            )
            move = replace(move, calibration=platt)
        found[part] = capped(move, _drift_on(head, part, anchors), search.most_drift)
    return found


def probability(head: SRRHead, part: Part, examples: Examples) -> Tensor:
    """(n,) probability that a probe gives to each row, `p_safe` for `harmless`."""
    judged = judge_examples(head, examples)
    if part == "harmless":
        return judged.p_safe
    probes = judged.probes
    return torch.sigmoid(probes.answers if part == "answers" else probes.harmful_request)


def _spread(found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """At most `MOST_KEPT` of the anchors, from first to last."""
    x, logits = found
    at = torch.linspace(0, len(x) - 1, min(len(x), MOST_KEPT)).round().long()
    return x[at], logits[at]


def _choose(
    view: View, link: tuple[float, float], kept: tuple[Tensor, Tensor], search: Search
) -> tuple[float, Tensor]:
    """The weakest strength that is as good as any, and the logits of rows on goals left out.

    As good: its loss is within a standard error of the least one, in pairs over goals. What
    brings little here costs most on other texts.
    """
    strengths = STRENGTHS if search.strength == "auto" else (float(search.strength),)
    logits = view.logits.repeat(len(strengths), 1)
    for held_out in goal_folds(view.goals, view.y.bool().tolist(), seed=search.seed):
        rest = torch.ones(len(view), dtype=torch.bool)
        rest[held_out] = False
        seen = view[rest.nonzero()[:, 0]]
        if seen.fewest == 0:
            continue
        ridge = Ridge(seen, link, kept)
        for k, strength in enumerate(strengths):
            move = ridge.fit(strength)
            logits[k, held_out] += view.x[held_out] @ move.direction + move.offset
    slope, intercept = link
    losses = torch.stack([log_loss(slope * z + intercept, view.y) for z in logits]) * view.weights
    order = {goal: k for k, goal in enumerate(dict.fromkeys(view.goals))}
    goal_of = torch.tensor([order[goal] for goal in view.goals])
    by_goal = losses.new_zeros(len(strengths), len(order)).index_add_(1, goal_of, losses)
    best = int(by_goal.sum(1).argmin())
    behind = by_goal - by_goal[best]
    error = behind.std(1) * len(order) ** 0.5
    chosen = int((behind.sum(1) <= error).nonzero()[0, 0])
    return strengths[chosen], logits[chosen]


def _drift_on(head: SRRHead, part: Part, anchors: Examples) -> Callable[[Move], float]:
    """How far a move shifts the anchors' probabilities, on average: the probe's, or `p_safe`."""
    parts: tuple[Part, ...] = (part, "harmless")
    before = [probability(head, one, anchors) for one in parts]

    def drift(move: Move) -> float:
        after = moved(head, {part: move})
        each = zip(parts, before, strict=True)
        return max(float((probability(after, p, anchors) - b).abs().mean()) for p, b in each)

    return drift
