"""`srr-guard score`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srr_guard.characters import is_blank
from srr_guard.cli.options import REFERENCE, SCORER
from srr_guard.errors import InvalidInputError
from srr_guard.json_lines import strict_json, utf8_text
from srr_guard.terminal import print_json, print_table, say, terminal

if TYPE_CHECKING:
    from srr_guard.decision import Ranking


def score(
    prompt: Annotated[str, typer.Option(help="What was asked.")],
    candidates: Annotated[
        str, typer.Option(help="File with the answers, - for standard input: a JSON list or lines.")
    ],
    scorer: Annotated[str | None, typer.Option(help=SCORER)] = None,
    reference: Annotated[str | None, typer.Option(help=REFERENCE)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rank answers that you have."""
    from srr_guard import SRRScorer

    texts = _read_candidates(candidates)
    ranking = SRRScorer.from_pretrained(scorer, reference=reference).score(prompt, texts)
    if as_json:
        print_json(ranking)
    else:
        _print_ranking(texts, ranking)


def _read_candidates(where: str) -> list[str]:
    try:
        content = _standard_input() if where == "-" else Path(where).read_bytes()
    except OSError as error:
        raise InvalidInputError(
            f"the candidates in {where!r} cannot be read: {error.strerror or error}"
        ) from error
    text = utf8_text(content, repr(where))
    if text.lstrip().startswith("["):
        try:
            listed: list[object] = strict_json(text)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"{where!r} is not a valid JSON list: {error}") from error
        if wrong := [item for item in listed if not isinstance(item, str)]:
            raise InvalidInputError(f"{where!r} holds {wrong[0]!r:.60}, which is no text")
        return [item for item in listed if isinstance(item, str)]
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")  # no other end of a line
    return [line for line in lines if not is_blank(line)]


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise OSError("standard input is closed")
    if sys.stdin.isatty():
        say("one answer a line; end with Ctrl-D", errors=True)
    return sys.stdin.buffer.read()


def _print_ranking(texts: list[str], ranking: Ranking) -> None:
    verdicts = ranking.verdicts or ("",) * len(ranking)
    rows = [
        (str(place), f"{ranking.scores[i]:+.3f}", f"{ranking.p_safe[i]:.3f}", verdicts[i], texts[i])
        for place, i in enumerate(ranking.order, start=1)
    ]
    console = terminal()
    heads = ("rank", "listwise score", "p_safe", "verdict", "candidate")
    print_table(console, heads, rows, texts=(4,))
    if ranking.familiarity is not None:
        said = (
            f"familiarity of the request: {ranking.familiarity:.2f} (share of the training's "
            "requests that are at least as unusual)"
        )
        console.print(said)
