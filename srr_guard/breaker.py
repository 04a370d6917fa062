"""`CircuitBreaker`: leaves a server alone for a while after it has failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

_FIRST_REST = 1.0
_WHILE_TRIED = 1.0


@dataclass(frozen=True, eq=False)
class Permit:
    """Allows one call.

    Attributes:
        opening: How often the breaker had opened before.
        is_trial: All depends on this call; no other is allowed meanwhile.
    """

    opening: int
    is_trial: bool


class CircuitBreaker:
    """Closed while a server answers; open after failures in a row; then one trial at a time.

    The first rest is one second, each further one twice as long. Where no other server is left, a
    trial may come as soon as a first rest would have ended (`last_resort`). A call is told of with
    its `Permit`; one that began before the last opening is late. Safe to share between threads.

    Args:
        failures: Failures in a row after which it opens.
        rest: Seconds of the longest rest.
        clock: Gives the time in seconds.

    Example:
        >>> now = 0.0
        >>> breaker = CircuitBreaker(failures=2, rest=10.0, clock=lambda: now)
        >>> for _ in range(2):
        ...     breaker.failed(breaker.permit())
        >>> breaker.permit() is None, breaker.wait
        (True, 1.0)
        >>> now = 1.0
        >>> trial = breaker.permit()
        >>> breaker.permit() is None
        True
        >>> breaker.succeeded(trial)
        >>> breaker.permit() is None
        False
    """

    def __init__(
        self,
        *,
        failures: int = 3,
        rest: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = failures
        self._longest = rest
        self._clock = clock
        self._lock = threading.Lock()
        self._openings = 0  # a permit of an earlier one is late
        self._trial: Permit | None = None
        self._failures: set[object] = set()
        self._rest = min(_FIRST_REST, rest)  # of the next opening
        self._until: float | None = None
        self._soonest = 0.0  # before that not even as a last resort
        self._wants_rest = False

    @property
    def wait(self) -> float:
        """Seconds until a call may be made; 0 if one may be made now, 1 while a trial lasts."""
        with self._lock:
            if self._until is None:
                return 0.0
            return max(self._until - self._clock(), _WHILE_TRIED if self._trial else 0.0)

    @property
    def last_resort_wait(self) -> float:
        """Seconds until a call may be made where no other server is left."""
        with self._lock:
            if self._until is None:
                return 0.0
            return max(self._soonest - self._clock(), _WHILE_TRIED if self._trial else 0.0)

    def permit(self, *, last_resort: bool = False) -> Permit | None:
        """Allow one call; None while none may be made. Tell how it went, whatever happens.

        Args:
            last_resort: No other server is left.
        """
        with self._lock:
            if self._until is None:
                return Permit(self._openings, is_trial=False)
            rests_until = self._soonest if last_resort else self._until
            if self._trial is not None or self._clock() < rests_until:
                return None
            self._trial = Permit(self._openings, is_trial=True)
            return self._trial

    def succeeded(self, permit: Permit) -> None:
        """Close. A late success ends no rest that the server asked for."""
        with self._lock:
            if permit.opening == self._openings or not self._wants_rest:
                self._close()

    def failed(self, permit: Permit, by: object = None) -> None:
        """Count a failure; open after the last one tolerated, and after a trial's.

        Args:
            permit: Of the call; a late failure is not counted.
            by: What may have caused it: failures by equal causes are one. None: a cause of its own.
        """
        with self._lock:
            if permit.opening != self._openings:
                return
            self._failures.add(permit if by is None else by)
            if permit is self._trial or len(self._failures) >= self._most:
                self._open(self._rest, at_least=min(_FIRST_REST, self._rest))
                self._rest = min(2 * self._rest, self._longest)

    def rest(self, seconds: float) -> None:
        """Open for so long, as the server asked."""
        with self._lock:
            self._open(seconds, at_least=seconds)
            self._wants_rest = True

    def abandoned(self, permit: Permit) -> None:
        """Count nothing. If it was the trial, another call may be it."""
        with self._lock:
            if permit is self._trial:
                self._trial = None

    def _open(self, seconds: float, *, at_least: float) -> None:
        now = self._clock()
        self._openings += 1
        self._trial = None
        self._until = max(now + seconds, self._until or 0.0)
        self._soonest = max(now + at_least, self._soonest)

    def _close(self) -> None:
        self._failures.clear()
        self._rest = min(_FIRST_REST, self._longest)
        self._until = self._trial = None
        self._soonest = 0.0
        self._wants_rest = False
