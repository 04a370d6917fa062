"""One visitor over LangChain's tree: the runnables inside a runnable, read and replaced.

A runnable holds others in its fields, be they its own values or in lists, tuples and dicts:
bindings, sequences, parallels, assignments, branches, routers, each, fallbacks, configurable
alternatives, and whatever other packages build in the same way. A function that returns a
runnable holds what it returns. A language model may hold others, which it asks.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel, BaseLanguageModel
from langchain_core.language_models.llms import BaseLLM
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableLambda,
    RunnableParallel,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import DynamicRunnable, RunnableConfigurableAlternatives
from pydantic import BaseModel

from srr_guard.runnables._private import is_own_async, returned_by
from srr_guard.threads import is_async

Change = Callable[[BaseLanguageModel[Any]], Any]
"""From a language model to what stands in its place."""


def parts(runnable: Any) -> Iterator[Runnable[Any, Any]]:
    """A runnable and all runnables inside it that can be found without calling it."""
    return _parts(runnable, ())


def language_models(runnable: Any) -> Iterator[BaseLanguageModel[Any]]:
    """All language models inside a runnable that can be found without calling it."""
    return (part for part in parts(runnable) if isinstance(part, BaseLanguageModel))


def with_models(runnable: Any, change: Change, *, silent: bool = False) -> Any:
    """A copy whose language models are changed; the runnable itself if nothing changes.

    Functions that return runnables, alternatives made on demand among them, return changed
    ones.

    Args:
        runnable: What to copy.
        change: From a language model to what stands in its place.
        silent: Also leave out the callbacks and listeners that parts of it carry.
    """
    if isinstance(runnable, RunnableLambda):
        return _with_changed_result(runnable, change, silent)
    if not isinstance(runnable, Runnable):
        return runnable
    runnable = silenced(runnable) if silent else runnable
    changed = {
        name: new
        for name, value in _fields(runnable).items()
        if (new := _changed(value, change, silent)) is not value
    }
    if isinstance(runnable, RunnableConfigurableAlternatives):
        changed["alternatives"] = {
            name: with_models(made, change, silent=silent)
            if isinstance(made, Runnable)
            else _changing_its_result(made, change, silent)
            for name, made in runnable.alternatives.items()
        }
    copied: Any = runnable
    if changed:
        copied = copied.model_copy(update=changed)
    return change(copied) if isinstance(copied, BaseLanguageModel) else copied


def silenced(runnable: Any) -> Any:
    """A copy without the callbacks and listeners it carries; the runnable itself if none."""
    config = getattr(runnable, "config", None)
    update: dict[str, Any] = {}
    if isinstance(config, dict) and config.get("callbacks"):
        update["config"] = {k: v for k, v in config.items() if k != "callbacks"}
    if getattr(runnable, "config_factories", None):
        update["config_factories"] = []
    if getattr(runnable, "callbacks", None):
        update["callbacks"] = None
    if not update:
        return runnable
    if isinstance(runnable, BaseModel):
        return runnable.model_copy(update=update)
    changed = copy.copy(runnable)
    vars(changed).update(update)
    return changed


def entries(runnable: Runnable[Any, Any]) -> tuple[Runnable[Any, Any], ...]:
    """The runnables inside that are given the runnable's own input; none at a leaf."""
    match runnable:
        case RunnableBindingBase():  # bindings, retries, listeners
            return (runnable.bound,)
        case DynamicRunnable():
            return (runnable.default,)
        case RunnableWithFallbacks():
            return tuple(runnable.runnables)
        case RunnableSequence():
            return (runnable.first,)
        case RunnableParallel():
            return tuple(runnable.steps__.values())
    return ()


def with_entries(runnable: Any, change: Callable[[Any], Any]) -> Any:
    """A copy in which what the sequences and parallels at its entry begin with is changed."""
    match runnable:
        case RunnableSequence():
            return runnable.model_copy(update={"first": with_entries(runnable.first, change)})
        case RunnableParallel():
            steps = {k: with_entries(step, change) for k, step in runnable.steps__.items()}
            return runnable.model_copy(update={"steps__": steps})
    return change(runnable)


def takes_messages(runnable: Runnable[Any, Any]) -> bool:
    """True if the input reaches a chat model unchanged, so that a system turn can be added."""
    if isinstance(runnable, BaseChatModel):
        return True
    inside = entries(runnable)
    return bool(inside) and all(takes_messages(inner) for inner in inside)


def unbind(runnable: Runnable[Any, Any]) -> tuple[Runnable[Any, Any], dict[str, Any]]:
    """The runnable below all bindings, and the arguments they bind."""
    bound_kwargs: dict[str, Any] = {}
    while isinstance(runnable, RunnableBinding):
        bound_kwargs = {**runnable.kwargs, **bound_kwargs}
        runnable = runnable.bound
    return runnable, bound_kwargs


def is_sync_only(runnable: Runnable[Any, Any]) -> bool:
    """True if `ainvoke` would only run `invoke` in asyncio's own small thread pool."""
    match unbind(runnable)[0]:
        case (BaseChatModel() | BaseLLM()) as model:
            return not is_own_async(model)
        case RunnableLambda() as function:
            return not hasattr(function, "afunc")
    return False


def _fields(runnable: Any) -> dict[str, Any]:
    """Fields that may hold runnables."""
    if not isinstance(runnable, BaseModel):
        return {}
    values = vars(runnable)
    return {name: values[name] for name in type(runnable).model_fields if name in values}


def _parts(value: Any, around: tuple[Runnable[Any, Any], ...]) -> Iterator[Runnable[Any, Any]]:
    """The runnables in a value; `around` are the functions that led there, which may come again."""
    if isinstance(value, RunnableLambda):
        if any(value is one for one in around):
            return
        yield value
        for returned in returned_by(value):
            yield from _parts(returned, (*around, value))
    elif isinstance(value, Runnable):
        yield value
        for inner in _fields(value).values():
            yield from _parts(inner, around)
    elif isinstance(value, (Mapping, list, tuple)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _parts(inner, around)


def _changed(value: Any, change: Change, silent: bool) -> Any:
    """A field's value with its language models changed; the value itself if nothing changes."""
    if isinstance(value, Runnable):
        return with_models(value, change, silent=silent)
    if isinstance(value, Mapping):
        new = {k: _changed(v, change, silent) for k, v in value.items()}
        return value if all(new[k] is v for k, v in value.items()) else new
    if isinstance(value, (list, tuple)):
        items = [_changed(v, change, silent) for v in value]
        if all(a is b for a, b in zip(items, value, strict=True)):
            return value
        return items if isinstance(value, list) else tuple(items)
    return value


def _with_changed_result(
    runnable: RunnableLambda[Any, Any], change: Change, silent: bool
) -> RunnableLambda[Any, Any]:
    """A function whose result is changed where it is a runnable."""
    changed = copy.copy(runnable)
    for name in ("func", "afunc"):
        if (function := getattr(runnable, name, None)) is not None:
            setattr(changed, name, _changing_its_result(function, change, silent))
    return changed


def _changing_its_result(
    function: Callable[..., Any], change: Change, silent: bool
) -> Callable[..., Any]:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return function
    if not is_async(function):

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return with_models(function(*args, **kwargs), change, silent=silent)

        return call

    @functools.wraps(function)
    async def acall(*args: Any, **kwargs: Any) -> Any:
        return with_models(await function(*args, **kwargs), change, silent=silent)

    return acall
