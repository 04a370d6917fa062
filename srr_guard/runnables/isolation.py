"""Keeps the candidates of plain functions out of the LangChain run that they are called in.

Without LangChain's runnables there is no such run: they are imported only if they were before,
or if the environment asks for traces.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

# The environment variables that switch LangSmith tracing on.
_TRACING = (
    "LANGSMITH_TRACING",
    "LANGSMITH_TRACING_V2",
    "LANGCHAIN_TRACING",
    "LANGCHAIN_TRACING_V2",
)


def isolate() -> RunnableConfig | None:
    """Cut the current context off from the run's callbacks, streams and traces.

    Called in a candidate's own copied context, so nothing is undone.

    Returns:
        The config that the context holds now; None where there is none.
    """
    if (config := _current()) is None:
        return None
    from srr_guard.runnables.tracing import enter, isolated

    return enter(isolated(config))


def shielded_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A function's arguments without the roads to the outside that frameworks put there."""
    if (config := _current()) is None:
        return args, kwargs
    from srr_guard.runnables.tracing import shielded

    named = {name: shielded(value, config) for name, value in kwargs.items()}
    return tuple(shielded(value, config) for value in args), named


def _current() -> RunnableConfig | None:
    """The config of the run around; None where there can be none."""
    traced = any(os.environ.get(name) == "true" for name in _TRACING)
    if not traced and "langchain_core.runnables.config" not in sys.modules:
        return None
    from langchain_core.runnables import ensure_config

    return ensure_config()
