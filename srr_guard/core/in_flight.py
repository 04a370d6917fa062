"""Limits how many candidate calls are under way at once, across requests."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from types import MappingProxyType


class CallLimit:
    """Places for calls, given out in the order they are asked for, to threads and tasks alike.

    A call that makes others under the same limit (a guard inside a guard) waits for them, so it
    lends them its place, one at a time: else both would wait for ever.

    Args:
        most: How many there are; None: no limit.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._free = most or 0
        self._queue: deque[Future[None]] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def place(self, ticket: Future[None]) -> Iterator[None]:
        """Take a place; waits on this thread.

        Args:
            ticket: A new future. Cancelling it ends the wait.

        Raises:
            concurrent.futures.CancelledError: The ticket was cancelled.
        """
        if self._most is None:
            yield
            return
        lender = _lenders.get().get(self, self)
        lender._ask(ticket)
        ticket.result()
        try:
            with self._lending():
                yield
        finally:
            lender._give_back()

    @asynccontextmanager
    async def aplace(self) -> AsyncIterator[None]:
        """Take a place; waits without blocking the event loop."""
        if self._most is None:
            yield
            return
        ticket: Future[None] = Future()
        lender = _lenders.get().get(self, self)
        lender._ask(ticket)
        try:
            await asyncio.wrap_future(ticket)
        except asyncio.CancelledError:
            if not ticket.cancel():  # it was granted at the same moment
                lender._give_back()
            raise
        try:
            with self._lending():
                yield
        finally:
            lender._give_back()

    @contextmanager
    def _lending(self) -> Iterator[None]:
        """Give the place to the calls made in this context."""
        token = _lenders.set({**_lenders.get(), self: CallLimit(1)})
        try:
            yield
        finally:
            _lenders.reset(token)

    def _ask(self, ticket: Future[None]) -> None:
        with self._lock:
            self._queue.append(ticket)
        self._hand_out()

    def _give_back(self) -> None:
        with self._lock:
            self._free += 1
        self._hand_out()

    def _hand_out(self) -> None:
        """Give the free places to those that have waited longest, past those who gave up."""
        granted = []
        with self._lock:
            while self._free and self._queue:
                ticket = self._queue.popleft()
                if ticket.set_running_or_notify_cancel():
                    self._free -= 1
                    granted.append(ticket)
        for ticket in granted:
            ticket.set_result(None)


_lenders: ContextVar[Mapping[CallLimit, CallLimit]] = ContextVar(
    "srr_guard_lenders", default=MappingProxyType({})
)
"""By limit, who gives places to the calls that the current call makes."""
