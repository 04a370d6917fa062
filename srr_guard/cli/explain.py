"""`srr-guard explain`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from srr_guard.cli.options import REFERENCE, SCORER

if TYPE_CHECKING:
    from srr_guard.scorer.explanation import ProbeShares, Share


def explain(
    prompt: Annotated[str, typer.Option(help="What was asked.")],
    answer: Annotated[str, typer.Option(help="The answer.")],
    scorer: Annotated[str | None, typer.Option(help=SCORER)] = None,
    reference: Annotated[str | None, typer.Option(help=REFERENCE)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which words made an answer's score what it is."""
    from srr_guard import SRRScorer

    found = SRRScorer.from_pretrained(scorer, reference=reference).explain(prompt, answer)
    if as_json:
        typer.echo(found.model_dump_json())
        return
    console = Console()
    console.print(f"p_safe {found.p_safe:.3f}; green speaks for the answer, red against it\n")
    console.print(_coloured(found.harmless), "\n")
    if found.effects:
        console.print(_table("sentence", "p_safe's log-odds with it, less without", found.effects))
    console.print(_sentences("harmless", found.harmless))
    for name, shares in (("answers", found.answers), ("harmful request", found.harmful_request)):
        if shares is not None:
            console.print(_sentences(name, shares))


def _coloured(shares: ProbeShares) -> Text:
    """The text, each token on a colour as strong as its share."""
    text = Text(shares.text)
    strongest = max((abs(token.value) for token in shares.tokens), default=1.0) or 1.0
    for token in shares.tokens:
        strength = int(160 * abs(token.value) / strongest)
        colour = f"rgb({strength},0,0)" if token.value < 0 else f"rgb(0,{strength},0)"
        if strength > 20:
            text.stylize(f"white on {colour}", token.start, token.end)
    return text


def _table(name: str, value: str, sentences: Iterable[Share]) -> Table:
    table = Table(title_justify="left")
    table.add_column(name, overflow="fold")
    table.add_column(value, min_width=6, overflow="fold")  # a figure is never cut off
    for sentence in sentences:
        table.add_row(Text(sentence.text), f"{sentence.value:+.2f}")
    return table


def _sentences(name: str, shares: ProbeShares) -> Table:
    table = _table(f"{name}: logit {shares.logit:+.2f}", "share", shares.sentences)
    table.add_row(Text("the rest", style="dim"), f"{shares.intercept + shares.rest:+.2f}")
    return table
