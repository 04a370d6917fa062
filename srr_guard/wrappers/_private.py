"""What of the standard library's insides the wrappers use."""

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


def mark_generator(obj: Any, call: Any) -> None:
    """Let frameworks that ask see a generator function.

    `inspect` asks for the attributes of a function, of which the code has the answer.

    Args:
        obj: A callable object.
        call: The generator function that runs when it is called.
    """
    vars(obj).update(__code__=call.__code__, __defaults__=None, __kwdefaults__=None)
    vars(obj).setdefault("__name__", type(obj).__name__)
    vars(obj).setdefault("__annotations__", {})
