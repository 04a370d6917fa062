"""Arguments that all front doors share: a scorer, policies, a gate and a hook, or a guard."""

from __future__ import annotations

from typing import Any

from srr_guard.core.guard import Guard
from srr_guard.errors import ConfigurationError

SETTINGS = ("scorer", "sampling", "decision", "gating", "gate", "on_decision")
"""The arguments of a `Guard` that its wrappers keep as fields."""


def guard_of(guard: Guard | None, **options: Any) -> Guard:
    """The guard given, or a new one with these options (see `Guard`).

    Raises:
        ConfigurationError: It is no guard, or options stand beside it.
    """
    if guard is None:
        return Guard(**options)
    if not isinstance(guard, Guard):
        raise ConfigurationError(f"guard={guard!r} cannot be used: give a Guard")
    if given := [name for name, value in options.items() if value is not None]:
        raise ConfigurationError(
            f"guard={guard!r} and {', '.join(given)}: a guard brings its own; give one or the other"
        )
    return guard
