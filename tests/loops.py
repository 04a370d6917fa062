"""Finds out whether something blocked an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def blocked_loops(longest: float) -> Iterator[list[float]]:
    """Collect the seconds of each callback that kept an event loop busy for longer than that."""
    blocked: list[float] = []
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        started = time.perf_counter()
        run(handle)
        seconds = time.perf_counter() - started
        if seconds > longest:
            blocked.append(seconds)

    asyncio.Handle._run = timed  # type: ignore[method-assign]
    try:
        yield blocked
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]
