"""Progress bars and tables for training and evaluation."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from srr_guard.protocols import ProgressCallback
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
def progress_report(console: Console) -> Iterator[ProgressCallback]:
    """Show a progress bar for each stage of a long run."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        tasks = {}

        def report(stage: str, done: int, total: int, **_figures: float) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield report


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
    with file.open("a") as lines:

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
        console.print(f"{file}  sha256 {digest}", style="dim", highlight=False, markup=False)


def _print(table: Table, console: Console) -> None:
    shown = RichTable(title=escape(table.title), title_justify="left")
    for i, head in enumerate(table.heads):
        shown.add_column(head, justify="right" if i else "left", no_wrap=not i)
    for row in table.rows:
        shown.add_row(*map(_cell, row))
    console.print(shown)


def _cell(cell: Cell) -> str:
    if isinstance(cell, Figure):
        return f"{cell.value:.3f} [dim]{cell.low:.2f}-{cell.high:.2f}[/]"
    return escape(cell or "")
