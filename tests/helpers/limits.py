"""Time limits without a clock: a limit is reached when all that is still waited for hangs.

Calls that are to be late say so by `await limits.hang()`, or `limits.hang_thread()` on a thread.
A wait with a limit then ends once nothing but such calls is left in it, and no sooner, however
slow the machine. `limits.advance` moves the clock that deadlines are counted by.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections import Counter
from contextvars import ContextVar
from typing import Any

import pytest

_REAL_WAIT = concurrent.futures.wait
_REAL_ASYNC_WAIT = asyncio.wait
_POLL = 0.005  # seconds between two looks; nothing depends on it

_request: ContextVar[object] = ContextVar("request", default=None)


class Limits:
    """Replaces the waits and the clock of `srr_guard.core` for one test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = 0.0
        self._hanging: Counter[object] = Counter()
        self._released = threading.Event()
        for module in ("calls", "scoring"):
            monkeypatch.setattr(f"srr_guard.core.{module}.wait", self._wait)
        monkeypatch.setattr("asyncio.wait", self._async_wait)
        for module in ("outcomes", "best_of_n"):
            monkeypatch.setattr(f"srr_guard.core.{module}.time", self)

    def perf_counter(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds

    def new_request(self) -> None:
        """Tell the calls of this request, made in this context, from those of others."""
        _request.set(object())

    async def hang(self) -> None:
        """Hang until the call is cancelled."""
        key = _request.get()
        self._hanging[key] += 1
        try:
            await asyncio.Event().wait()
        finally:
            self._hanging[key] -= 1

    def hang_thread(self) -> None:
        """Hang until the test is over."""
        self._hanging[_request.get()] += 1
        self._released.wait()

    def release(self) -> None:
        """Let the threads that hang go on."""
        self._released.set()

    def _wait(self, calls: Any, timeout: float | None = None, return_when: Any = "ALL_COMPLETED"):
        while True:
            limit = None if timeout is None else _POLL
            done, late = _REAL_WAIT(calls, timeout=limit, return_when=return_when)
            if limit is None or self._over(done, late, return_when):
                return done, late

    async def _async_wait(
        self, calls: Any, *, timeout: float | None = None, return_when: Any = "ALL_COMPLETED"
    ):
        while True:
            limit = None if timeout is None else _POLL
            done, late = await _REAL_ASYNC_WAIT(calls, timeout=limit, return_when=return_when)
            if limit is None or self._over(done, late, return_when):
                return done, late

    def _over(self, done: Any, late: Any, return_when: Any) -> bool:
        failed = any(not call.cancelled() and call.exception() for call in done)
        return (
            not late
            or (return_when == "FIRST_COMPLETED" and bool(done))
            or (return_when == "FIRST_EXCEPTION" and failed)
            or len(late) <= self._hanging[_request.get()]
        )
