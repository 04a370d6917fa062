"""Forms of streamed responses: plain text, server-sent events, lines of JSON."""

from __future__ import annotations

import codecs
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from srr_guard.core.delivery import PiecesDelivery
from srr_guard.reading import Reading


class TextForm(PiecesDelivery):
    """Pieces of text that are sent as they are."""

    def sent(self, pieces: Sequence[str]) -> list[str]:
        """The pieces as they go over the wire."""
        return list(pieces)


class FramedForm(TextForm, ABC):
    """Messages, each in a frame.

    An answer whose pieces are framed already is sent as it is, and read without the frames: events
    and chunks of a provider's API in them are joined. Of any other each piece is put in a frame of
    its own, and so is a refusal.
    """

    def read(self, output: Sequence[Any]) -> Reading:
        """Read what is in the frames."""
        inside = self._inside("".join(output)) if _are_texts(output) else None
        return super().read(output if inside is None else inside)

    def refusal(self, text: str, output: Sequence[Any]) -> list[Any] | None:
        """Put the refusal in a frame, where those of the answer are in frames."""
        framed = _are_texts(output) and self._inside("".join(output)) is not None
        return [self._frame(text), *self._end(output)] if framed else super().refusal(text, output)

    def sent(self, pieces: Sequence[str]) -> list[str]:
        """The pieces in frames; empty ones are left out."""
        if self._inside("".join(pieces)) is not None:
            return list(pieces)
        return [self._frame(piece) for piece in _whole_lines(pieces) if piece]

    @abstractmethod
    def _inside(self, text: str) -> list[str] | None:
        """The texts that the frames hold; None if the text is not in frames."""

    @abstractmethod
    def _frame(self, text: str) -> str:
        """The text in a frame."""

    def _end(self, output: Sequence[str]) -> list[str]:
        return []


class EventsForm(FramedForm):
    """Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

    def _inside(self, text: str) -> list[str] | None:
        """The data of the events, one after the other; then all else that they hold."""
        text = _LINE_END.sub("\n", text)
        lines = text.split("\n")
        if not text.endswith("\n\n") or not all(_FIELD.match(line) for line in lines if line):
            return None
        data: list[str] = []
        beside: list[str] = []
        for event in re.split("\n\n+", text):
            parts = [line.partition(":") for line in event.split("\n") if line]
            values = [(name, value.removeprefix(" ")) for name, _, value in parts]
            found = "\n".join(value for name, value in values if name == "data")
            data.append("" if found == _DONE else found)
            beside += [value for name, value in values if name != "data"]
        rest = "\n".join(dict.fromkeys(beside))
        return [*data, f"\n{rest}" if rest and any(data) else rest]

    def _frame(self, text: str) -> str:
        from fastapi.sse import format_sse_event

        return format_sse_event(data_str=text).decode()

    def _end(self, output: Sequence[str]) -> list[str]:
        ends = "".join(output).rstrip().endswith(f"data: {_DONE}")
        return [self._frame(_DONE)] if ends else []


class LinesForm(FramedForm):
    """A JSON value on each line."""

    def _inside(self, text: str) -> list[str] | None:
        """The texts one after the other, where all lines are texts; else the lines."""
        try:
            values = [json.loads(line) for line in text.split("\n") if line.strip()]
        except (ValueError, RecursionError):
            return None
        if not values or not text.endswith("\n"):
            return None
        return values if _are_texts(values) else text.splitlines(keepends=True)

    def _frame(self, text: str) -> str:
        return json.dumps(text) + "\n"


def texts_of(pieces: Iterable[Any]) -> list[Any]:
    """The pieces, those of bytes decoded; a character may be parted between two.

    Raises:
        UnicodeDecodeError: The bytes are no UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    found = [
        decoder.decode(bytes(piece)) if isinstance(piece, (bytes, bytearray, memoryview)) else piece
        for piece in pieces
    ]
    decoder.decode(b"", final=True)
    return found


def form_of(media_type: str) -> TextForm:
    """The form of a response of this media type."""
    kind = media_type.partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return EventsForm()
    return LinesForm() if kind in _JSON_LINES else TextForm()


_JSON_LINES = frozenset(
    f"application/{name}"
    for name in ("jsonl", "jsonlines", "x-jsonlines", "ndjson", "x-ndjson", "stream+json")
)
_LINE_END = re.compile("\r\n|\r")
_FIELD = re.compile("(?:data|event|id|retry)?:")
_DONE = "[DONE]"


def _are_texts(pieces: Sequence[Any]) -> bool:
    return all(isinstance(piece, str) for piece in pieces)


def _whole_lines(pieces: Sequence[str]) -> list[str]:
    """The pieces, with no end of a line parted between two of them."""
    whole: list[str] = []
    held = ""
    for piece in pieces:
        piece = held + piece
        held = "\r" if piece.endswith("\r") else ""
        whole.append(piece.removesuffix("\r"))
    return [*whole, held]
