"""Every private name of langchain-core and langsmith that srr_guard uses.

`tests/runnables/test_private.py` holds each of them against the versions it was written for.
"""

from __future__ import annotations

import dis
import inspect
from itertools import pairwise
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.llms import BaseLLM
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda


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
