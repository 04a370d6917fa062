"""Streams candidates, so that the scorer can pre-encode them while they are written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

from langchain_core.messages import AIMessageChunk, message_chunk_to_message

from srr_guard.errors import InvalidInputError
from srr_guard.protocols import ReadAhead
from srr_guard.reading import read


def collect(chunks: Iterator[Any], begin: Callable[[], ReadAhead]) -> Any:
    """Run a stream to its end and return what `invoke` would have returned.

    Args:
        chunks: The stream.
        begin: Starts pre-encoding a text: the answer, and its reasoning if there is some.

    Raises:
        InvalidInputError: It streams a list.
    """
    growing = _Growing(begin)
    for chunk in chunks:
        growing.add(chunk)
    return growing.whole()


async def acollect(chunks: AsyncIterator[Any], begin: Callable[[], ReadAhead]) -> Any:
    """Like `collect`, without blocking the event loop."""
    growing = _Growing(begin)
    async for chunk in chunks:
        growing.add(chunk)
    return growing.whole()


class _Growing:
    """The sum of the chunks so far."""

    def __init__(self, begin: Callable[[], ReadAhead]) -> None:
        self._begin = begin
        self._answer = begin()  # at once, for the prompt can be encoded already
        self._trace: ReadAhead | None = None
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
            if reading.trace:
                self._trace = self._trace or self._begin()
                self._trace(reading.trace, done=done or bool(reading.text))
