"""What of the standard library's insides the wrappers use."""

from __future__ import annotations

import asyncio
import inspect
from types import FunctionType
from typing import Any

_FUNCTION = ("__code__", "__defaults__", "__kwdefaults__", "__globals__", "__closure__")


def look_like_function(obj: Any, function: FunctionType) -> None:
    """Give an object what code that inspects functions looks for.

    Args:
        obj: An object whose `__class__` says that it is a function.
        function: The function that it stands for.
    """
    vars(obj).update({name: getattr(function, name) for name in _FUNCTION})


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
