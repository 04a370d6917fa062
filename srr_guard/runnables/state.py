"""Finds what keeps state inside a runnable, which n candidates would change n times."""

from __future__ import annotations

import sys
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import Runnable

from srr_guard.errors import NotRepeatableError
from srr_guard.runnables.tree import parts

_HISTORY = "put the guard inside it, `RunnableWithMessageHistory(SafetyRanker(...), ...)`"


def require_repeatable(runnable: Runnable[Any, Any]) -> None:
    """Refuse a runnable that keeps state or asks a human.

    Found are chat histories, memories, and LangGraph graphs with a checkpointer or with nodes
    that they stop at, wherever `parts` reaches.

    Raises:
        NotRepeatableError: It does.
    """
    history: Any = sys.modules.get("langchain_core.runnables.history")
    part: Any
    for part in parts(runnable):
        if history is not None and isinstance(part, history.RunnableWithMessageHistory):
            _refuse(part, "keeps a chat history", _HISTORY)
        if callable(getattr(getattr(part, "memory", None), "save_context", None)):
            _refuse(part, "keeps a memory", "put the guard around the model inside it")
        if hasattr(part, "checkpointer") and hasattr(part, "interrupt_before_nodes"):
            inside = "put the guard inside, around the model in its nodes"
            if part.checkpointer not in (None, False):
                _refuse(part, "has a checkpointer", f"{inside}, or compile it without one")
            if part.interrupt_before_nodes or getattr(part, "interrupt_after_nodes", None):
                _refuse(part, "stops at nodes to ask a human", inside)


class HistoryWatch(BaseCallbackHandler):
    """Refuses chat histories inside functions, where nothing but running them shows them."""

    raise_error = True
    run_inline = True

    @property
    def ignore_llm(self) -> bool:
        """It listens to chains only."""
        return True

    @property
    def ignore_chat_model(self) -> bool:
        """It listens to chains only."""
        return True

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, name: str | None = None, **kwargs: Any
    ) -> None:
        """Look at the names of runs.

        Raises:
            NotRepeatableError: It is the run in which a chat history is loaded.
        """
        if name == "load_history":
            raise _error("RunnableWithMessageHistory", "keeps a chat history", _HISTORY)


def _refuse(part: object, does: str, mend: str) -> None:
    raise _error(type(part).__name__, does, mend)


def _error(kind: str, does: str, mend: str) -> NotRepeatableError:
    return NotRepeatableError(
        f"{kind} {does}, and a guard around it would run it once per candidate: {mend}"
    )
