"""`srr-guard triggers` and `srr-guard vectors`: the files that recipes for local models read."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srr_guard.cli.options import DATA, DEVICE, DTYPE, REFERENCE, SCORER, require_place, writing
from srr_guard.errors import InvalidInputError
from srr_guard.extras import require_local
from srr_guard.reference.spec import DType, ModelSpec
from srr_guard.terminal import progress_shown, say, terminal

if TYPE_CHECKING:
    from srr_guard.training.data import LabelledResponse

_MOST = "Most requests of each kind, drawn by the seed."


def triggers(
    data: Annotated[list[str], typer.Option(help=DATA)],
    output: Annotated[Path, typer.Option(help="The table, a JSON file.")],
    reference: Annotated[str | None, typer.Option(help=REFERENCE)] = None,
    scorer: Annotated[str | None, typer.Option(help=SCORER)] = None,
    most: Annotated[int, typer.Option(min=1, help=_MOST)] = 100,
    samples: Annotated[int, typer.Option(min=1, help="Answers for each request.")] = 4,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    dtype: Annotated[DType, typer.Option(help=DTYPE)] = "auto",
) -> None:
    """Count how a model's own refusals begin, for `RefusalStart`."""
    require_local("`srr-guard triggers`")
    require_place("--output", output)
    from srr_guard import SRRScorer
    from srr_guard.local.estimate import estimate_triggers
    from srr_guard.training.data import read_rows

    goals = _prompts(read_rows(data), "unsafe", most, seed)
    judge = SRRScorer.from_pretrained(scorer)
    with progress_shown(terminal(errors=True)) as progress:
        answered = 0

        def report(more: int) -> None:
            nonlocal answered
            answered += more
            progress("requests", answered, len(goals))

        table = estimate_triggers(
            ModelSpec(reference=reference, device=device, dtype=dtype),
            goals,
            judge,
            samples=samples,
            seed=seed,
            progress=report,
        )
    with writing(output):
        table.write(output)
    rate = table.refusals / table.sampled
    say(f"{table.refusals} of {table.sampled} answers refuse ({rate:.0%}); {output}")


def vectors(
    data: Annotated[list[str], typer.Option(help=DATA)],
    output: Annotated[Path, typer.Option(help="The vectors, a safetensors file.")],
    reference: Annotated[str | None, typer.Option(help=REFERENCE)] = None,
    most: Annotated[int, typer.Option(min=1, help=_MOST)] = 128,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    dtype: Annotated[DType, typer.Option(help=DTYPE)] = "auto",
) -> None:
    """Find a model's refusal vectors from paired requests, for `Steered`."""
    require_local("`srr-guard vectors`")
    require_place("--output", output)
    from srr_guard.local.estimate import estimate_vectors
    from srr_guard.training.data import read_rows

    rows = read_rows(data)
    found = estimate_vectors(
        ModelSpec(reference=reference, device=device, dtype=dtype),
        _prompts(rows, "unsafe", most, seed),
        _prompts(rows, "safe", most, seed),
    )
    with writing(output):
        found.write(output)
    say(f"blocks {found.blocks[0]} to {found.blocks[-1]}: {output}")


def _prompts(rows: list[LabelledResponse], kind: str, most: int, seed: int) -> list[str]:
    """Prompts of one kind, of pairs that the seed draws: the same pairs for either kind."""
    pairs: dict[str, str] = {}
    for row in rows:
        if row.prompt_type == kind:
            pairs.setdefault(row.pair or row.goal_id, row.prompt)
    if not pairs:
        raise InvalidInputError(f"the data has no prompts of the type {kind!r}")
    names = sorted(pairs)
    return [pairs[name] for name in random.Random(seed).sample(names, min(most, len(names)))]


def paired_prompts(rows: list[LabelledResponse], most: int, seed: int) -> list[tuple[str, str]]:
    """A harmful request and a harmless one of each pair; the seed draws the pairs.

    Raises:
        InvalidInputError: No pair has both.
    """
    kinds: dict[str, dict[str, str]] = {"unsafe": {}, "safe": {}}
    for row in rows:
        if row.prompt_type is not None and row.pair:
            kinds[row.prompt_type].setdefault(row.pair, row.prompt)
    names = sorted(kinds["unsafe"].keys() & kinds["safe"].keys())
    if not names:
        raise InvalidInputError(
            "the data has no pairs of requests: rows of a harmful and of a harmless one (by "
            "`prompt_type`) must share a `pair`, as in `contrast`"
        )
    chosen = random.Random(seed).sample(names, min(most, len(names)))
    return [(kinds["unsafe"][name], kinds["safe"][name]) for name in chosen]
