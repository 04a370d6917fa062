"""`srr-guard adapt`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from srr_guard.cli.options import DATA, DEVICE, DTYPE, REFERENCE, SCORER, require_folder
from srr_guard.errors import InvalidInputError
from srr_guard.extras import require_local
from srr_guard.reference.spec import DType
from srr_guard.terminal import print_json, print_table, progress_shown, say, shown, terminal

if TYPE_CHECKING:
    from srr_guard.training.adapting import AdaptationReport, BeforeAfter, Strength
    from srr_guard.training.evaluation.metrics import Figure
    from srr_guard.training.tuning import PolicyPoint


def adapt(
    data: Annotated[list[str], typer.Option(help=DATA)],
    output: Annotated[Path, typer.Option(help="Folder of the new bundle.")],
    scorer: Annotated[str | None, typer.Option(help=SCORER)] = None,
    reference: Annotated[str | None, typer.Option(help=REFERENCE)] = None,
    base_data: Annotated[
        list[str] | None,
        typer.Option(help="Labelled answers on which little may change; may be repeated."),
    ] = None,
    strength: Annotated[
        str,
        typer.Option(help="Logits that a typical answer may move: auto, or a number from 0 up."),
    ] = "auto",
    most_drift: Annotated[
        float, typer.Option(help="Largest mean change of a probability on other texts.")
    ] = 0.05,
    budget: Annotated[
        float, typer.Option(help="Largest share of helpful answers to hold back.")
    ] = 0.02,
    n: Annotated[int, typer.Option("-n", "--n", help="Candidates per request.")] = 4,
    seed: Annotated[int, typer.Option(help="Random seed of the folds.")] = 0,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    dtype: Annotated[DType, typer.Option(help=DTYPE)] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Move a scorer towards your own traffic with 32 to 500 labelled answers."""
    require_local("`srr-guard adapt`")
    require_folder("--output", output)
    from srr_guard.training import adapt as run

    with progress_shown(terminal(errors=True)) as progress:
        found = run(
            data,
            output,
            scorer=scorer,
            reference=reference,
            base_data=base_data or None,
            strength=parse_strength(strength),
            most_drift=most_drift,
            budget=budget,
            n=n,
            seed=seed,
            device=device,
            dtype=dtype,
            progress=progress,
        )
    if as_json:
        print_json(found.report, indent=2)
    else:
        print_adaptation(found.report, terminal())
    say(f"wrote {found.bundle.folder} and {found.policies_file}", errors=True)


def parse_strength(text: str) -> Strength:
    """Read `auto` or a number.

    Raises:
        InvalidInputError: It is neither.
    """
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInputError(
            f"--strength {text!r}: write auto, or a number of logits from 0 up"
        ) from error


def print_adaptation(report: AdaptationReport, console: Console) -> None:
    """Print what was moved, what it brings and costs, and how sure that is."""
    _print_steps(report, console)
    _print_figures("your rows, each judged by a head fitted without it", report.held_out, console)
    for name, found in report.base_sets.items():
        _print_figures(f"base rows: {name}", found, console)
    if report.tuning is not None and report.tuning_before is not None:
        points = {"before": report.tuning_before.chosen, "after": report.tuning.chosen}
        heads = ("", "threshold", "help held back", "harm held back")
        title = f"thresholds for a budget of {report.tuning.budget:g}"
        rows = [(name, *_point(point)) for name, point in points.items()]
        print_table(console, heads, rows, title=title)
    for warning in report.warnings:
        console.print(shown(warning, console), style="yellow")


def _print_steps(report: AdaptationReport, console: Console) -> None:
    title = f"{report.base}, adapted to {report.rows} answers to {report.goals} requests"
    heads = ("strength", "log loss saved", "moved", "drift of other texts, mean and largest")
    rows = [
        (
            part.replace("_", " "),
            f"{step.strength:g}",
            _figure(step.gain),
            f"{step.scale:.0%}" if step.moved else "no",
            f"{step.drift.mean:.3f}, {step.drift.largest:.3f} of {step.drift.texts} texts",
        )
        for part, step in report.steps.items()
    ]
    print_table(console, ("probe", *heads), rows, title=title)


def _print_figures(title: str, found: BeforeAfter, console: Console) -> None:
    from srr_guard.training.evaluation.tables import METRIC_NAMES

    sides = {"before": found.before, "after": found.after}
    order = list(METRIC_NAMES)
    metrics = sorted(found.before.keys() | found.after.keys(), key=lambda m: order.index(m))
    heads = (f"{found.rows} rows", *(METRIC_NAMES[m] for m in metrics))
    rows = [
        (name, *(_figure(figures[m]) if m in figures else "" for m in metrics))
        for name, figures in sides.items()
    ]
    print_table(console, heads, rows, title=title)


def _point(point: PolicyPoint) -> Iterator[str]:
    yield f"{point.threshold:.3f}"
    for rate in (point.help_held_back, point.harm_held_back):
        yield f"{rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}]" if rate else "-"


def _figure(figure: Figure) -> str:
    return f"{figure.value:.3f} [{figure.low:.2f}, {figure.high:.2f}]"
