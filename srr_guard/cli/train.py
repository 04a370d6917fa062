"""`srr-guard train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from srr_guard.cli.options import (
    APART,
    DATA,
    DEVICE,
    DTYPE,
    RECIPE,
    REFERENCE,
    pairs,
    require_folder,
    require_place,
)
from srr_guard.cli.recipe_table import print_loaded, print_recipe
from srr_guard.errors import InvalidInputError
from srr_guard.extras import require_local
from srr_guard.reference.spec import DType
from srr_guard.scorer.config import Preset
from srr_guard.terminal import progress_shown, say, terminal
from srr_guard.training.data.loading import load_recipe
from srr_guard.training.data.public_recipes import find_recipe
from srr_guard.training.data.recipes import TrainingRecipe


def train(
    data: Annotated[list[str] | None, typer.Option(help=DATA)] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the new bundle.")] = None,
    recipe: Annotated[TrainingRecipe | None, typer.Option(help=RECIPE)] = None,
    apart_from: Annotated[list[str] | None, typer.Option(help=APART)] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what the recipe would load, and stop.")
    ] = False,
    accept_licence: Annotated[
        list[str] | None,
        typer.Option(
            help="Licences to accept in a recipe: nc (non-commercial use only), unknown (none "
            "stated); may be repeated."
        ),
    ] = None,
    reference: Annotated[str | None, typer.Option(help=REFERENCE)] = None,
    preset: Annotated[Preset, typer.Option(help="Design of the head.")] = "default",
    per_source: Annotated[int | None, typer.Option(help="Most rows of each source.")] = None,
    source_limit: Annotated[
        list[str] | None, typer.Option(help="NAME=ROWS, in place of that; may be repeated.")
    ] = None,
    source_weight: Annotated[
        list[str] | None, typer.Option(help="NAME=WEIGHT; may be repeated.")
    ] = None,
    harmful_source: Annotated[
        list[str] | None,
        typer.Option(help="Source whose single requests count as harmful; may be repeated."),
    ] = None,
    validation_share: Annotated[
        float,
        typer.Option("--validation-share", "--held-back", help="Share of goals to validate on."),
    ] = 0.2,
    augmented: Annotated[
        bool, typer.Option(help="Add synthetic rows that close shortcuts.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    resume: Annotated[
        bool, typer.Option(help="Use rows and features that earlier runs cached.")
    ] = True,
    log: Annotated[Path | None, typer.Option(help="Append progress and losses as JSON.")] = None,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    dtype: Annotated[DType, typer.Option(help=DTYPE)] = "auto",
) -> None:
    """Train a scorer on labelled answers; an interrupted run goes on where it stopped."""
    if dry_run:
        if recipe is None:
            raise InvalidInputError("--dry-run prints a recipe: add --recipe public")
        print_recipe(find_recipe(recipe), terminal())
        return
    if output is None:
        raise InvalidInputError("--output is missing: name the folder of the new bundle")
    if not data and recipe is None:
        raise InvalidInputError("there is nothing to train on: give --data, --recipe or both")
    require_local("`srr-guard train`")
    require_folder("--output", output)
    require_place("--log", log)
    from srr_guard.training import TrainingOptions
    from srr_guard.training import train as run
    from srr_guard.training.evaluation.reporting import logged

    options = TrainingOptions(
        preset=preset,
        per_source=per_source,
        validation_share=validation_share,
        augmented=augmented,
        source_limits=pairs("--source-limit", source_limit, int),
        source_weights=pairs("--source-weight", source_weight, float),
        harmful_sources=tuple(harmful_source or ()),
        seed=seed,
    )
    console = terminal(errors=True)
    with progress_shown(console) as shown, logged(shown, log) as progress:
        loaded = (
            load_recipe(
                recipe, accept_licences=accept_licence or (), resume=resume, progress=progress
            )
            if recipe
            else None
        )
        bundle = run(
            data or (),
            output,
            recipe=loaded,
            apart_from=apart_from or (),
            options=options,
            reference=reference,
            device=device,
            dtype=dtype,
            resume=resume,
            progress=progress,
        )
    if loaded:
        print_loaded(loaded, console)
    say(f"wrote {bundle.folder}")
