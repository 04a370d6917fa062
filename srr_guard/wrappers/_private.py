"""The one private name of the standard library that srr_guard uses."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any


def mark_async(obj: Any) -> None:
    """Let frameworks that ask see an async function."""
    mark = getattr(inspect, "markcoroutinefunction", None)
    if mark is not None:
        mark(obj)
    else:  # Python 3.11
        obj._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
