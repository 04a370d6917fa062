"""Reads files of JSON and of text strictly, and says what is wrong with them."""

from __future__ import annotations

import codecs
import json
import math
from typing import Any

from srr_guard.errors import InvalidInputError

_STARTS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"\x1f\x8b": "packed with gzip",
    b"PAR1": "Parquet",
}


def foreign_form(start: bytes) -> str | None:
    """Name what a file is in place of UTF-8, by its first bytes; None where they do not tell."""
    for mark, name in _STARTS.items():
        if start.startswith(mark):
            return name
    return "UTF-16 or binary" if b"\x00" in start else None


def utf8_text(content: bytes, name: str) -> str:
    """Decode a file's text, without a byte order mark.

    Args:
        content: Of the file.
        name: Of the file, for the error.

    Raises:
        InvalidInputError: It is in another encoding, or no text.
    """
    if (form := foreign_form(content[:1024])) is not None:
        raise InvalidInputError(f"{name} cannot be read: it is {form}; give text in UTF-8")
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidInputError(f"{name}, line {line}: {not_utf8(error)}") from error


def not_utf8(error: UnicodeDecodeError) -> str:
    """Say which byte is not UTF-8, and what to do."""
    return f"not UTF-8 (byte 0x{error.object[error.start]:02x}): save the file as UTF-8"


def strict_json(text: str | bytes) -> Any:
    """Read JSON; nothing is dropped, and no number is read as another.

    Raises:
        ValueError: It is not valid JSON, a field is there twice, or a number is not finite.
        RecursionError: It is nested too deeply.
    """
    if isinstance(text, bytes):
        text = text.removeprefix(codecs.BOM_UTF8).decode()
    return json.loads(
        text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"{twice!r} is there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text} is too large")
    return number
