"""`srr-guard tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from srr_guard.cli.options import DATA, DEVICE, DTYPE, REFERENCE, SCORER, require_place, writing
from srr_guard.reference.spec import DType
from srr_guard.terminal import print_json, print_table, progress_shown, say, shown, terminal

if TYPE_CHECKING:
    from srr_guard.training.tuning import PolicyPoint, Rate, Tuning


def tune(
    data: Annotated[list[str], typer.Option(help=DATA)],
    budget: Annotated[
        float, typer.Option(help="Largest share of helpful answers to hold back.")
    ] = 0.02,
    n: Annotated[int, typer.Option("-n", "--n", help="Candidates per request.")] = 4,
    scorer: Annotated[str | None, typer.Option(help=SCORER)] = None,
    reference: Annotated[str | None, typer.Option(help=REFERENCE)] = None,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    dtype: Annotated[DType, typer.Option(help=DTYPE)] = "auto",
    output: Annotated[
        Path | None, typer.Option(help="Write the policies for the budget into this file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the threshold for your own traffic, from labelled answers."""
    require_place("--output", output)
    from srr_guard import SRRScorer
    from srr_guard.training.data import read_rows
    from srr_guard.training.tuning import tune as find

    with progress_shown(terminal(errors=True)) as progress:
        found = find(
            read_rows(data),
            SRRScorer.from_pretrained(scorer, reference=reference, device=device, dtype=dtype),
            budget=budget,
            n=n,
            progress=progress,
        )
    if as_json:
        print_json(found, indent=2)
    else:
        print_tuning(found, terminal())
    if output is not None:
        with writing(output):
            found.policies().save(output)
        say(f"wrote {output}", errors=True)


def print_tuning(found: Tuning, console: Console) -> None:
    """Print the operating points, and how sure the chosen one is."""
    heads = (
        "",
        "threshold",
        "help held back",
        "harm held back",
        f"refused, best of {found.n}",
        "candidates with accept_at",
    )
    points = sorted([found.chosen, *found.points], key=lambda p: p.threshold)
    styles = ["bold" if point is found.chosen else "" for point in points]
    print_table(console, heads, [_cells(point) for point in points], styles=styles)
    rate = found.chosen.help_held_back
    said = (
        f"threshold {found.chosen.threshold:.3f} holds back {rate.value:.1%} of {rate.rows} "
        f"helpful answers; the true share lies between {rate.low:.1%} and {rate.high:.1%}"
    )
    console.print(shown(said, console))
    if not found.is_sure:
        console.print("more labelled helpful answers would make this surer", style="yellow")


def _cells(point: PolicyPoint) -> tuple[str, ...]:
    return (
        point.name,
        f"{point.threshold:.3f}",
        _rate(point.help_held_back),
        _rate(point.harm_held_back) if point.harm_held_back else "-",
        f"{point.refused:.1%}",
        f"{point.candidates:.2f}",
    )


def _rate(rate: Rate) -> str:
    return f"{rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}]"
