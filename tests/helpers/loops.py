"""Finds out whether something blocked an event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TICK = 0.01  # seconds


@contextmanager
def blocked_loops(longest: float) -> Iterator[list[float]]:
    """Collect the seconds of each callback that kept an event loop busy for longer than that.

    Another thread counts: time in which the whole process stands still, or in which the loop's
    thread is ready to run and gets no processor (as far as the system tells), does not count.
    """
    blocked: list[float] = []
    busy = 0.0
    loop_thread = threading.get_native_id()
    done = threading.Event()
    run = asyncio.Handle._run

    def tick() -> None:
        nonlocal busy
        before, waited = time.monotonic(), _waited(loop_thread)
        while not done.wait(_TICK):
            now, waits = time.monotonic(), _waited(loop_thread)
            busy += max(0.0, min(now - before, _TICK * 1.5) - max(0.0, waits - waited))
            before, waited = now, waits

    def timed(handle: asyncio.Handle) -> None:
        nonlocal loop_thread
        loop_thread = threading.get_native_id()
        before = busy
        run(handle)
        if busy - before > longest:
            blocked.append(busy - before)

    clock = threading.Thread(target=tick, daemon=True)
    clock.start()
    asyncio.Handle._run = timed  # type: ignore[method-assign]
    try:
        yield blocked
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]
        done.set()
        clock.join()


def _waited(thread: int) -> float:
    """Seconds a thread was ready to run and got no processor; 0 where the system keeps no count."""
    try:
        return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
