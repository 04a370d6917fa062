"""Streams candidates, so that the scorer can pre-encode them while they are written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

from langchain_core.messages import AIMessageChunk, message_chunk_to_message

from srr_guard.errors import InvalidInputError
from srr_guard.protocols import AnswerWatch, CutOff
from srr_guard.reading import read


def collect(chunks: Iterator[Any], watch: Callable[..., AnswerWatch]) -> Any:
    """Run a stream to its end and return what `invoke` would have returned.

    Args:
        chunks: The stream; closed in the end, also where the answer is cut off or fails.
        watch: Follows a text: the answer, and with `trace=True` its reasoning.

    Returns:
        The output; a CutOff with the output so far where it is cut off.

    Raises:
        InvalidInputError: It streams a list.
    """
    growing = _Growing(watch)
    try:
        for chunk in chunks:
            growing.add(chunk)
            if any(one.cut(text) for one, text in growing.watched):
                return CutOff(growing.whole())
    finally:
        if (close := getattr(chunks, "close", None)) is not None:
            close()
    return growing.whole()


async def acollect(chunks: AsyncIterator[Any], watch: Callable[..., AnswerWatch]) -> Any:
    """Like `collect`, without blocking the event loop."""
    growing = _Growing(watch)
    try:
        async for chunk in chunks:
            growing.add(chunk)
            for one, text in growing.watched:
                if await one.acut(text):
                    return CutOff(growing.whole())
    finally:
        if (close := getattr(chunks, "aclose", None)) is not None:
            await close()
    return growing.whole()


class _Growing:
    """The sum of the chunks so far.

    Attributes:
        watched: What has grown, and who follows it.
    """

    def __init__(self, watch: Callable[..., AnswerWatch]) -> None:
        self.watched: list[tuple[AnswerWatch, str]] = []
        self._watch = watch
        self._answer = watch()  # at once, for the prompt can be encoded already
        self._trace: AnswerWatch | None = None
        self._output: Any = None

    def add(self, chunk: Any) -> None:
        if self._output is None:
            self._output = chunk
        elif isinstance(chunk, list):
            raise InvalidInputError(
                "`read_ahead` cannot join a list streamed in chunks: set `read_ahead=False`, or "
                "wrap the model in place of the chain"
            )
        else:
            try:
                self._output = self._output + chunk
            except TypeError:  # a chain whose chunks are its output so far
                self._output = chunk
        self._tell(done=False)

    def whole(self) -> Any:
        self._tell(done=True)
        if isinstance(self._output, AIMessageChunk):
            return message_chunk_to_message(self._output)
        return self._output

    def _tell(self, *, done: bool) -> None:
        with suppress(InvalidInputError):  # it has no text yet; or never, which sampling reports
            if self._output is None:
                return
            reading = read(self._output)
            self._answer(reading.text, done=done)
            self.watched = [(self._answer, reading.text)]
            if reading.trace:
                self._trace = self._trace or self._watch(trace=True)
                self._trace(reading.trace, done=done or bool(reading.text))
                self.watched.append((self._trace, reading.trace))
