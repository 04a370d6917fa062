"""What a person sees of training and evaluation: progress bars and tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from srr_guard.training.card import METRIC_NAMES, measured
from srr_guard.training.evaluate import Report, Reporter


@contextmanager
def progress_report(console: Console) -> Iterator[Reporter]:
    """A progress bar for each stage of a long run."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        tasks = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield report


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
