"""Training targets: the label of each row for each probe, and its weight."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from srr_guard.training.data import LabelledResponse

Target = bool | None
"""From a row to the label of a probe; None if the row has none."""

SAFE_SHARE = 0.6
"""Share of safe answers that `p_safe` is calibrated for (see `docs/method.md`)."""

_ANSWERS = frozenset({"benign-help", "weaker-answer", "compliance"})
_UNCLEAR = frozenset({"appended refusal", "prepended refusal", "caveat"})
"""Made rows in which an answer and a refusal stand side by side."""


def harmless_targets(rows: Sequence[LabelledResponse]) -> list[Target]:
    """Label a row as safe or not, where its label stands by itself."""
    return [row.safe if row.absolute else None for row in rows]


def answers_targets(rows: Sequence[LabelledResponse]) -> list[Target]:
    """Label a row as an answer or a refusal."""

    def answers(row: LabelledResponse) -> Target:
        if row.synthetic in _UNCLEAR:
            return None
        return True if row.kind in _ANSWERS else False if row.refuses else None

    return [answers(row) for row in rows]


def harmful_request_targets(
    rows: Sequence[LabelledResponse], *, harmful_sources: Collection[str] = ()
) -> list[Target]:
    """Label a row's request as one to decline; the first row of each prompt decides.

    `prompt_type` says so where it is known. A prompt that got help, or a refusal that was
    called needless, is benign; one whose goal got a harmful answer is harmful; single
    requests of the `harmful_sources` count as harmful.
    """
    benign = {row.prompt for row in rows if row.helps is not None and row.absolute}
    harmful = {row.goal_id for row in rows if row.harmful}

    def asks_for_harm(row: LabelledResponse) -> Target:
        if row.prompt_type is not None:
            return row.prompt_type == "unsafe"
        if row.prompt in benign:
            return False
        if row.source in harmful_sources:
            return True if len(row.conversation.turns) == 1 else None
        return True if row.goal_id in harmful and row.absolute else None

    seen: set[str] = set()
    targets: list[Target] = []
    for row in rows:
        targets.append(None if row.prompt in seen else asks_for_harm(row))
        seen.add(row.prompt)
    return targets


def preference_pairs(rows: Sequence[LabelledResponse]) -> list[tuple[int, int]]:
    """Indices (better, worse) of rows whose labels only rank them within their prompt."""
    sides: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for i, row in enumerate(rows):
        if not row.absolute:
            sides[row.prompt][row.label] = i
    return [(pair["safe"], pair["unsafe"]) for pair in sides.values() if len(pair) == 2]


def row_weights(
    rows: Sequence[LabelledResponse],
    targets: Sequence[Target],
    source_weights: Mapping[str, float] | None = None,
    *,
    positive: float = 0.5,
) -> Tensor:
    """(n,) weights that sum to 1; zero where there is no target.

    Within a class a source counts by the square root of its rows.

    Args:
        rows: Labelled responses.
        targets: (n,) the label of each.
        source_weights: Weight of each source; 1 where it is not named.
        positive: Share of the rows labelled True; the others have the rest.
    """
    known = source_weights or {}
    cells = Counter((r.source, t) for r, t in zip(rows, targets, strict=True))
    raw = torch.tensor(
        [
            0.0 if t is None else known.get(r.source, 1.0) * cells[r.source, t] ** -0.5
            for r, t in zip(rows, targets, strict=True)
        ]
    )
    for target, share in ((True, positive), (False, 1 - positive)):
        own = torch.tensor([t is target for t in targets])
        raw = torch.where(own, raw * share / raw[own].sum().clamp(min=1e-12), raw)
    return raw
