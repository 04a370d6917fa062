"""Every private name of langchain-core, langgraph and langsmith that srr_guard uses.

`tests/runnables/test_private.py` holds each of them against the versions it was written for.
"""

from __future__ import annotations

import dataclasses
import dis
import inspect
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.llms import BaseLLM
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from srr_guard.errors import NotRepeatableError


def is_own_async(model: BaseChatModel | BaseLLM) -> bool:
    """True if a model's class has an async way of its own to answer."""
    kind: Any = type(model)
    if isinstance(model, BaseLLM):
        return kind._agenerate is not BaseLLM._agenerate
    overrides = (
        kind._agenerate is not BaseChatModel._agenerate,
        kind._astream is not BaseChatModel._astream,
    )
    return any(overrides)


def messages_of(model: Any, value: Any) -> list[Any]:
    """A chat model's input as the list of messages that the model would make of it."""
    messages: list[Any] = model._convert_input(value).to_messages()
    return messages


def returned_by(function: RunnableLambda[Any, Any]) -> list[Runnable[Any, Any]]:
    """The runnables that a function returns by name, read from its code.

    Not those it makes anew, takes from an object, or calls by itself.
    """
    code: Any = inspect.unwrap(getattr(function, "func", None) or function.afunc)
    try:
        instructions = list(dis.get_instructions(code))
        seen = inspect.getclosurevars(code)
    except TypeError:  # not a function of Python's
        return []
    names = {**seen.globals, **seen.nonlocals}
    ends = {i.offset for i in instructions if i.opname == "RETURN_VALUE"}
    returned = {
        load.argval
        for load, after in pairwise(instructions)
        if load.opname in ("LOAD_GLOBAL", "LOAD_DEREF")
        # at once, or over the other branch of a conditional expression
        and (after.offset in ends or (after.opname == "JUMP_FORWARD" and after.argval in ends))
    }
    return [value for name in returned if isinstance(value := names.get(name), Runnable)]


def enter_config(config: RunnableConfig) -> None:
    """Make a config the one that the current context holds."""
    from langchain_core.runnables.config import var_child_runnable_config

    var_child_runnable_config.set(config)


def close_context() -> None:
    """Switch off what adds handlers to every run of the current context.

    That is LangSmith tracing (by environment, `tracing_v2_enabled` or a traced parent) and the
    handlers LangChain finds in context variables, such as those of `collect_runs`. Nothing is
    undone: candidates run in a copied context.
    """
    from langchain_core.tracers.context import _configure_hooks, tracing_v2_callback_var
    from langsmith.run_helpers import _set_tracing_context, get_tracing_context

    _set_tracing_context({**get_tracing_context(), "parent": None, "enabled": False})
    tracing_v2_callback_var.set(None)
    for variable, *_ in _configure_hooks:
        variable.set(None)


_PREGEL = "__pregel_"
_PLACES = ("checkpoint_ns", "checkpoint_id", "checkpoint_map")


def outside_graph(configurable: dict[str, Any]) -> dict[str, Any]:
    """The `configurable` of a candidate that runs in a LangGraph node.

    It can read the graph's state, store and context. It cannot write to the graph's streams,
    channels and checkpoints, and a graph inside it is a graph of its own. Interrupts and tasks
    are refused, for each candidate would have its own.
    """
    runtime = configurable.get("__pregel_runtime")
    scratchpad = configurable.get("__pregel_scratchpad")
    if runtime is None and scratchpad is None:
        return configurable
    inside = {
        name: value
        for name, value in configurable.items()
        if not name.startswith(_PREGEL) and name not in _PLACES
    }
    for name in ("__pregel_read", "__pregel_read_state"):
        if name in configurable:
            inside[name] = configurable[name]
    inside["checkpoint_ns"] = _Nowhere()
    inside["__pregel_call"] = _refusing("calls a LangGraph task", "put @task outermost")
    inside["__pregel_send"] = _refusing("writes to its graph", "return what is to be written")
    if runtime is not None:
        inside["__pregel_runtime"] = silenced(runtime)
    if scratchpad is not None:
        asks = _refusing("calls interrupt()", "call it before or after the guarded part")
        inside["__pregel_scratchpad"] = dataclasses.replace(
            scratchpad,
            interrupt_counter=asks,
            subgraph_counter=_first,  # candidates share no count of the graphs inside
        )
    return inside


def silenced(runtime: Any, **changes: Any) -> Any:
    """A LangGraph runtime whose stream writer writes nowhere."""
    return dataclasses.replace(runtime, stream_writer=nowhere, **changes)


def stream_writer_of(config: RunnableConfig) -> Any:
    """The stream writer of the LangGraph node that a config is from; None outside of one."""
    runtime = config.get("configurable", {}).get("__pregel_runtime")
    return getattr(runtime, "stream_writer", None)


def nowhere(_: Any) -> None:
    """Stand for a stream writer."""


class _Nowhere(str):
    """The place in the graph of what runs outside it: none, which a stream writer asks for."""

    __slots__ = ()

    def split(self, sep: Any = None, maxsplit: Any = -1) -> Any:
        """Refuse a stream writer that a function has kept from outside."""
        return _refusing("writes to its graph's stream", "get the writer inside it")()


def _first() -> int:
    return 0


def _refusing(does: str, mend: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NotRepeatableError(
            f"what is guarded {does}, which each candidate would do again: {mend}"
        )

    return refuse
