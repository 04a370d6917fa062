"""`srr-guard rank`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from srr_guard.cli.options import REFERENCE, SCORER
from srr_guard.errors import ConfigurationError
from srr_guard.terminal import moves, say, terminal

if TYPE_CHECKING:
    from srr_guard.protocols import ResponseScorer


def rank(
    input_file: Annotated[
        Path, typer.Option("--input", help="JSON Lines or Parquet, with `prompt` and `candidates`.")
    ],
    output: Annotated[Path, typer.Option(help="JSON Lines or Parquet, with `ranking`.")],
    bad_rows: Annotated[
        Path | None, typer.Option(help="File for rows that cannot be ranked; default: OUTPUT.bad.")
    ] = None,
    scorer: Annotated[str | None, typer.Option(help=SCORER)] = None,
    scorer_url: Annotated[
        list[str] | None,
        typer.Option(help="Server that scores, up to and with /v1; may be repeated."),
    ] = None,
    reference: Annotated[str | None, typer.Option(help=REFERENCE)] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Rows that are scored together.")] = 64,
) -> None:
    """Rank the answers of many rows. Run it again after an interruption: it goes on."""
    from srr_guard.bulk import rank_file

    if "-" in (str(input_file), str(output)):
        raise ConfigurationError(
            "- stands for no file here: a run that is interrupted goes on from its files"
        )
    with _progress() as progress:
        task = progress.add_task("ranking", total=None, rate="")

        def report(stage: str, done: int, total: int, **figures: float) -> None:
            rate = f"{figures['rows_per_second']:.1f} rows/s"
            progress.update(task, completed=done, total=total, rate=rate)

        found = rank_file(
            input_file,
            output,
            bad_rows=bad_rows,
            scorer=_scorer(scorer, scorer_url, reference),
            at_once=at_once,
            progress=report,
        )
    say(
        f"{found.ranked} rows ranked, {found.bad} bad, {found.skipped} were there already",
        errors=True,
    )
    if found.in_vain:
        say("error: no row could be ranked", errors=True)
    if found.bad or found.in_vain:
        say(f"bad rows and what is wrong with them: {found.bad_rows}", errors=True)
    if found.in_vain:
        raise typer.Exit(1)


def _scorer(name: str | None, urls: list[str] | None, reference: str | None) -> ResponseScorer:
    from srr_guard.scorer import RemoteScorer, SRRScorer

    if urls and (name or reference):
        raise ConfigurationError("--scorer-url stands beside --scorer or --reference: give one")
    if urls:
        return RemoteScorer(urls)
    return SRRScorer.from_pretrained(name, reference=reference)


def _progress() -> Progress:
    console = terminal(errors=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not moves(console),
    )
