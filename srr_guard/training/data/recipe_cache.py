"""Rows of recipe sources on disk, so that an interrupted or second run does not load them again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from srr_guard.reference.cache_folder import cache_dir, cached
from srr_guard.training.data.recipes import RecipeSource
from srr_guard.training.data.rows import LabelledResponse

_FOLDER = "recipes"
_log = logging.getLogger("srr_guard")


@dataclass(frozen=True)
class SourceRows:
    """Rows that were taken from a source.

    Attributes:
        rows: The rows.
        revision: Commit they were read from, if it is known.
        records: Records that were looked at.
        dropped: Records that did not fit.
    """

    rows: Sequence[LabelledResponse]
    revision: str | None
    records: int
    dropped: int

    @property
    def digest(self) -> str:
        """SHA-256 of the rows."""
        return hashlib.sha256("".join(map(_line, self.rows)).encode()).hexdigest()


def store(source: RecipeSource, found: SourceRows) -> None:
    """Write the rows of a source; a file is complete or not there."""
    path = cache_dir() / _FOLDER / _name(source)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.draft")
    head = {"revision": found.revision, "records": found.records, "dropped": found.dropped}
    lines = [json.dumps({**head, "rows": len(found.rows)}) + "\n", *map(_line, found.rows)]
    draft.write_text("".join(lines), encoding="utf-8")
    draft.replace(path)


def recall(source: RecipeSource) -> SourceRows | None:
    """The rows that an earlier run stored for the same definition; None if there are none."""
    path = cached(_FOLDER, _name(source))
    if not path.is_file():
        return None
    try:
        with path.open() as lines:
            head = json.loads(next(lines))
            rows = [LabelledResponse(**json.loads(line)) for line in lines]
        if len(rows) != head.pop("rows"):
            raise ValueError("it was cut")
        return SourceRows(rows=rows, **head)
    except (StopIteration, ValueError, TypeError, KeyError, ValidationError) as error:
        _log.warning("%s cannot be read (%s): %s is loaded again", path, error, source.name)
        return None


def _name(source: RecipeSource) -> str:
    return f"{source.name}-{source.digest}.jsonl"


def _line(row: LabelledResponse) -> str:
    return json.dumps(row.model_dump(exclude_defaults=True)) + "\n"
