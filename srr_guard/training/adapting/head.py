"""Adapt a head: cross-fit, keep what shows a gain, fit that to all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from srr_guard.protocols import ProgressCallback
from srr_guard.scorer.head import SRRHead
from srr_guard.training.adapting.choice import Search, find_moves, probability
from srr_guard.training.adapting.held_out import (
    Load,
    Verdicts,
    cross_fit,
    gain_of,
    is_gain,
    verdicts,
)
from srr_guard.training.adapting.moves import Move, moved
from srr_guard.training.adapting.report import Drift, ProbeStep
from srr_guard.training.adapting.views import Part
from srr_guard.training.data import LabelledResponse
from srr_guard.training.feature_store import Examples
from srr_guard.training.progress import silent


@dataclass(frozen=True, eq=False)
class AdaptedHead:
    """A head, and what is known of it.

    Attributes:
        head: The base, with the probes moved that show a gain.
        steps: What became of each probe that the rows say something about.
        before: What the base says of the rows.
        after: What is said of each row by a head that was adapted without it.
    """

    head: SRRHead
    steps: Mapping[Part, ProbeStep]
    before: Verdicts
    after: Verdicts


def adapt_head(
    head: SRRHead,
    rows: Sequence[LabelledResponse],
    load: Load,
    anchors: Sequence[LabelledResponse],
    *,
    search: Search | None = None,
    progress: ProgressCallback = silent,
) -> AdaptedHead:
    """Move the probes of a head towards a deployment, where held-out rows show a gain.

    With a strength given by hand all probes are moved, gain or not.

    Args:
        head: The base; it needs a pointwise path.
        rows: Labelled rows of the deployment.
        load: Gives the features of rows.
        anchors: Texts on which the probabilities may move only so far; their labels do not count.
        search: Settings; None: the defaults.
        progress: Receives the progress.
    """
    search = search or Search()
    fixed = load(anchors)
    found = find_moves(head, load(rows), fixed, search)
    folds = cross_fit(head, rows, load, fixed, search, progress=progress)
    before, tried = verdicts(head, folds), verdicts(head, folds, parts=found.keys())
    gains = {part: gain_of(part, rows, before, tried) for part in found}
    kept: dict[Part, Move] = {
        part: move
        for part, move in found.items()
        if search.strength != "auto" or is_gain(gains[part])
    }
    adapted = moved(head, kept)
    steps: dict[Part, ProbeStep] = {
        part: ProbeStep(
            moved=part in kept,
            strength=move.strength,
            scale=move.scale,
            gain=gains[part],
            drift=_drift(head, adapted, part, fixed),
        )
        for part, move in found.items()
    }
    return AdaptedHead(adapted, steps, before, verdicts(head, folds, parts=kept.keys()))


def _drift(base: SRRHead, adapted: SRRHead, part: Part, anchors: Examples) -> Drift:
    change = (probability(adapted, part, anchors) - probability(base, part, anchors)).abs()
    return Drift(texts=len(anchors), mean=float(change.mean()), largest=float(change.max()))
