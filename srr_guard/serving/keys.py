"""API keys: who may come in, and how often."""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

from srr_guard.serving.config import KeyConfig


class Keys:
    """The keys of all clients. Only digests are kept, and compared in constant time.

    Args:
        keys: None or more.
        clock: Gives the time in seconds.
    """

    def __init__(
        self, keys: Sequence[KeyConfig], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = [(key.digest, key) for key in keys]
        self._meters = {key.name: Meter(key, clock=clock) for key in keys}

    @property
    def required(self) -> bool:
        """True if there are keys."""
        return bool(self._keys)

    def find(self, headers: Mapping[str, str]) -> KeyConfig | None:
        """The key of a request; None if it has none that is known.

        Read from `Authorization: Bearer ...`, else from `x-api-key`.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = sha256(given.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, key in self._keys:  # all of them, whichever it is
            if hmac.compare_digest(known, digest):
                found = key
        return found

    def meter(self, key: KeyConfig) -> Meter:
        """The meter of a key."""
        return self._meters[key.name]


class Meter:
    """Counts the requests of one key; on the event loop only.

    Args:
        key: Its limits.
        clock: Gives the time in seconds.
    """

    def __init__(self, key: KeyConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = None if key.requests_per_minute is None else key.requests_per_minute / 60.0
        self._most = max(1.0, key.requests_per_minute or 0.0)
        self._concurrent = key.concurrent
        self._clock = clock
        self._left, self._seen = self._most, clock()
        self._inside = 0

    def enter(self) -> float | None:
        """Let a request in.

        Returns:
            None if it may come in; else the seconds after which to ask again.
        """
        if self._concurrent is not None and self._inside >= self._concurrent:
            return 1.0
        if self._rate is not None:
            now = self._clock()
            self._left = min(self._most, self._left + (now - self._seen) * self._rate)
            self._seen = now
            if self._left < 1.0:
                return math.ceil((1.0 - self._left) / self._rate)
            self._left -= 1.0
        self._inside += 1
        return None

    def leave(self) -> None:
        """Count a request out."""
        self._inside -= 1
