"""Arguments that can be used once only, made usable once per candidate."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from typing import Any


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
            return place < len(self._items)


def replayable(value: Any) -> Any:
    """An iterator as a Replay; files and all else as they are."""
    if isinstance(value, Iterator) and not isinstance(value, io.IOBase):
        return Replay(value)
    return value


def fresh(value: Any) -> Any:
    """A Replay as an iterator from the beginning; all else as it is."""
    return iter(value) if isinstance(value, Replay) else value


def listed(value: Any) -> Any:
    """A Replay, or an iterator anywhere in lists and dicts, as a list."""
    if isinstance(value, (Replay, Iterator)) and not isinstance(value, io.IOBase):
        return [listed(item) for item in value]
    if type(value) is dict:
        return {key: listed(item) for key, item in value.items()}
    if type(value) is list:
        return [listed(item) for item in value]
    return value
