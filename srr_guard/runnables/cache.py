"""Warns of LangChain's global LLM cache where candidates cannot be kept out of it."""

from __future__ import annotations

import logging
import sys
import threading

_log = logging.getLogger("srr_guard")
_first = threading.Lock()  # taken by the first warning, for good


def warn_of_cache() -> None:
    """Log a warning, once a process, if the global LLM cache is on.

    Called where a function or agent calls models that the guard does not find: the cache would
    give each candidate the same answer.
    """
    settings = sys.modules.get("langchain_core.globals")
    if settings is None or settings.get_llm_cache() is None:
        return
    if _first.acquire(blocking=False):
        _log.warning(
            "the global LLM cache is on, and models that a guarded function or agent calls by "
            "itself answer from it: all candidates may be the same; set `cache=False` on these "
            "models"
        )
