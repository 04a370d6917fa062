"""Arguments that can be used once only, made usable once per candidate."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import inspect
import io
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

from srr_guard.errors import InvalidInputError


class Replay:
    """What an iterator yields, for as many readers as like, each from the beginning.

    It is read as far as the furthest reader, so that one without an end may be given. Safe to
    share between threads.

    Example:
        >>> replay = Replay(iter("ab"))
        >>> list(replay), list(replay)
        (['a', 'b'], ['a', 'b'])
    """

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self._items: list[Any] = []
        self._lock = threading.Lock()
        self._over = False
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[Any]:
        place = 0
        while self._reach(place):
            yield self._items[place]
            place += 1

    def _reach(self, place: int) -> bool:
        with self._lock:
            while not self._over and place >= len(self._items):
                try:
                    self._items.append(next(self._iterator))
                except StopIteration:
                    self._over = True
                except Exception as error:  # noqa: BLE001 (raised to each reader)
                    self._over, self._error = True, error
            if place < len(self._items):
                return True
        if self._error is not None:  # for each reader, not only the one who was there first
            raise self._error
        return False


class AsyncReplay:
    """The same of an async iterator, for the tasks of one event loop."""

    def __init__(self, iterator: AsyncIterator[Any]) -> None:
        self._iterator = iterator
        self._items: list[Any] = []
        self._next: asyncio.Task[None] | None = None
        self._over = False
        self._error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        place = 0
        while await self._reach(place):
            yield self._items[place]
            place += 1

    async def _reach(self, place: int) -> bool:
        while not self._over and place >= len(self._items):
            if self._next is None:
                self._next = asyncio.create_task(self._pull())
            await asyncio.shield(self._next)  # a reader that is cancelled ends no other's reading
        if place < len(self._items):
            return True
        if self._error is not None:
            raise self._error
        return False

    async def _pull(self) -> None:
        try:
            self._items.append(await anext(self._iterator))
        except StopAsyncIteration:
            self._over = True
        except Exception as error:  # noqa: BLE001 (raised to each reader)
            self._over, self._error = True, error
        finally:
            self._next = None


class FileReplay:
    """What is left to read of a file, for as many readers as like: files in memory.

    Args:
        file: A file open for reading; it is read to its end.
    """

    def __init__(self, file: Any) -> None:
        self._content = file.read()
        self._name = getattr(file, "name", None)

    def open(self) -> Any:
        """A file in memory, at its beginning."""
        content = self._content
        opened: Any = io.StringIO(content) if isinstance(content, str) else io.BytesIO(content)
        if self._name is not None:
            opened.name = self._name
        return opened


_DEPTH = 6
"""So deep are containers looked into; some hold themselves."""


def replayable(value: Any, *, depth: int = _DEPTH) -> Any:
    """A value whose iterators and files can be read from the beginning by each candidate.

    Found are sync and async iterators and files open for reading, also inside of lists, tuples,
    dicts and dataclasses. Files that can be written stay as they are, but for those in memory
    that have something left to read. All else stays as it is, the same object.

    Raises:
        InvalidInputError: It is a coroutine, or a pipe, of which only one candidate would have
            something.
    """
    if inspect.iscoroutine(value):
        value.close()
        raise InvalidInputError(
            f"an argument is the coroutine {value.__qualname__!r}, which can be awaited once and "
            "not by each candidate: await it, and give what it returns"
        )
    if isinstance(value, io.IOBase):
        return _replayable_file(value)
    if isinstance(value, Iterator):
        return Replay(value)
    if isinstance(value, AsyncIterator):
        return AsyncReplay(value)
    return mapped(value, partial(replayable, depth=depth - 1)) if depth else value


def fresh(value: Any, *, depth: int = _DEPTH) -> Any:
    """What `replayable` has made, from the beginning; all else as it is."""
    if isinstance(value, Replay):
        return iter(value)
    if isinstance(value, AsyncReplay):
        return aiter(value)
    if isinstance(value, FileReplay):
        return value.open()
    return mapped(value, partial(fresh, depth=depth - 1)) if depth else value


def _replayable_file(file: Any) -> Any:
    if file.closed or not file.readable():
        return file
    if isinstance(file, (io.StringIO, io.BytesIO)):
        place = file.tell()
        left = FileReplay(file)
        file.seek(place)
        return left if left.open().read(1) else file
    if file.writable():
        return file
    if not file.seekable():
        raise InvalidInputError(
            f"an argument is {file!r}, which can be read once and not by each candidate: read it, "
            "and give its content"
        )
    return FileReplay(file)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of a container with changed values; the container itself if none changes."""
    if type(value) in (list, tuple):
        new = [change(item) for item in value]
        return value if all(map(_same, new, value)) else type(value)(new)
    if type(value) is dict:
        changed = {k: change(v) for k, v in value.items()}
        return value if all(map(_same, changed.values(), value.values())) else changed
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
        changed = {k: new for k, v in fields.items() if (new := change(v)) is not v}
        if changed:
            value = copy.copy(value)
            for name, new in changed.items():
                object.__setattr__(value, name, new)
    return value


def _same(a: object, b: object) -> bool:
    return a is b


def listed(value: Any) -> Any:
    """A Replay, or an iterator anywhere in lists and dicts, as a list."""
    if isinstance(value, (Replay, Iterator)) and not isinstance(value, io.IOBase):
        return [listed(item) for item in value]
    if type(value) is dict:
        return {key: listed(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        items = [listed(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value
