"""One request under several system prompts: each candidate may be asked in another way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, SystemMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import (
    Runnable,
    RunnableParallel,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import DynamicRunnable

from srr_guard.conversation import role_of


def takes_messages(runnable: Runnable[Any, Any]) -> bool:
    """Whether its input goes to a chat model as it is, so that a system turn can be added."""
    match runnable:
        case BaseChatModel():
            return True
        case RunnableBindingBase():  # bindings, retries
            return takes_messages(runnable.bound)
        case DynamicRunnable():
            return takes_messages(runnable.default)
        case RunnableWithFallbacks():
            return all(takes_messages(inner) for inner in runnable.runnables)
        case RunnableSequence():  # as of `with_structured_output`
            return takes_messages(runnable.first)
        case RunnableParallel():
            return all(takes_messages(step) for step in runnable.steps__.values())
    return False


def with_system_prompt(value: Any, system_prompt: str) -> Any:
    """A chat model's input with this system prompt; the input itself is not changed.

    Where the conversation begins with a system turn, the prompt becomes that turn's last
    paragraph, because many models take one system turn only; else it is a turn in front.
    An input that no chat model takes is returned as it is, for the model to reject.
    """
    if isinstance(value, PromptValue):
        messages = value.to_messages()
    elif isinstance(value, Sequence):
        messages = convert_to_messages([value] if isinstance(value, str) else value)
    else:
        return value
    if messages and role_of(messages[0]) == "system":
        return [_with_paragraph(messages[0], system_prompt), *messages[1:]]
    return [SystemMessage(system_prompt), *messages]


def _with_paragraph(message: BaseMessage, text: str) -> BaseMessage:
    content = message.content
    if isinstance(content, str):
        return message.model_copy(update={"content": f"{content}\n\n{text}"})
    return message.model_copy(update={"content": [*content, {"type": "text", "text": text}]})
