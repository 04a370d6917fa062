"""The command line: `srr-guard demo | score | train | evaluate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, get_args

import typer
from rich.console import Console

from srr_guard import __version__
from srr_guard.errors import InvalidInputError, SRRGuardError
from srr_guard.reference.spec import DType
from srr_guard.scorer.config import Preset

if TYPE_CHECKING:
    from srr_guard.decision import Ranking

app = typer.Typer(
    help="Sample several answers, rank them by safety, pass the best one on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

PRESETS: tuple[Preset, ...] = get_args(Preset)
DTYPES: tuple[DType, ...] = get_args(DType)
_Choice = TypeVar("_Choice")

_SCORER = "A shipped scorer's name, a folder or a hub id; default: the shipped one."
_REFERENCE = "The reference LLM: a folder, GGUF file or hub id; default: the first one found."
_DEVICE = "Where the reference LLM runs: auto, cpu, cuda, ..."
_DTYPE = "Its precision: auto, float32, bfloat16 or float16."
_DATA = "JSON Lines files, folders of them, contrast, or hf:owner/name[:split]; may be repeated."


def main() -> None:
    """Run the command line; errors of the tree are printed without a traceback."""
    try:
        app()
    except SRRGuardError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {error}", markup=True, highlight=False)
        sys.exit(2)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print it.")] = False) -> None:
    if version:
        typer.echo(f"srr-guard {__version__}")
        raise typer.Exit


@app.command()
def demo(
    prompts: Annotated[list[str] | None, typer.Argument(help="Your own prompts.")] = None,
    n: Annotated[int, typer.Option(help="Answers per prompt.")] = 4,
    threshold: Annotated[float, typer.Option(help="Lowest p_safe that is passed on.")] = 0.5,
    scorer: Annotated[str | None, typer.Option(help=_SCORER)] = None,
    tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 96,
    seed: Annotated[int, typer.Option(help="Random seed of the sampling.")] = 0,
) -> None:
    """Let SmolLM2 answer some prompts and watch the scorer choose."""
    from srr_guard import DecisionPolicy, LocalChatModel, SafetyRanker, SamplingPolicy, SRRScorer
    from srr_guard.cli.demo import PROMPTS, DemoPrompt, run_demo

    ranker = SafetyRanker(
        LocalChatModel(max_new_tokens=tokens, seed=seed),
        scorer=SRRScorer.from_pretrained(scorer),
        sampling=SamplingPolicy(n=n, deadline=None),
        decision=DecisionPolicy(threshold=threshold),
    )
    asked = [DemoPrompt("yours", text) for text in prompts] if prompts else PROMPTS
    run_demo(ranker, asked, Console())


@app.command()
def score(
    prompt: Annotated[str, typer.Option(help="What was asked.")],
    candidates: Annotated[
        str, typer.Option(help="File with the answers, - for standard input: a JSON list or lines.")
    ],
    scorer: Annotated[str | None, typer.Option(help=_SCORER)] = None,
    reference: Annotated[str | None, typer.Option(help=_REFERENCE)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rank answers that you have."""
    from srr_guard import SRRScorer

    texts = _read_candidates(candidates)
    ranking = SRRScorer.from_pretrained(scorer, reference=reference).score(prompt, texts)
    if as_json:
        typer.echo(ranking.model_dump_json())
    else:
        _print_ranking(texts, ranking)


@app.command()
def train(
    data: Annotated[list[str], typer.Option(help=_DATA)],
    output: Annotated[Path, typer.Option(help="Folder of the new bundle.")],
    reference: Annotated[str | None, typer.Option(help=_REFERENCE)] = None,
    preset: Annotated[str, typer.Option(help="Head: default, published or probe.")] = "default",
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
    held_back: Annotated[float, typer.Option(help="Share of goals to validate on.")] = 0.2,
    augmented: Annotated[bool, typer.Option(help="Add made rows that close shortcuts.")] = True,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    resume: Annotated[bool, typer.Option(help="Use features that earlier runs cached.")] = True,
    log: Annotated[Path | None, typer.Option(help="Append progress and losses as JSON.")] = None,
    device: Annotated[str, typer.Option(help=_DEVICE)] = "auto",
    dtype: Annotated[str, typer.Option(help=_DTYPE)] = "auto",
) -> None:
    """Train a scorer on labelled answers; an interrupted run goes on where it stopped."""
    from srr_guard.training.evaluation.reporting import logged, progress_report
    from srr_guard.training.train import TrainingOptions
    from srr_guard.training.train import train as run

    options = TrainingOptions(
        preset=_one_of("--preset", preset, PRESETS),
        per_source=per_source,
        held_back=held_back,
        augmented=augmented,
        source_limits={k: int(v) for k, v in _pairs("--source-limit", source_limit).items()},
        source_weights=_pairs("--source-weight", source_weight),
        harmful_sources=tuple(harmful_source or ()),
        seed=seed,
    )
    console = Console(stderr=True)
    with progress_report(console) as shown, logged(shown, log) as report:
        bundle = run(
            data,
            output,
            options=options,
            reference=reference,
            device=device,
            dtype=_one_of("--dtype", dtype, DTYPES),
            resume=resume,
            report=report,
        )
    typer.echo(f"wrote {bundle.folder}")


@app.command()
def evaluate(
    data: Annotated[list[str], typer.Option(help=_DATA)],
    scorer: Annotated[list[str] | None, typer.Option(help=f"{_SCORER} May be repeated.")] = None,
    reference: Annotated[str | None, typer.Option(help=_REFERENCE)] = None,
    per_source: Annotated[int | None, typer.Option(help="Most rows of each source.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Draw ROC, reliability and list sizes into this folder.")
    ] = None,
    attacks: Annotated[bool, typer.Option(help="Measure disguised harm too.")] = True,
    write_card: Annotated[bool, typer.Option(help="Put the figures on the bundle's card.")] = False,
    seed: Annotated[int, typer.Option(help="Random seed of lists and intervals.")] = 0,
    device: Annotated[str, typer.Option(help=_DEVICE)] = "auto",
    dtype: Annotated[str, typer.Option(help=_DTYPE)] = "auto",
) -> None:
    """Measure scorers, and the baselines they have to beat, on labelled answers."""
    from srr_guard.training.evaluation.card import rewrite_card
    from srr_guard.training.evaluation.evaluate import evaluate_bundles
    from srr_guard.training.evaluation.reporting import print_report, progress_report

    names: list[str | None] = [*scorer] if scorer else [None]
    with progress_report(Console(stderr=True)) as progress:
        report = evaluate_bundles(
            names,
            data,
            reference=reference,
            per_source=per_source,
            seed=seed,
            device=device,
            dtype=_one_of("--dtype", dtype, DTYPES),
            attacks=attacks,
            progress=progress,
        )
    print_report(report, Console())
    if json_file is not None:
        json_file.write_text(report.model_dump_json(indent=2) + "\n")
    if plots is not None:
        from srr_guard.training.evaluation.plots import draw_report

        for file in draw_report(report, plots):
            typer.echo(f"wrote {file}")
    if write_card:
        rewrite_card(names[0], report)


def _read_candidates(where: str) -> list[str]:
    try:
        text = sys.stdin.read() if where == "-" else Path(where).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the candidates in {where!r} cannot be read: {error}") from error
    if text.lstrip().startswith("["):
        try:
            listed = json.loads(text)
        except ValueError as error:
            raise InvalidInputError(f"{where!r} is not a valid JSON list: {error}") from error
        return list(listed)
    return [line for line in text.splitlines() if line.strip()]


def _print_ranking(texts: list[str], ranking: Ranking) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("rank", "listwise score", "p_safe", "candidate")
    for place, i in enumerate(ranking.order, start=1):
        figures = f"{ranking.scores[i]:+.3f}", f"{ranking.p_safe[i]:.3f}"
        table.add_row(str(place), *figures, Text(texts[i]))
    Console().print(table)


def _one_of(option: str, value: str, choices: tuple[_Choice, ...]) -> _Choice:
    for choice in choices:
        if value == choice:
            return choice
    raise InvalidInputError(f"{option} {value!r}: choose one of {', '.join(map(str, choices))}")


def _pairs(option: str, pairs: list[str] | None) -> dict[str, float]:
    found = {}
    for pair in pairs or ():
        name, _, value = pair.partition("=")
        try:
            found[name] = float(value)
        except ValueError as error:
            raise InvalidInputError(f"{option} {pair!r}: write NAME=NUMBER") from error
    return found
