"""`srr-guard explain`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from srr_guard.cli.options import REFERENCE, SCORER
from srr_guard.terminal import print_json, print_table, shown, terminal

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
        print_json(found)
        return
    console = terminal()
    console.print(f"p_safe {found.p_safe:.3f}; green speaks for the answer, red against it\n")
    console.print(_coloured(found.harmless, console), "\n")
    if found.effects:
        heads = ("sentence", "p_safe's log-odds with it, less without")
        print_table(console, heads, _rows(found.effects))
    _print_sentences("harmless", found.harmless, console)
    for name, shares in (("answers", found.answers), ("harmful request", found.harmful_request)):
        if shares is not None:
            _print_sentences(name, shares, console)


def _coloured(shares: ProbeShares, console: Console) -> Text:
    """The text, each token on a colour as strong as its share."""
    text, place = Text(), 0
    strongest = max((abs(token.value) for token in shares.tokens), default=1.0) or 1.0
    for token in sorted(shares.tokens, key=lambda token: token.start):
        strength = int(160 * abs(token.value) / strongest)
        colour = f"rgb({strength},0,0)" if token.value < 0 else f"rgb(0,{strength},0)"
        text.append(shown(shares.text[place : token.start], console))
        style = f"white on {colour}" if strength > 20 else None
        text.append(shown(shares.text[max(place, token.start) : token.end], console).plain, style)
        place = max(place, token.end)
    return text.append(shown(shares.text[place:], console))


def _rows(shares: Iterable[Share]) -> list[tuple[str, str]]:
    return [(share.text, f"{share.value:+.2f}") for share in shares]


def _print_sentences(name: str, shares: ProbeShares, console: Console) -> None:
    rows = [*_rows(shares.sentences), ("the rest", f"{shares.intercept + shares.rest:+.2f}")]
    styles = [""] * len(shares.sentences) + ["dim"]
    print_table(console, (f"{name}: logit {shares.logit:+.2f}", "share"), rows, styles=styles)
