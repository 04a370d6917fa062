"""Judge the whole procedure on rows that it did not see, fold by fold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srr_guard.protocols import ProgressCallback
from srr_guard.scorer.head import SRRHead
from srr_guard.scorer.inference import list_scores
from srr_guard.training.adapting.choice import Search, find_moves, goal_folds
from srr_guard.training.adapting.moves import Move, log_loss, moved
from srr_guard.training.adapting.views import Part, positive_share, targets_of
from srr_guard.training.data import LabelledResponse
from srr_guard.training.evaluation.metrics import Figure, Metric, bootstrap, ranking_figures
from srr_guard.training.evaluation.probabilities import probability_figures
from srr_guard.training.feature_store import Examples, judge_examples
from srr_guard.training.fit.targets import row_weights
from srr_guard.training.progress import silent

Load = Callable[[Sequence[LabelledResponse]], Examples]
"""From rows to their features."""


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows that were left out, and the moves that were found without them.

    Attributes:
        held_out: (m,) indices of the rows.
        examples: Their features.
        moves: The moves found on the other rows.
    """

    held_out: Tensor
    examples: Examples
    moves: Mapping[Part, Move]


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What is said of n rows.

    Attributes:
        p_safe: (n,) calibrated probabilities.
        p_help: (n,) probabilities of help that is due.
        logits: (n,) each, by probe; of `p_safe` for `harmless`.
        scores: (n,) relevance; None where it depends on the list.
    """

    p_safe: Tensor
    p_help: Tensor
    logits: Mapping[Part, Tensor]
    scores: Tensor | None


def cross_fit(
    head: SRRHead,
    rows: Sequence[LabelledResponse],
    load: Load,
    anchors: Examples,
    search: Search,
    *,
    progress: ProgressCallback = silent,
) -> list[Fold]:
    """Find the moves anew for each fold, from the rows of the other folds.

    Args:
        head: The base.
        rows: Labelled rows of the deployment.
        load: Gives their features.
        anchors: Texts on which the probabilities may move only so far.
        search: Settings.
        progress: Receives the progress.
    """
    goals = [row.goal_id for row in rows]
    dealt = goal_folds(goals, [row.safe for row in rows], seed=search.seed + 1)
    folds: list[Fold] = []
    for held_out in dealt:
        left_out = set(held_out.tolist())
        rest = [row for i, row in enumerate(rows) if i not in left_out]
        moves = find_moves(head, load(rest), anchors, search)
        folds.append(Fold(held_out, load([rows[i] for i in held_out.tolist()]), moves))
        progress("cross-validation", len(folds), len(dealt))
    return folds


def verdicts(head: SRRHead, folds: Sequence[Fold], *, parts: Collection[Part] = ()) -> Verdicts:
    """What the folds' heads say of the rows left out.

    Args:
        head: The base.
        folds: All folds of the rows.
        parts: The probes that are moved; none: what the base says.
    """
    n = sum(len(fold.held_out) for fold in folds)
    names = ("p_safe", "p_help", "harmless", "answers", "harmful_request", "scores")
    found = {name: torch.zeros(n) for name in names}
    for fold in folds:
        own = moved(head, {p: move for p, move in fold.moves.items() if p in parts})
        judged = judge_examples(own, fold.examples)
        said = {
            "p_safe": judged.p_safe,
            "p_help": judged.probes.p_help,
            "harmless": torch.logit(judged.p_safe, eps=1e-6),
            "answers": judged.probes.answers,
            "harmful_request": judged.probes.harmful_request,
            "scores": list_scores(own, judged),
        }
        for name, values in said.items():
            found[name][fold.held_out] = values
    logits: dict[Part, Tensor] = {
        "harmless": found["harmless"],
        "answers": found["answers"],
        "harmful_request": found["harmful_request"],
    }
    scores = None if head.config.listwise else found["scores"]
    return Verdicts(found["p_safe"], found["p_help"], logits, scores)


def gain_of(
    part: Part, rows: Sequence[LabelledResponse], before: Verdicts, after: Verdicts
) -> Figure:
    """Log loss that a probe's move saves, weighted as it is learnt."""
    targets = targets_of(rows, part)
    weights = row_weights(rows, targets, positive=positive_share(part))
    y = torch.tensor([float(t or False) for t in targets])
    saved = weights * (log_loss(before.logits[part], y) - log_loss(after.logits[part], y))
    by_goal: defaultdict[str, float] = defaultdict(float)
    for row, target, one in zip(rows, targets, saved.tolist(), strict=True):
        if target is not None:
            by_goal[row.goal_id] += one
    return bootstrap([[len(by_goal) * one] for one in by_goal.values()])


def is_gain(figure: Figure) -> bool:
    """True if a gain is more than one standard error."""
    return figure.value > (figure.high - figure.low) / (2 * 1.96)


def figures_of(rows: Sequence[LabelledResponse], said: Verdicts) -> dict[Metric, Figure]:
    """Figures of what is said of the rows."""
    figures = probability_figures(rows, said.p_safe)
    if said.scores is not None:
        scores = said.scores
        figures |= ranking_figures(rows, lambda indices: scores[list(indices)])
    return figures
