"""Progress bars and tables for training and evaluation."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from srr_guard.protocols import ProgressCallback
from srr_guard.training.evaluation.card import METRIC_NAMES, measured
from srr_guard.training.evaluation.evaluate import Report


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
    """Print a table for each data set: methods down, figures across, with intervals."""
    for name, methods in report.sets.items():
        metrics = measured(methods)
        table = Table(title=name, title_justify="left")
        table.add_column("method")
        for metric in metrics:
            table.add_column(METRIC_NAMES[metric], justify="right")
        for method, figures in methods.items():
            cells = [
                f"{f.value:.3f} [dim]{f.low:.2f}-{f.high:.2f}[/]" if (f := figures.get(m)) else ""
                for m in metrics
            ]
            table.add_row(method, *cells)
        console.print(table)
    for file, digest in report.digests.items():
        console.print(f"{file}  sha256 {digest}", style="dim", highlight=False)
