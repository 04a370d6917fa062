"""What has to be known about LangChain runnables to sample one of them n times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.llms import BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableLambda,
)

from srr_guard.conversation import Conversation
from srr_guard.errors import InvalidInputError

PROMPT_KEYS = ("question", "input", "prompt", "query", "messages")


def find_prompt(value: Any) -> Conversation:
    """Read the conversation from a runnable's input.

    A dict without `messages` gives the value of the first of its keys that is one of
    `question`, `input`, `prompt`, `query` (in this order), or else its only str value.

    Raises:
        InvalidInputError: There is none, or it is empty.
    """
    if not isinstance(value, Mapping) or "messages" in value:
        return Conversation.of(value)
    texts = [v for v in value.values() if isinstance(v, str)]
    for key in PROMPT_KEYS:
        if key in value:
            return Conversation.of(value[key])
    if len(texts) == 1:
        return Conversation.of(texts[0])
    raise InvalidInputError(
        f"cannot tell which of {sorted(map(str, value))!r} is the prompt: it must be the only "
        f"str value or have one of the keys {PROMPT_KEYS!r}; else give `prompt=`, a function "
        "from the input to the prompt"
    )


def unbind(runnable: Runnable[Any, Any]) -> tuple[Runnable[Any, Any], dict[str, Any]]:
    """What stands below all bindings, and the arguments they bind."""
    bound_kwargs: dict[str, Any] = {}
    while isinstance(runnable, RunnableBinding):
        bound_kwargs = {**runnable.kwargs, **bound_kwargs}
        runnable = runnable.bound
    return runnable, bound_kwargs


def is_sync_only(runnable: Runnable[Any, Any]) -> bool:
    """Whether `ainvoke` would only run `invoke` in asyncio's own small thread pool."""
    match unbind(runnable)[0]:
        case BaseChatModel() as model:
            kind = type(model)
            return (
                kind._agenerate is BaseChatModel._agenerate
                and kind._astream is BaseChatModel._astream
            )
        case BaseLLM() as model:
            return type(model)._agenerate is BaseLLM._agenerate
        case RunnableLambda() as function:
            return not hasattr(function, "afunc")
    return False


def as_chunk(output: Any) -> Any:
    """A message as the only chunk of a stream; anything else as it is."""
    if not isinstance(output, AIMessage) or isinstance(output, AIMessageChunk):
        return output
    return AIMessageChunk(**output.model_dump(exclude={"type"}), chunk_position="last")
