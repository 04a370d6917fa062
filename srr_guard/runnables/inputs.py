"""Finds the prompt in a runnable's input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
