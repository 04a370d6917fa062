"""Isolates candidates from callbacks, event streams and traces, or shows them on request.

By default each candidate runs in a copied context without callbacks, LangSmith tracing or run
collectors. `trace_candidates` shows candidates as child runs, whole or redacted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass
from functools import partial
from typing import Any, Literal, cast

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForChainRun,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    BaseCallbackManager,
    CallbackManager,
    CallbackManagerForChainRun,
    CallbackManagerForLLMRun,
    UsageMetadataCallbackHandler,
)
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import patch_config

from srr_guard.replay import mapped
from srr_guard.runnables._private import (
    close_context,
    enter_config,
    nowhere,
    outside_graph,
    silenced,
    stream_writer_of,
)
from srr_guard.runnables.redaction import RedactingHandler
from srr_guard.runnables.state import HistoryWatch

TraceCandidates = bool | Literal["redacted"]
"""The candidates' visibility to the caller's callbacks.

- `False`: nothing.
- `True`: each candidate is a child run, rejected text and streamed tokens included.
- `"redacted"`: each candidate is a child run with its tags, timing, errors' types and usage,
  but without any text: the answer that was chosen is the parent run's output.
"""

RunManager = (
    CallbackManagerForChainRun
    | AsyncCallbackManagerForChainRun
    | CallbackManagerForLLMRun
    | AsyncCallbackManagerForLLMRun
)

# LangGraph's tag for runs whose messages stay out of `stream_mode="messages"`.
_NO_STREAM = "nostream"


def enter(config: RunnableConfig, *, traced: TraceCandidates = False) -> RunnableConfig:
    """Make a config the one that a candidate's own context holds, and return it.

    Passing the config on is not enough: bindings and functions that call models merge the
    context's callbacks into it. Each candidate runs in a copied context, so nothing is undone.
    """
    enter_config(config)
    if traced is not True:
        close_context()
    return config


def candidate_config(
    config: RunnableConfig, run_manager: RunManager | None, index: int, trace: TraceCandidates
) -> RunnableConfig:
    """Make the config of one candidate's call."""
    if run_manager is None:
        return isolated(config)
    if trace:
        child = _child(run_manager, f"srr:candidate:{index}", redacted=trace == "redacted")
        return patch_config(_outside(config), callbacks=child)
    if isinstance(run_manager, (CallbackManagerForLLMRun, AsyncCallbackManagerForLLMRun)):
        return isolated(config)  # its own end reports the usage of all candidates
    counters = [
        handler
        for handler in run_manager.inheritable_handlers
        if isinstance(handler, UsageMetadataCallbackHandler)  # keeps figures, no text
    ]
    return isolated(config, counters)


def isolated(
    config: RunnableConfig, handlers: Sequence[BaseCallbackHandler] = ()
) -> RunnableConfig:
    """Make a config that keeps a candidate out of its caller's streams, events and traces.

    Those of a LangGraph graph around it included (see `outside_graph`).
    """
    # Not None: a candidate would then inherit the caller's callbacks from the context. Not an
    # empty list: `BaseLLM.agenerate` looks at its first item.
    watched = [*handlers, HistoryWatch()]
    callbacks = CallbackManager(watched, watched)
    child: RunnableConfig = {**_outside(config), "callbacks": callbacks}
    child.pop("run_id", None)
    child.pop("run_name", None)
    return child


def shielded(value: Any, config: RunnableConfig, *, depth: int = 4) -> Any:
    """An argument of a candidate without its roads to the outside.

    A config, a callback manager or handler, a run's manager, LangGraph's runtime and stream
    writer are given in a form that reaches nobody, also inside of lists, tuples, dicts and
    dataclasses. Anything else stays as it is.

    Args:
        value: The argument.
        config: The caller's config.
        depth: So deep are containers looked into.
    """
    closed = _closed(value, config)
    if closed is not value or depth == 0:
        return closed
    return mapped(value, partial(shielded, config=config, depth=depth - 1))


def _closed(value: Any, config: RunnableConfig) -> Any:
    match value:
        case dict() if value.keys() <= _CONFIG_KEYS and not value.keys().isdisjoint(_ROADS):
            return isolated(cast("RunnableConfig", value))
        case BaseCallbackManager():
            return CallbackManager([], [])
        case BaseCallbackHandler():
            return BaseCallbackHandler()
        case BaseRunManager():
            return type(value).get_noop_manager()
        case [BaseCallbackHandler(), *_]:
            return []
    if is_dataclass(value) and hasattr(value, "stream_writer"):
        inner = getattr(value, "config", None)
        return silenced(value, **({"config": isolated(inner)} if inner else {}))
    return nowhere if value is not None and value is stream_writer_of(config) else value


_CONFIG_KEYS = RunnableConfig.__annotations__.keys()
_ROADS = ("callbacks", "configurable")


def _outside(config: RunnableConfig) -> RunnableConfig:
    configurable = config.get("configurable")
    return {**config, "configurable": outside_graph(configurable)} if configurable else config


def _child(run_manager: RunManager, tag: str, *, redacted: bool) -> Any:
    """Make a child's callback manager; LLM runs have no `get_child`."""
    is_sync = isinstance(run_manager, (CallbackManagerForChainRun, CallbackManagerForLLMRun))
    kind = CallbackManager if is_sync else AsyncCallbackManager
    manager = kind(handlers=[], parent_run_id=run_manager.run_id)
    handlers = run_manager.inheritable_handlers
    if redacted:
        handlers = [cast("BaseCallbackHandler", RedactingHandler(handler)) for handler in handlers]
        manager.add_tags([_NO_STREAM])
    manager.set_handlers(handlers)
    manager.add_tags(run_manager.inheritable_tags)
    manager.add_metadata(run_manager.inheritable_metadata)
    manager.add_tags([tag], inherit=False)
    return manager
