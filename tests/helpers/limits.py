"""Time limits without a clock: a limit is reached when all that is still waited for hangs.

Calls that are to be late say so by `await limits.hang()`, or `limits.hang_thread()` on a thread;
scorers by `hang("scorer")`.
A wait with a limit then ends once nothing but such calls is left in it, and no sooner, however
slow the machine. `limits.advance` moves the clock that deadlines are counted by.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections import Counter
from contextvars import ContextVar
from typing import Any, Literal

import pytest

_POLL = 0.005  # seconds between two looks; nothing depends on it

_request: ContextVar[object] = ContextVar("request", default=None)


By = Literal["candidate", "scorer"]


class Limits:
    """Replaces the waits and the clock of `srr_guard.core` for one test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = 0.0
        self._hanging: Counter[tuple[object, By]] = Counter()
        self._released = threading.Event()
        waits: dict[str, By] = {"calls": "candidate", "scoring": "scorer"}
        for module, by in waits.items():
            replaced = _Waits(self, by)
            monkeypatch.setattr(f"srr_guard.core.{module}.wait", replaced.wait_threads)
            monkeypatch.setattr(f"srr_guard.core.{module}.asyncio", replaced)
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

    def hanging(self, by: By) -> int:
        """How many calls of this request hang."""
        return self._hanging[_request.get(), by]

    async def hang(self, by: By = "candidate") -> None:
        """Hang until the call is cancelled."""
        key = _request.get(), by
        self._hanging[key] += 1
        try:
            await asyncio.Event().wait()
        finally:
            self._hanging[key] -= 1

    def hang_thread(self, by: By = "candidate") -> None:
        """Hang until the test is over."""
        self._hanging[_request.get(), by] += 1
        self._released.wait()

    def release(self) -> None:
        """Let the threads that hang go on."""
        self._released.set()


class _Waits:
    """Stands for `asyncio`, with a `wait` that needs no clock; and its twin for threads."""

    def __init__(self, limits: Limits, by: By) -> None:
        self._limits = limits
        self._by = by

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    def wait_threads(
        self, calls: Any, timeout: float | None = None, return_when: Any = "ALL_COMPLETED"
    ):
        while True:
            limit = None if timeout is None else _POLL
            done, late = concurrent.futures.wait(calls, timeout=limit, return_when=return_when)
            if limit is None or self._over(done, late, return_when):
                return done, late

    async def wait(
        self, calls: Any, *, timeout: float | None = None, return_when: Any = "ALL_COMPLETED"
    ):
        while True:
            limit = None if timeout is None else _POLL
            done, late = await asyncio.wait(calls, timeout=limit, return_when=return_when)
            if limit is None or self._over(done, late, return_when):
                return done, late

    def _over(self, done: Any, late: Any, return_when: Any) -> bool:
        failed = any(not call.cancelled() and call.exception() for call in done)
        return (
            not late
            or (return_when == "FIRST_COMPLETED" and bool(done))
            or (return_when == "FIRST_EXCEPTION" and failed)
            or len(late) <= self._limits.hanging(self._by)
        )
