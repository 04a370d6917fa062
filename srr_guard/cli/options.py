"""Help texts and parsers that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rich.markup import escape

from srr_guard.errors import InvalidInputError

N = TypeVar("N", int, float)

SCORER = "A shipped scorer's name, a folder or a hub id; default: the shipped one."
REFERENCE = "The reference LLM: a folder, GGUF file or hub id; default: the first one found."
DEVICE = "Where the reference LLM runs: auto, cpu, cuda, ..."
DTYPE = "Its precision."
DATA = escape(
    "JSON Lines files, folders of them, contrast, or hf:owner/name[/config][:split]; may be "
    "repeated."
)
APART = (
    "Rows to measure on, named like --data: rows with nearly the same request are left out; may "
    "be repeated."
)
RECIPE = "Public data sets to load; see --dry-run."


def pairs(option: str, given: list[str] | None, kind: Callable[[str], N]) -> dict[str, N]:
    """Parse `NAME=NUMBER` arguments into numbers of a kind, `int` or `float`.

    Raises:
        InvalidInputError: One of them has another form.
    """
    found = {}
    for pair in given or ():
        name, _, value = pair.partition("=")
        try:
            found[name] = kind(value)
        except ValueError as error:
            wanted = "NUMBER" if kind is float else "ROWS"
            raise InvalidInputError(f"{option} {pair!r}: write NAME={wanted}") from error
    return found
