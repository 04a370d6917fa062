"""`CircuitBreaker`: leaves a server alone for a while after it has failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class CircuitBreaker:
    """Closed while a server answers; open after failures in a row; then one trial at a time.

    Safe to share between threads. A trial whose outcome is never reported is over after
    another `cooldown`.

    Args:
        failures: Failures in a row after which it opens.
        cooldown: Seconds until the next trial.
        clock: Gives the time in seconds.

    Example:
        >>> now = 0.0
        >>> breaker = CircuitBreaker(failures=2, cooldown=10.0, clock=lambda: now)
        >>> breaker.failed()
        >>> breaker.allows()
        True
        >>> breaker.failed()
        >>> breaker.allows()
        False
        >>> now = 10.0
        >>> breaker.allows(), breaker.allows()
        (True, False)
        >>> breaker.succeeded()
        >>> breaker.allows()
        True
    """

    def __init__(
        self,
        *,
        failures: int = 3,
        cooldown: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = failures
        self._cooldown = cooldown
        self._clock = clock
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._closed_again: float | None = None

    @property
    def wait(self) -> float:
        """Seconds until a call is allowed; 0 if one is allowed now."""
        with self._lock:
            until = self._closed_again
            return 0.0 if until is None else max(0.0, until - self._clock())

    def allows(self) -> bool:
        """True if a call may be made; an open breaker gives out one trial each `cooldown`."""
        with self._lock:
            if self._closed_again is None:
                return True
            if self._clock() < self._closed_again:
                return False
            self._closed_again = self._clock() + self._cooldown
            return True

    def succeeded(self) -> None:
        """Close."""
        with self._lock:
            self._in_a_row, self._closed_again = 0, None

    def failed(self) -> None:
        """Count a failure; open after the last one that is tolerated."""
        with self._lock:
            self._in_a_row += 1
            if self._in_a_row >= self._most:
                self._closed_again = self._clock() + self._cooldown

    def rest(self, seconds: float) -> None:
        """Open for so long, as the server asked."""
        with self._lock:
            self._closed_again = self._clock() + max(0.0, seconds)
