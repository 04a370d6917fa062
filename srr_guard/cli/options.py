"""Help texts and parsers that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.markup import escape

from srr_guard.errors import ConfigurationError, InvalidInputError

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


def require_place(option: str, path: Path | None) -> None:
    """Refuse a file that could not be written, before the work that is to fill it.

    Raises:
        InvalidInputError: Its folder does not exist, or it is a folder.
    """
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise InvalidInputError(
            f"{option} {str(path)!r}: the folder {str(path.parent)!r} does not exist: create it "
            "first"
        )
    if path.is_dir():
        raise InvalidInputError(f"{option} {str(path)!r} is a folder: name a file")


def require_folder(option: str, path: Path | None) -> None:
    """Refuse a folder that could not be made.

    Raises:
        InvalidInputError: It, or a folder above it, is a file.
    """
    if path is None:
        return
    there = next(part for part in (path.absolute(), *path.absolute().parents) if part.exists())
    if not there.is_dir():
        raise InvalidInputError(f"{option} {str(path)!r}: {str(there)!r} is a file: name a folder")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file that is written, should that fail.

    Raises:
        ConfigurationError: It cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"{str(path)!r} cannot be written: {error.strerror or error}"
        ) from error


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
