"""Logged progress, and the tables of a report in a terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from srr_guard.protocols import ProgressCallback
from srr_guard.terminal import print_table, shown
from srr_guard.training.evaluation.metrics import Figure
from srr_guard.training.evaluation.report import Report
from srr_guard.training.evaluation.tables import (
    Cell,
    Table,
    attack_table,
    plain_sets,
    quality_table,
    set_tables,
)


@contextmanager
def logged(progress: ProgressCallback, file: Path | None) -> Iterator[ProgressCallback]:
    """Write all progress as lines of JSON too: `time`, `stage`, `done`, `total`, figures.

    Args:
        progress: Receives the progress as well.
        file: Appended to; None: nothing is written.
    """
    if file is None:
        yield progress
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:

        def write(stage: str, done: int, total: int, **figures: float) -> None:
            progress(stage, done, total, **figures)
            record = {"time": time.time(), "stage": stage, "done": done, "total": total, **figures}
            lines.write(json.dumps(record) + "\n")
            lines.flush()

        yield write


def print_report(report: Report, console: Console) -> None:
    """Print quality beside cost, the tables of each data set, and harm in disguise."""
    if table := quality_table(report):
        _print(table, console)
    for name in plain_sets(report):
        for table in set_tables(report, name):
            _print(table, console)
    if table := attack_table(report):
        _print(table, console)
    for file, digest in report.digests.items():
        console.print(shown(f"{file}  sha256 {digest}", console), style="dim")


def _print(table: Table, console: Console) -> None:
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    numbers = range(1, len(table.heads))
    print_table(console, table.heads, rows, title=table.title, right=numbers)


def _cell(cell: Cell) -> str | Text:
    if isinstance(cell, Figure):
        return Text.assemble(f"{cell.value:.3f} ", (f"{cell.low:.2f}-{cell.high:.2f}", "dim"))
    return cell or ""
