"""The reasons by which providers say that their filter took an answer away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import BaseMessage

_FILTERED = frozenset(
    {
        "content_filter",  # OpenAI, Azure, Mistral
        "content_filtered",  # Bedrock
        "guardrail_intervened",
        "refusal",  # Anthropic
        "error_toxic",  # Cohere
        "safety",  # Google
        "prohibited_content",
        "blocklist",
        "spii",
        "image_safety",
        "image_prohibited_content",
        "model_armor",
        "jailbreak",
    }
)

_REFUSED = frozenset({"refused", "refused_by_gate"})
"""Why a guard refuses (see `Decision.reason`)."""


def is_filtered(message: BaseMessage) -> bool:
    """True if the provider's filter ended an answer."""
    metadata = message.response_metadata
    reasons = [metadata.get(name) for name in ("finish_reason", "stop_reason", "stopReason")]
    for name, field in (("incomplete_details", "reason"), ("prompt_feedback", "block_reason")):
        if isinstance(details := metadata.get(name), Mapping):
            reasons.append(details.get(field))
    return any(map(is_filter_reason, reasons))


def refuses(message: BaseMessage) -> bool:
    """True if a message says in a field or part of its own that the model refuses."""
    parts = message.content if isinstance(message.content, list) else []
    return bool(message.additional_kwargs.get("refusal")) or any(
        isinstance(part, Mapping) and part.get("type") == "refusal" for part in parts
    )


def declines(message: BaseMessage) -> bool:
    """True if a message stands for no answer: the model, a filter or a guard refused."""
    decision = message.response_metadata.get("srr_guard")
    by_guard = isinstance(decision, Mapping) and decision.get("reason") in _REFUSED
    return by_guard or refuses(message) or is_filtered(message)


def is_refusal(error: BaseException) -> bool:
    """True for the errors by which OpenAI's packages tell of refused and filtered answers."""
    return type(error).__name__ in ("ContentFilterFinishReasonError", "OpenAIRefusalError")


def is_filter_reason(reason: Any) -> bool:
    """True if this is a reason to end an answer that a filter gives."""
    name = getattr(reason, "name", reason)  # some clients have enums
    return isinstance(name, str) and name.rpartition(".")[2].lower() in _FILTERED
