"""Events and lines in which servers send the pieces of an answer, as texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

IsRaw = Callable[[Mapping[str, Any]], bool]


def unframed(pieces: Sequence[str], is_raw: IsRaw) -> Sequence[Any]:
    """The pieces of an answer that stand as JSON in texts, in server-sent events, or one a line.

    Args:
        pieces: All of a stream.
        is_raw: Tells a provider's events and chunks from other JSON.

    Returns:
        The texts themselves where none hold such JSON.
    """
    values = [_raw_in(piece.strip(), is_raw) for piece in pieces]
    if any(value is not None for value in values):
        return [p if value is None else value for p, value in zip(pieces, values, strict=True)]
    return _in_lines("".join(pieces), is_raw) or pieces


def leftover(pieces: Sequence[Any], text: str) -> list[str]:
    """The words and long texts in dicts that are not in a text.

    Args:
        pieces: Dicts, and lists of them.
        text: What was read of them.
    """
    said: dict[str, None] = {}
    for piece in pieces:
        _collect(piece, said)
    return [one for one in said if _may_tell(one) and one not in text]


def _may_tell(text: str) -> bool:
    """True for what is more than a name or an id."""
    return len(text) > _LONGEST_ID or len(text.split()) > 1


_LONGEST_ID = 64


def _collect(value: Any, into: dict[str, None]) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            into[str(key)] = None
            _collect(inner, into)
    elif isinstance(value, list):
        for inner in value:
            _collect(inner, into)
    elif isinstance(value, str):
        into[value] = None


def _in_lines(text: str, is_raw: IsRaw) -> list[Any] | None:
    if "{" not in text or not (text.lstrip().startswith("{") or "data:" in text):
        return None
    found: list[Any] = []
    beside: dict[str, None] = {}
    for line in text.splitlines():
        name, _, data = line.partition(":")
        inside = data.strip() if name == "data" else line.strip()
        if (value := _raw_in(inside, is_raw)) is not None:
            found.append(value)
        elif inside and inside != "[DONE]":
            beside[line] = None
    return [*found, *(f"\n{line}" for line in beside)] if found else None


def _raw_in(text: str, is_raw: IsRaw) -> Mapping[str, Any] | None:
    if not (text.startswith("{") and text.endswith("}")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, Mapping) and is_raw(value) else None
