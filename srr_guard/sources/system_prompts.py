"""Asks candidates under different system prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage, SystemMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue

from srr_guard.conversation import role_of


def as_messages(value: Any) -> list[BaseMessage] | None:
    """A chat model's input as messages; None for an input that no chat model takes."""
    if isinstance(value, PromptValue):
        return value.to_messages()
    if isinstance(value, Sequence):
        return convert_to_messages([value] if isinstance(value, str) else value)
    return None


def with_system_prompt(value: Any, system_prompt: str) -> Any:
    """Add a system prompt to a copy of a chat model's input.

    Where the conversation begins with a system turn, the prompt becomes its last paragraph,
    because many models take one system turn only. Otherwise it becomes the first turn. An input
    that no chat model takes is returned unchanged, for the model to reject.
    """
    messages = as_messages(value)
    if messages is None:
        return value
    if messages and role_of(messages[0]) == "system":
        return [_with_paragraph(messages[0], system_prompt), *messages[1:]]
    return [SystemMessage(system_prompt), *messages]


def _with_paragraph(message: BaseMessage, text: str) -> BaseMessage:
    content = message.content
    if isinstance(content, str):
        return message.model_copy(update={"content": f"{content}\n\n{text}"})
    return message.model_copy(update={"content": [*content, {"type": "text", "text": text}]})
