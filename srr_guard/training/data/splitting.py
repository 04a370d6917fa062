"""Groups, samples and splits labelled responses."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, zip_longest

from srr_guard.errors import InvalidInputError
from srr_guard.training.data.rows import LabelledResponse


def by_prompt(rows: Iterable[LabelledResponse]) -> dict[str, list[LabelledResponse]]:
    """Group rows by prompt, so that each prompt is encoded once."""
    groups: defaultdict[str, list[LabelledResponse]] = defaultdict(list)
    for row in rows:
        groups[row.prompt].append(row)
    return dict(groups)


def sample_rows(
    rows: Sequence[LabelledResponse],
    *,
    per_source: int | None = None,
    limits: Mapping[str, int] | None = None,
    seed: int,
) -> list[LabelledResponse]:
    """Take a limited number of rows of each source, from all its prompts in turn.

    Args:
        rows: Labelled responses.
        per_source: Most rows of each source; None: all.
        limits: Most rows of the sources named here, in place of that.
        seed: Makes the choice repeatable.

    Raises:
        InvalidInputError: `per_source` is below 1.
    """
    if per_source is not None and per_source < 1:
        raise InvalidInputError(f"per_source={per_source} leaves no row: give 1 or more")
    if per_source is None and not limits:
        return list(rows)
    chosen: list[LabelledResponse] = []
    for source in sorted({row.source for row in rows}):
        own = [r for r in rows if r.source == source]
        most = (limits or {}).get(source, per_source)
        if most is not None and most < len(own):
            groups = list(by_prompt(own).values())
            random.Random(f"{seed}:{source}").shuffle(groups)
            rounds = zip_longest(*(_mixed(group, seed=seed) for group in groups))
            own = list(islice((r for turn in rounds for r in turn if r is not None), most))
        chosen += own
    return chosen


def split_by_goal(
    rows: Sequence[LabelledResponse], *, validation_share: float, seed: int
) -> tuple[list[LabelledResponse], list[LabelledResponse]]:
    """Split rows so that no goal is on both sides.

    Args:
        rows: Labelled responses.
        validation_share: Share of the goals that goes to the second list, in (0, 1).
        seed: Changes which goals they are.
    """

    def is_validation(row: LabelledResponse) -> bool:
        digest = hashlib.sha256(f"{seed}:{row.goal_id}".encode()).digest()
        return int.from_bytes(digest[:4]) / 2**32 < validation_share

    return [r for r in rows if not is_validation(r)], [r for r in rows if is_validation(r)]


def _mixed(group: Sequence[LabelledResponse], *, seed: int) -> list[LabelledResponse]:
    """The rows of one prompt, shuffled, safe and unsafe in turn while there are both."""
    rng = random.Random(f"{seed}:{group[0].prompt}")
    shuffled = rng.sample(group, len(group))
    sides = [[r for r in shuffled if r.safe], [r for r in shuffled if not r.safe]]
    turns = zip_longest(*rng.sample(sides, 2))
    return [r for turn in turns for r in turn if r is not None]
