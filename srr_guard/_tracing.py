"""What callbacks, event streams and traces get to see of candidates.

By default nothing: each candidate runs in a copied context that holds no callbacks, no
LangSmith tracing and no run collector. As child runs, candidates are shown whole or redacted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForChainRun,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    CallbackManager,
    CallbackManagerForChainRun,
    CallbackManagerForLLMRun,
    UsageMetadataCallbackHandler,
)
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import patch_config, var_child_runnable_config

from srr_guard.errors import SamplingError

TraceCandidates = bool | Literal["redacted"]
"""What the caller's callbacks see of candidates.

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

REDACTED = "[redacted]"

# LangGraph's tag for runs whose messages stay out of `stream_mode="messages"`.
_NO_STREAM = "nostream"


def enter(config: RunnableConfig, *, traced: TraceCandidates = False) -> RunnableConfig:
    """Make a config the one that a candidate's own context holds, and return it.

    Bindings and functions that call models merge the context's callbacks into whatever
    config they are given, so handing the config over is not enough. Each candidate runs in a
    copied context: there is nothing to undo.
    """
    var_child_runnable_config.set(config)
    if traced is not True:
        _close_context()
    return config


def candidate_config(
    config: RunnableConfig, run_manager: RunManager | None, index: int, trace: TraceCandidates
) -> RunnableConfig:
    """The config that a candidate's call gets."""
    if run_manager is None:
        return isolated(config)
    if trace:
        child = _child(run_manager, f"srr:candidate:{index}", redacted=trace == "redacted")
        return patch_config(config, callbacks=child)
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
    """A config that keeps a candidate out of its caller's streams, events and traces."""
    # Not None: a candidate would then inherit the caller's callbacks from the context. Not an
    # empty list: `BaseLLM.agenerate` looks at its first item.
    callbacks = CallbackManager(list(handlers), list(handlers))
    child: RunnableConfig = {**config, "callbacks": callbacks}
    child.pop("run_id", None)
    child.pop("run_name", None)
    return child


def _close_context() -> None:
    """Switch off what adds handlers to every run, whatever callbacks it is given.

    That is LangSmith tracing (by environment, `tracing_v2_enabled` or a traced parent) and
    the handlers LangChain finds in context variables, such as those of `collect_runs`.
    """
    from langchain_core.tracers.context import _configure_hooks, tracing_v2_callback_var
    from langsmith.run_helpers import _set_tracing_context, get_tracing_context

    # The public `tracing_context` would have to be left again in this very context.
    _set_tracing_context({**get_tracing_context(), "parent": None, "enabled": False})
    tracing_v2_callback_var.set(None)
    for variable, *_ in _configure_hooks:
        variable.set(None)


def _child(run_manager: RunManager, tag: str, *, redacted: bool) -> Any:
    """Like `ParentRunManager.get_child`, which the managers of LLM runs do not have."""
    is_sync = isinstance(run_manager, (CallbackManagerForChainRun, CallbackManagerForLLMRun))
    kind = CallbackManager if is_sync else AsyncCallbackManager
    manager = kind(handlers=[], parent_run_id=run_manager.run_id)
    handlers = run_manager.inheritable_handlers
    if redacted:
        handlers = [cast("BaseCallbackHandler", _Redacting(handler)) for handler in handlers]
        manager.add_tags([_NO_STREAM])
    manager.set_handlers(handlers)
    manager.add_tags(run_manager.inheritable_tags)
    manager.add_metadata(run_manager.inheritable_metadata)
    manager.add_tags([tag], inherit=False)
    return manager


class _Redacting:
    """Stands before a callback handler and takes all text out of what it is told.

    It is no handler by type, so that nothing recognises the one behind it: a streaming
    handler would make candidates stream.
    """

    def __init__(self, handler: BaseCallbackHandler) -> None:
        self._handler = handler

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._handler, name)
        if not name.startswith("on_"):
            return value
        redact = _REDACTIONS.get(name)
        if inspect.iscoroutinefunction(value):

            async def tell_async(*args: Any, **kwargs: Any) -> Any:
                return None if redact is None else await value(*redact(*args), **_quiet(kwargs))

            return tell_async

        def tell(*args: Any, **kwargs: Any) -> Any:
            return None if redact is None else value(*redact(*args), **_quiet(kwargs))

        return tell


def _quiet(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of an event without those that repeat inputs or outputs."""
    return {k: v for k, v in kwargs.items() if k not in ("inputs", "response", "chunk")}


def _start(serialized: Any, given: Any, *_: Any) -> tuple[Any, ...]:
    if isinstance(given, list):  # prompts, or lists of messages
        given = [[HumanMessage(REDACTED)] if isinstance(g, list) else REDACTED for g in given]
    else:
        given = REDACTED
    return serialized, given


def _end(_output: Any, *_: Any) -> tuple[Any, ...]:
    return (REDACTED,)


def _failed(error: BaseException, *_: Any) -> tuple[Any, ...]:
    return (SamplingError(f"{type(error).__name__} (its text is redacted)"),)


def _no_documents(_documents: Any, *_: Any) -> tuple[Any, ...]:
    return ([],)


def _llm_end(response: LLMResult, *_: Any) -> tuple[Any, ...]:
    output = response.llm_output or {}
    kept: dict[str, Any] = {
        k: output[k] for k in ("token_usage", "usage", "model_name") if k in output
    }
    generations = [[_redacted_generation(g) for g in row] for row in response.generations]
    return (LLMResult(generations=cast("Any", generations), llm_output=kept),)


def _redacted_generation(generation: Any) -> Generation:
    message = getattr(generation, "message", None)
    if not isinstance(message, AIMessage):
        return Generation(text=REDACTED)
    metadata = message.response_metadata
    names = ("model_name", "model_provider", "finish_reason")
    redacted = AIMessage(
        REDACTED,
        id=message.id,
        usage_metadata=message.usage_metadata,
        response_metadata={name: metadata[name] for name in names if name in metadata},
    )
    return ChatGeneration(message=redacted)


# The events that are told, without their text; all others are not told.
_REDACTIONS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "on_chat_model_start": _start,
    "on_llm_start": _start,
    "on_chain_start": _start,
    "on_tool_start": _start,
    "on_retriever_start": _start,
    "on_llm_end": _llm_end,
    "on_chain_end": _end,
    "on_tool_end": _end,
    "on_retriever_end": _no_documents,
    "on_llm_error": _failed,
    "on_chain_error": _failed,
    "on_tool_error": _failed,
    "on_retriever_error": _failed,
}
