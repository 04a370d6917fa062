"""When a server wants to be asked again, as the headers of its answer say."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_REST = 60.0
"""Seconds that a server may ask to be left alone; it is asked again after these at the latest."""

_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?")


def seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """Read `retry-after-ms`, else `Retry-After`: a number, or an HTTP date.

    A date counts from the server's own `Date`, where it sends one.

    Args:
        headers: Of the answer, with names in any case, or in small letters.

    Returns:
        Seconds, 0 for a date that has passed; None if no time is named, or one that makes no
        sense (negative, infinite, a word).

    Example:
        >>> seconds_to_wait({"retry-after": "7"}), seconds_to_wait({"retry-after-ms": "250"})
        (7.0, 0.25)
        >>> now = "Wed, 21 Oct 2015 07:28:00 GMT"
        >>> seconds_to_wait({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": now})
        30.0
        >>> seconds_to_wait({"retry-after": "-7"}) is None
        True
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1e3
    said = headers.get("retry-after", "")
    seconds = _number(said)
    if seconds is not None:
        return seconds
    until = _date(said)
    if until is None:
        return None
    now = _date(headers.get("date", "")) or datetime.now(UTC)
    return max(0.0, (until - now).total_seconds())


def _number(text: str) -> float | None:
    value = float(text) if _NUMBER.fullmatch(text.strip()) else math.inf
    return value if math.isfinite(value) else None


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
