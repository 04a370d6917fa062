"""What adapters say and count when something is asked for unguarded, by name."""

from __future__ import annotations

import logging
from typing import NoReturn, TypeVar

from srr_guard import Guard
from srr_guard.errors import UnguardedError

T = TypeVar("T")

logger = logging.getLogger("srr_guard")


def hand_out(thing: T, name: str, *, guard: Guard, of: str = "client") -> T:
    """Hand out what is not guarded: a bypass, logged and counted in the guard's totals."""
    guard.count_bypass()
    logger.warning(
        "bypass: %r of a guarded %s was handed out, as `unguarded` asks; its answers are not "
        "scored",
        name,
        of,
    )
    return thing


def refuse_unguarded(name: str, *, of: str) -> NoReturn:
    """Refuse a method that would pass answers on unscored.

    Raises:
        UnguardedError: Always.
    """
    raise UnguardedError(
        f"`{name}` of a guarded {of} would pass answers on unscored: use another way, or the {of} "
        "inside, which `unguarded()` hands out; that is logged and counted"
    )
