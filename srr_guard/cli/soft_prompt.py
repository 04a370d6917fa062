"""`srr-guard soft-prompt train`: trains the file that the recipe `SoftPrompt` reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console

from srr_guard.cli.options import DATA, DEVICE, DTYPE, REFERENCE, SCORER, require_place, writing
from srr_guard.cli.recipe_files import paired_prompts
from srr_guard.extras import require_local
from srr_guard.reference.spec import DType, ModelSpec
from srr_guard.terminal import print_table, progress_shown, say, terminal

if TYPE_CHECKING:
    from srr_guard.local.soft_prompt.compliance import Judged
    from srr_guard.local.soft_prompt.training import TrainedSoftPrompt

soft_prompt = typer.Typer(help="Soft prompts for local models.", no_args_is_help=True)

_TEXT = "The system prompt that the vectors begin as; default: one for safety and help."
_MOST = "Most pairs of requests, drawn by the seed."
_HELD_OUT = "Share of the pairs that is measured, not trained on."


@soft_prompt.command()
def train(
    data: Annotated[list[str], typer.Option(help=DATA)],
    output: Annotated[Path, typer.Option(help="The soft prompt, a safetensors file.")],
    text: Annotated[str | None, typer.Option(help=_TEXT)] = None,
    reference: Annotated[str | None, typer.Option(help=REFERENCE)] = None,
    scorer: Annotated[str | None, typer.Option(help=SCORER)] = None,
    most: Annotated[int, typer.Option(min=1, help=_MOST)] = 100,
    epochs: Annotated[int, typer.Option(help="Passes over the requests.")] = 40,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW.")] = 1e-3,
    held_out: Annotated[float, typer.Option(help=_HELD_OUT)] = 0.2,
    samples: Annotated[int, typer.Option(help="Answers to each request and prompt.")] = 4,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted run.")] = True,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    dtype: Annotated[DType, typer.Option(help=DTYPE)] = "auto",
) -> None:
    """Train a soft prompt for `SoftPrompt` (DRO), and measure it on requests left out."""
    require_local("`srr-guard soft-prompt train`")
    require_place("--output", output)
    from srr_guard import SRRScorer
    from srr_guard.local.soft_prompt.training import TEXT, SoftPromptOptions, train_soft_prompt
    from srr_guard.training.data import read_rows

    options = SoftPromptOptions(
        text=TEXT if text is None else text,
        epochs=epochs,
        learning_rate=learning_rate,
        held_out=held_out,
        samples=samples,
        seed=seed,
    )
    pairs = paired_prompts(read_rows(data), most, seed)
    spec = ModelSpec(reference=reference, device=device, dtype=dtype)
    judge = SRRScorer.from_pretrained(scorer)
    console = terminal(errors=True)
    with progress_shown(console) as progress:
        trained = train_soft_prompt(
            spec,
            pairs,
            judge,
            checkpoint=output.with_name(f"{output.name}.partial"),
            options=options,
            resume=resume,
            progress=progress,
        )
        with writing(output):
            trained.vectors.write(output)
    _print(trained, console)
    if trained.held_out:
        from srr_guard.local.soft_prompt.compliance import ComplianceOptions, judged
        from srr_guard.recipes import Plain, SoftPrompt

        sampling = ComplianceOptions(samples=samples, seed=seed + 1)
        rows: list[tuple[str, ...]] = []
        recipes: dict[str, Plain | SoftPrompt] = {
            "none": Plain(),
            "the text": Plain(system_prompt=options.text),
            "the soft prompt": SoftPrompt(file=str(output)),
        }
        for name, recipe in recipes.items():
            found = judged(spec, trained.held_out, judge, sampling, recipe=recipe)
            for kind, harmless in (("harmful", False), ("harmless", True)):
                own = [
                    one
                    for one, anchor in zip(found, trained.held_out, strict=True)
                    if anchor.harmless is harmless
                ]
                rows.append((name, f"{len(own)} {kind}", *_shares(own)))
        print_table(console, _ANSWERS, rows, texts=(0, 1), frame=SIMPLE)
    say(f"wrote {output}")


_SHIFTS = ("requests", "kind", "logit of compliance", "change elsewhere")
_ANSWERS = ("system prompt", "requests left out", "comply", "refuse", "safe")


def _print(trained: TrainedSoftPrompt, console: Console) -> None:
    losses = trained.losses
    if trained.resumed_at:
        console.print(f"went on at step {trained.resumed_at}")
    if losses:
        console.print(
            f"{len(losses)} steps; loss {losses[0]:.4f} at first, {losses[-1]:.4f} at last"
        )
    rows = [
        (name, kind, f"{shift.compliance:+.2f}", f"{shift.rest:.1%}")
        for (name, kind), shift in trained.shifts.items()
    ]
    print_table(console, _SHIFTS, rows, texts=(0, 1), frame=SIMPLE)


def _shares(found: list[Judged]) -> tuple[str, ...]:
    """Shares of the answers that comply, refuse, are safe."""
    return tuple(
        f"{sum(values) / len(found):.2f}"
        for values in (
            [one.complies for one in found],
            [one.refuses for one in found],
            [one.safe for one in found],
        )
    )
