"""Candidates of API models that begin as a refusal: the nearest thing to `RefusalStart`.

An API gives no logits. Where the provider lets an answer be begun for the model (a prefill), the
words are forced; elsewhere a system prompt asks for them.
"""

from __future__ import annotations

import re
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable

from srr_guard.recipes import RefusalStart
from srr_guard.runnables.tree import unbind
from srr_guard.sources.system_prompts import as_messages

_STARTS = ("I", "I can't", "I can't help", "I can't help with")
"""By depth."""

# Claude 2 to 4.5. Later models reject a prompt that ends with an answer.
_PREFILLED = re.compile(
    r"claude-(2|3|instant|(opus|sonnet|haiku)-4(-[015])?(-\d{8})?(-latest)?(@|$))"
)


def not_for_apis(recipe: RefusalStart) -> str | None:
    """Say why an API model cannot serve this recipe; None: it can."""
    if recipe.strength != 1.0 or recipe.triggers is not None:
        return "`strength` and `triggers` need the model's logits, which an API does not give"
    return None


def prefill_for(model: Runnable[Any, Any], recipe: RefusalStart) -> str | None:
    """The words that an answer is begun with; None: the provider takes no such thing."""
    inner = unbind(model)[0]
    kinds = [kind for kind in type(inner).__mro__ if kind.__module__.startswith("langchain_anth")]
    if not kinds or not isinstance(inner, BaseChatModel):
        return None
    thinking = getattr(inner, "thinking", None)
    thinks = isinstance(thinking, dict) and thinking.get("type") != "disabled"
    name = str(getattr(inner, "model", ""))
    return None if thinks or not _PREFILLED.match(name) else _STARTS[recipe.depth - 1]


def request_for(recipe: RefusalStart) -> str:
    """The system prompt that asks for such a beginning."""
    return f'Begin your answer with exactly these words: "{_STARTS[recipe.depth - 1]}"'


def with_prefill(value: Any, start: str) -> Any:
    """Add the beginning of the answer to a copy of a chat model's input."""
    messages = as_messages(value)
    return value if messages is None else [*messages, AIMessage(start)]


def begun(output: Any, start: str) -> Any:
    """Put the beginning in front of what the model went on with."""
    if not isinstance(output, BaseMessage):
        return output
    content: Any = output.content
    if isinstance(content, str):
        return output.model_copy(update={"content": start + content})
    return output.model_copy(update={"content": [{"type": "text", "text": start}, *content]})
