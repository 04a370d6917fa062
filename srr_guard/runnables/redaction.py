"""Takes the text out of callback events, so that child runs show no rejected answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult

from srr_guard.errors import SamplingError

REDACTED = "[redacted]"


class RedactingHandler:
    """Forwards events to a callback handler without their text.

    Not a handler by type, so that nothing recognises the one behind it: a streaming handler
    would make candidates stream.
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
    """Drop the keyword arguments that repeat inputs or outputs."""
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


# Events forwarded with their text redacted; all others are dropped.
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
