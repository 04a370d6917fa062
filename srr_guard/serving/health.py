"""How one server has been doing, and which clients may ask it now."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from srr_guard.breaker import CircuitBreaker, Permit


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        client: Name of the client's key; None where there are no keys.
        request: Equal for all calls of one request.
    """

    client: str | None = None
    request: str = ""


_Part = tuple[CircuitBreaker, Permit]


class Health:
    """Leaves a server alone after failures: for one client, or for all.

    What no request can cause (no connection, a refused key) counts for all clients, each call.
    What a request can cause (a 500, a timeout) counts for its client alone, once a request.

    Args:
        failures: Failures in a row that are too many.
        rest: Seconds of the longest rest.
        clock: Gives the time in seconds.

    Example:
        >>> health = Health(failures=1, rest=10.0, clock=lambda: 0.0)
        >>> with health.call(Caller("a", "request 1")) as call:
        ...     call.failed(by="request 1")
        >>> health.wait(Caller("a", "request 2")), health.wait(Caller("b", "request 3"))
        (1.0, 0.0)
    """

    def __init__(
        self, *, failures: int, rest: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        made = partial(CircuitBreaker, failures=failures, rest=rest, clock=clock)
        self._all = made()
        self._own: defaultdict[str | None, CircuitBreaker] = defaultdict(made)
        self._trials: dict[str, Call] = {}

    def wait(self, caller: Caller) -> float:
        """Seconds until the caller may ask; 0 if it may now."""
        return max(self._all.wait, self._own[caller.client].wait)

    def last_resort_wait(self, caller: Caller) -> float:
        """Seconds until the caller may ask where no other server is left."""
        return max(self._all.last_resort_wait, self._own[caller.client].last_resort_wait)

    def trial(self, caller: Caller) -> asyncio.Event | None:
        """Set when the trial is over that this very request makes; None if it makes none."""
        call = self._trials.get(caller.request)
        return None if call is None else call.over

    def call(self, caller: Caller, *, last_resort: bool = False) -> Call | None:
        """Allow one call; None while none may be made.

        Args:
            caller: Who asks.
            last_resort: No other server is left: a rest is over after a second.
        """
        own = self._own[caller.client]
        if (for_all := self._all.permit(last_resort=last_resort)) is None:
            return None
        if (for_own := own.permit(last_resort=last_resort)) is None:
            self._all.abandoned(for_all)
            return None
        call = Call((self._all, for_all), (own, for_own), partial(self._over, caller.request))
        if for_all.is_trial or for_own.is_trial:
            self._trials[caller.request] = call
        return call

    def _over(self, request: str, call: Call) -> None:
        if self._trials.get(request) is call:
            del self._trials[request]


class Call:
    """One call that is allowed, as a context manager. Left without a word, it counts neither way.

    Attributes:
        over: Set when it is left.
    """

    def __init__(self, for_all: _Part, for_own: _Part, leave: Callable[[Call], None]) -> None:
        self._for_all = for_all
        self._for_own = for_own
        self._leave = leave
        self.over = asyncio.Event()

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *error: object) -> None:
        for breaker, permit in (self._for_all, self._for_own):
            breaker.abandoned(permit)
        self._leave(self)
        self.over.set()

    def succeeded(self) -> None:
        """Close: the server answers."""
        for breaker, permit in (self._for_all, self._for_own):
            breaker.succeeded(permit)

    def failed(self, by: object) -> None:
        """Count an answer that is none, for this client; failures by equal causes are one."""
        breaker, permit = self._for_all
        breaker.succeeded(permit)
        breaker, permit = self._for_own
        breaker.failed(permit, by)

    def unusable(self) -> None:
        """Count a server that no client can use."""
        breaker, permit = self._for_all
        breaker.failed(permit)

    def rest(self, seconds: float) -> None:
        """Leave the server alone for so long, as it asked."""
        breaker, _ = self._for_all
        breaker.rest(seconds)
