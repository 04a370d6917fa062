"""Finds out whether something blocked an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_TICK = 0.01  # seconds


@contextmanager
def blocked_loops(longest: float) -> Iterator[list[float]]:
    """Collect the seconds of each callback that kept an event loop busy for longer than that.

    Time is counted by the ticks of another thread: where the whole process stands still (a
    collection of garbage, a machine busy elsewhere) nothing ticks, and the loop is not to blame.
    """
    blocked: list[float] = []
    ticks = 0
    done = threading.Event()
    run = asyncio.Handle._run

    def tick() -> None:
        nonlocal ticks
        while not done.wait(_TICK):
            ticks += 1

    def timed(handle: asyncio.Handle) -> None:
        before = ticks
        run(handle)
        seconds = (ticks - before) * _TICK
        if seconds > longest:
            blocked.append(seconds)

    clock = threading.Thread(target=tick, daemon=True)
    clock.start()
    asyncio.Handle._run = timed  # type: ignore[method-assign]
    try:
        yield blocked
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]
        done.set()
        clock.join()
