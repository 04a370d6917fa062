"""Streams that stand for those of the `openai` package."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any


class ChunkStream:
    """The chunks or events of the chosen answer; used like `openai.Stream`.

    Example:
        >>> with ChunkStream(["a chunk", "another"]) as stream:
        ...     list(stream)
        ['a chunk', 'another']
    """

    def __init__(self, chunks: list[Any]) -> None:
        self._chunks = iter(chunks)

    @property
    def response(self) -> ChunkStream:
        """Stands for the HTTP response, of which there is none: something to close."""
        return self

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._chunks)

    def __enter__(self) -> ChunkStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the remaining chunks."""
        self._chunks = iter(())


class AsyncChunkStream:
    """The chunks or events of the chosen answer; used like `openai.AsyncStream`.

    Example:
        >>> import asyncio
        >>> async def read():
        ...     return [chunk async for chunk in AsyncChunkStream(["a chunk", "another"])]
        >>> asyncio.run(read())
        ['a chunk', 'another']
    """

    def __init__(self, chunks: list[Any]) -> None:
        self._chunks = iter(chunks)

    @property
    def response(self) -> AsyncChunkStream:
        """Stands for the HTTP response, of which there is none: something to close."""
        return self

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration

    async def __aenter__(self) -> AsyncChunkStream:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop the remaining chunks."""
        self._chunks = iter(())

    async def aclose(self) -> None:
        """Drop the remaining chunks, as an HTTP response is closed."""
        await self.close()
