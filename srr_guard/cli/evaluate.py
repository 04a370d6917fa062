"""`srr-guard evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srr_guard.cli.options import (
    DATA,
    DEVICE,
    DTYPE,
    SCORER,
    require_folder,
    require_place,
    writing,
)
from srr_guard.cli.recipe_table import print_loaded
from srr_guard.errors import InvalidInputError
from srr_guard.extras import require_local
from srr_guard.reference.spec import DType
from srr_guard.terminal import progress_shown, say, terminal
from srr_guard.training.data.loading import load_recipe
from srr_guard.training.data.recipes import TestRecipe


def evaluate(
    data: Annotated[list[str] | None, typer.Option(help=DATA)] = None,
    recipe: Annotated[
        TestRecipe | None, typer.Option(help="Public test sets to measure on.")
    ] = None,
    scorer: Annotated[list[str] | None, typer.Option(help=f"{SCORER} May be repeated.")] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            help="The reference LLM: a folder, GGUF file or hub id; default: those that the "
            "scorers name. May be repeated."
        ),
    ] = None,
    ngrams: Annotated[
        list[str] | None,
        typer.Option(help="Rows to fit the n-gram baseline on, as for --data."),
    ] = None,
    per_source: Annotated[int | None, typer.Option(min=1, help="Most rows of each source.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
    plots: Annotated[
        Path | None,
        typer.Option(help="Draw ROC, reliability, list sizes, quality into this folder."),
    ] = None,
    attacks: Annotated[bool, typer.Option(help="Measure disguised harm too.")] = True,
    write_card: Annotated[bool, typer.Option(help="Put the figures on the bundle's card.")] = False,
    seed: Annotated[int, typer.Option(help="Random seed of lists and intervals.")] = 0,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    dtype: Annotated[DType, typer.Option(help=DTYPE)] = "auto",
) -> None:
    """Measure scorers, and the baselines they have to beat, on labelled answers."""
    if not data and recipe is None:
        raise InvalidInputError("there is nothing to measure on: give --data, --recipe or both")
    require_local("`srr-guard evaluate`")
    require_place("--json", json_file)
    require_folder("--plots", plots)
    from srr_guard.training import evaluate as run
    from srr_guard.training.evaluation.card import rewrite_card
    from srr_guard.training.evaluation.reporting import print_report

    names: list[str | None] = [*scorer] if scorer else [None]
    with progress_shown(terminal(errors=True)) as progress:
        loaded = load_recipe(recipe, progress=progress) if recipe else None
        report = run(
            data or (),
            names,
            recipe=loaded,
            reference=reference,
            ngrams=ngrams or None,
            per_source=per_source,
            seed=seed,
            device=device,
            dtype=dtype,
            attacks=attacks,
            progress=progress,
        )
    if loaded:
        print_loaded(loaded, terminal(errors=True))
    print_report(report, terminal())
    if json_file is not None:
        with writing(json_file):
            json_file.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if plots is not None:
        from srr_guard.training.evaluation.plots import draw_report

        for file in draw_report(report, plots):
            say(f"wrote {file}")
    if write_card:
        rewrite_card(names[0], report)
