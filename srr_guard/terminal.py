"""Output for a terminal, a pipe or a file: tables that fit, progress, and no stranger's escapes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from srr_guard.protocols import ProgressCallback
from srr_guard.visible import visible

_LEAST_TEXT = 16
"""Columns that a text is given before a table is written as lines."""


def terminal(*, errors: bool = False) -> Console:
    """A console that takes texts as they are: no markup, no emoji codes, no coloured numbers."""
    return Console(stderr=errors, markup=False, emoji=False, highlight=False)


def shown(text: str | Text, console: Console) -> Text:
    """A text as the console can write it: controls, and letters its encoding lacks, are escaped."""
    if isinstance(text, Text):  # made by us, of parts that are shown
        return text
    plain = visible(text)
    return Text(plain.encode(console.encoding, "backslashreplace").decode(console.encoding))


def say(text: str, *, errors: bool = False) -> None:
    """Print one message; long lines are not broken."""
    console = terminal(errors=errors)
    console.print(shown(text, console), soft_wrap=True)


def print_json(found: BaseModel, *, indent: int | None = None) -> None:
    """Print JSON, valid in any encoding: letters that it lacks are escapes of JSON."""
    console = terminal()
    ascii_only = not console.encoding.lower().startswith("utf")
    console.file.write(found.model_dump_json(indent=indent, ensure_ascii=ascii_only) + "\n")


def print_table(
    console: Console,
    heads: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    *,
    title: str | Text = "",
    caption: str = "",
    texts: Collection[int] = (0,),
    right: Collection[int] = (),
    styles: Sequence[str] = (),
    lines: bool = False,
    frame: box.Box = box.HEAVY_HEAD,
) -> None:
    """Print a table in which no figure is cut off or broken, however narrow the console is.

    Where its figures do not fit side by side, each cell stands on a line of its own, behind the
    head of its column.

    Args:
        console: Where to.
        heads: Of the columns.
        rows: Cells.
        title: Above the table.
        caption: Below it.
        texts: Columns of texts, which may be broken anywhere; the others hold figures.
        right: Columns that stand to the right.
        styles: One of each row; none: plain.
        lines: Draw lines between the rows.
        frame: Around the table.
    """
    styles = styles or [""] * len(rows)
    cells = [[shown(cell, console) for cell in row] for row in rows]
    widths = _widths([Text(head) for head in heads], cells, texts, _room(console, len(heads)))
    if title:
        console.print(shown(title, console))
    if widths is None:
        for row, style in zip(cells, styles, strict=True):
            _print_lines(console, heads, row, style)
    else:
        table = Table(box=frame, show_lines=lines, pad_edge=frame is not box.SIMPLE)
        for at, (head, width) in enumerate(zip(heads, widths, strict=True)):
            table.add_column(Text(head), width=width, overflow="fold")
            table.columns[at].justify = "right" if at in right else "left"
        for row, style in zip(cells, styles, strict=True):
            table.add_row(*row, style=style)
        console.print(table)
    if caption:
        console.print(Text(caption, style="dim"))


def _room(console: Console, columns: int) -> int:
    """What is left for the cells: each has a space at either side and a line behind it."""
    return console.width - 3 * columns - 1


def _widths(
    heads: Sequence[Text], rows: Sequence[Sequence[Text]], texts: Collection[int], room: int
) -> list[int] | None:
    """A width for each column; None where the figures do not fit."""
    columns = range(len(heads))
    cells = {at: [row[at] for row in rows] for at in columns}
    words = [max(map(_word, [heads[at], *cells[at]])) for at in columns]
    figures = [max([words[at], *map(_line, cells[at])]) for at in columns]
    whole = [max(figures[at], _line(heads[at])) for at in columns]
    widths = [min(whole[at], _LEAST_TEXT) if at in texts else words[at] for at in columns]
    if sum(widths) > room:
        return None
    # figures on one line first, then texts, then heads
    for wished in ([f if at not in texts else 0 for at, f in enumerate(figures)], figures, whole):
        for at in columns:
            widths[at] += max(0, min(wished[at] - widths[at], room - sum(widths)))
    return widths


def _word(text: Text) -> int:
    return max(map(cell_len, text.plain.split()), default=0)


def _line(text: Text) -> int:
    return max(map(cell_len, text.plain.splitlines()), default=0)


def _print_lines(console: Console, heads: Sequence[str], row: Sequence[Text], style: str) -> None:
    for at, (head, cell) in enumerate(zip(heads, row, strict=True)):
        indent = "  " if at else ""
        named = f"{indent}{head}: " if head else indent
        if cell.plain.strip():
            console.print(Text.assemble(named, cell), style=style, overflow="fold")


@contextmanager
def progress_shown(console: Console) -> Iterator[ProgressCallback]:
    """Show how far each stage of a long run is: bars in a terminal, else a line when it is done."""
    if not moves(console):
        yield _Lines(console)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int, **_figures: float) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(visible(stage), total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield report


def moves(console: Console) -> bool:
    """True if lines can be written over: FORCE_COLOR alone makes no terminal of a pipe."""
    return console.file.isatty() and console.is_terminal and not console.is_dumb_terminal


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[str] = set()

    def __call__(self, stage: str, done: int, total: int, **_figures: float) -> None:
        if done >= total and stage not in self._told:
            self._told.add(stage)
            self._console.print(shown(f"{stage}: {done} of {total}", self._console))
