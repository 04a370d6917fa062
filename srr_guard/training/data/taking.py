"""Takes the rows that a recipe wants from the records of a data set."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pydantic import ValidationError

from srr_guard.errors import DataError
from srr_guard.training.data.recipes import RecipeSource
from srr_guard.training.data.records import Record, Rows, UnfitRecordError
from srr_guard.training.data.rows import LabelledResponse

_SHAPE = 40
"""Refusals that share this many characters at their start have one shape."""

_MINORS = re.compile(
    r"\b(?:child|children|minors?|under-?age|kids?|pre-?teens?|toddlers?|(?:young|little|school) ?"
    r"(?:girls?|boys?))\b.{0,80}\b(?:sex\w*|nudes?|naked|porn\w*|erotic\w*|molest\w*|groom\w*)\b"
    r"|\b(?:sex\w*|nudes?|naked|porn\w*|erotic\w*|molest\w*|groom\w*)\b.{0,80}\b(?:child|children|"
    r"minors?|under-?age|kids?|pre-?teens?|toddlers?|(?:young|little|school) ?(?:girls?|boys?))\b",
    re.IGNORECASE | re.DOTALL,
)


class Taking:
    """The rows of one source, as they are found.

    Args:
        source: What is wanted, and how much of it.

    Example:
        >>> from srr_guard.training.data.mappings import dolly
        >>> source = RecipeSource(name="dolly", path="a/b", map=dolly, licence="MIT", limit=1)
        >>> taking = Taking(source)
        >>> taking.offer({"instruction": "Name a river.", "context": "", "response": "The Nile."})
        >>> taking.full, taking.rows[0].source
        (True, 'dolly')
    """

    def __init__(self, source: RecipeSource) -> None:
        self.source = source
        self.rows: Rows = []
        self.dropped = 0
        self.records = 0
        self._cells: Counter[tuple[str, str]] = Counter()
        self._shapes: Counter[str] = Counter()
        self._seen: set[tuple[str, str]] = set()
        self._votes: dict[tuple[str, str], Rows] = {}
        self._other_parts: Counter[str] = Counter()
        self._spent = False

    @property
    def full(self) -> bool:
        """True if no further record can add a row."""
        if self.source.majority:
            return False  # later votes may change earlier answers
        return self._filled

    @property
    def _filled(self) -> bool:
        source = self.source
        if self._spent or (source.limit is not None and len(self.rows) >= source.limit):
            return True
        wanted = [(p, kind) for p in source.parts or ("",) for kind in source.cells]
        return bool(wanted) and all(self._cells[c] >= source.cells[c[1]] for c in wanted)

    def check_columns(self, record: Record) -> None:
        """Check that a record has the columns that the mapper reads.

        Raises:
            DataError: One is missing.
        """
        source = self.source
        for column in source.map.columns:
            if column not in record:
                raise DataError(
                    f"{source.name} ({source.where}) has no column {column!r}: expected "
                    f"{', '.join(source.map.columns)}; found {', '.join(record)}"
                )

    def offer(self, record: Record) -> None:
        """Look at a record and take its rows, as far as they are wanted."""
        part = self.source.part(record) if self.source.part else ""
        if self.source.parts and part not in self.source.parts:
            self._other_parts[part] += 1
            return
        self.records += 1
        try:
            rows = self.source.map(record)
        except (UnfitRecordError, ValidationError):
            rows = []
        if not rows or any(_is_about_minors(row) for row in rows):
            self.dropped += 1
        elif self.source.majority:
            for row in rows:
                self._votes.setdefault((row.prompt, row.response), []).append(row)
        else:
            self._take(rows, part)

    def finish(self) -> None:
        """Count the votes, and check that something was found.

        Raises:
            DataError: No record gave a row.
        """
        for votes in self._votes.values():
            unsafe = sum(not row.safe for row in votes)
            if 2 * unsafe == len(votes):
                self.dropped += 1
            elif not self._filled:
                side = next(row for row in votes if row.safe == (2 * unsafe < len(votes)))
                self._take([side], "")
        if not self.rows:
            source = self.source
            others = f"; found the parts {dict(self._other_parts.most_common(5))}"
            raise DataError(
                f"{source.name} ({source.where}) gave no row from {self.records} records: its "
                "values have changed"
                + (f"; wanted {', '.join(source.parts)}{others}" if source.parts else "")
            )

    def _take(self, rows: Sequence[LabelledResponse], part: str) -> None:
        own = [row for row in rows if self._is_wanted(row, part)]
        ranked = any(not row.absolute for row in rows)
        if ranked and len(own) < len(rows):
            return  # one end of a preference teaches nothing
        limit = self.source.limit
        if limit is not None and len(self.rows) + len(own) > limit:
            self._spent = True
            own = [] if ranked else own[: limit - len(self.rows)]
        for row in own:
            self._seen.add((row.prompt, row.response))
            self._cells[part, row.kind or ""] += 1
            self._shapes[_shape(row)] += row.refuses
            changed = {"source": self.source.name, "licence": self.source.licence}
            if self.source.longest is not None:
                changed["response"] = row.response[: self.source.longest]
            self.rows.append(row.model_copy(update=changed))

    def _is_wanted(self, row: LabelledResponse, part: str) -> bool:
        source, kind = self.source, row.kind or ""
        if (row.prompt, row.response) in self._seen:
            return False
        if source.cells and self._cells[part, kind] >= source.cells.get(kind, 0):
            return False
        if row.refuses and source.limit is not None:  # few models wrote most refusals
            return self._shapes[_shape(row)] < max(1, source.limit // 100)
        return True


def _shape(row: LabelledResponse) -> str:
    return row.response[:_SHAPE].lower()


def _is_about_minors(row: LabelledResponse) -> bool:
    return _MINORS.search(f"{row.prompt}\n{row.response}") is not None
