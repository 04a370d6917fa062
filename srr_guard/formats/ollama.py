"""Chats and completions of Ollama, to what srr_guard scores and back.

Accepts `ollama` objects, look-alikes, and plain dicts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from srr_guard.conversation import Conversation
from srr_guard.decision import Decision
from srr_guard.errors import ConfigurationError, InvalidInputError, SamplingError
from srr_guard.formats.converted import ConvertedDelivery, usage_of
from srr_guard.formats.schemas import call_check, every, schema_check
from srr_guard.formats.shapes import add_call, field_of, plain, replaced

_COUNTS = ("prompt_eval_count", "eval_count")


def chat_conversation(request: Mapping[str, Any]) -> Conversation:
    """Read the `messages` of a chat.

    Raises:
        InvalidInputError: There are none, or they cannot be read.
    """
    messages = request.get("messages")
    if not isinstance(messages, Iterable) or isinstance(messages, (str, bytes, Mapping)):
        raise InvalidInputError(
            f"messages={messages!r} is not a list of messages: give `messages=[...]`"
        )
    return Conversation.of([_turn(message) for message in messages])


def prompt_conversation(request: Mapping[str, Any]) -> Conversation:
    """Read `system`, `prompt` and `suffix` of a completion.

    Raises:
        InvalidInputError: There is no prompt.
        ConfigurationError: `context` stands for turns that only the server knows, or `template`
            puts text around the prompt.
    """
    if request.get("template"):
        raise ConfigurationError(
            f"template={request['template']!r:.80} puts text around the prompt that the scorer "
            "would not see: write it into `prompt` or `system`, or into the model's Modelfile"
        )
    if request.get("context"):
        raise ConfigurationError(
            "context=[...] stands for turns that only the server knows, and the scorer must see "
            "what the model sees: use `chat` with all messages"
        )
    system, prompt = request.get("system"), request.get("prompt") or ""
    turns: list[BaseMessage] = [SystemMessage(system)] if system else []
    asked = "\n".join(part for part in (prompt, request.get("suffix")) if part)
    turns.append(HumanMessage([asked, *_images(request.get("images"))]))
    return Conversation.of(turns)


def delivery(kind: str, request: Mapping[str, Any]) -> ConvertedDelivery[Any]:
    """The form of outputs of `chat` or `generate`.

    Where a `format` is asked for, a refusal has none.

    Args:
        kind: `chat` or `generate`.
        request: Keyword arguments of the call.
    """
    message, refusal = (_said, _refusal) if kind == "chat" else (_completed, _refused)
    return ConvertedDelivery(
        message=partial(_with_counts, message),
        refuse=None if request.get("format") else refusal,
        attach=_attach,
        check=every(schema_check(request), call_check(request)),
    )


def as_chunks(output: Any) -> list[Any]:
    """Split an output as the server streams it: what was said, then the end with its counts."""
    begun = {
        name: value
        for name, value in (("done", False), ("done_reason", None), ("srr_guard", None))
        if field_of(output, name) is not None
    }
    counts = dict.fromkeys(name for name in _COUNTS if field_of(output, name) is not None)
    message, empty = field_of(output, "message"), {}
    if message is not None:
        silent = {"content": ""} | {
            name: None
            for name in ("thinking", "tool_calls", "images")
            if field_of(message, name) is not None
        }
        empty["message"] = replaced(message, **silent)
    for name in ("response", "thinking", "image", "logprobs"):
        if field_of(output, name) is not None:
            empty[name] = "" if name == "response" else None
    return [replaced(output, **begun, **counts), replaced(output, **empty)]


# ---- answers ----


def _with_counts(message: Any, output: Any) -> AIMessage:
    made: AIMessage = message(output)
    made.usage_metadata = usage_of(*(field_of(output, name) for name in _COUNTS))
    return made


def _said(output: Any) -> AIMessage:
    message = field_of(output, "message")
    if message is None:
        raise SamplingError(f"a chat of type {type(output).__name__!r} has no message")
    return _assistant(message)


def _completed(output: Any) -> AIMessage:
    text = field_of(output, "response")
    if text is None and field_of(output, "image") is None:
        raise SamplingError(f"a completion of type {type(output).__name__!r} has no response")
    return AIMessage([*_thinking(output), text or "", *_images(field_of(output, "image"))])


def _assistant(message: Any) -> AIMessage:
    content = [*_thinking(message), field_of(message, "content") or ""]
    made = AIMessage([*content, *_images(field_of(message, "images"))])
    for call in field_of(message, "tool_calls") or ():
        function = field_of(call, "function")
        given = json.dumps(plain(field_of(function, "arguments")) or {}, default=str)
        add_call(made, field_of(function, "name"), arguments=given, id=None)
    return made


def _thinking(thing: Any) -> list[dict[str, Any]]:
    thought = field_of(thing, "thinking")
    return [{"type": "thinking", "thinking": thought}] if thought else []


def _images(images: Any) -> list[dict[str, Any]]:
    return [{"type": "image"}] if images else []


def _refusal(text: str, output: Any) -> Any:
    message = field_of(output, "message")
    silent = {
        name: None
        for name in ("thinking", "tool_calls", "images")
        if field_of(message, name) is not None
    }
    return _plain_end(output, message=replaced(message, content=text, **silent))


def _refused(text: str, output: Any) -> Any:
    silent = {
        name: None
        for name in ("thinking", "image", "context")
        if field_of(output, name) is not None
    }
    return _plain_end(output, response=text, **silent)


def _plain_end(output: Any, **changes: Any) -> Any:
    ends = {"done_reason": "stop", "logprobs": None}
    changes |= {name: end for name, end in ends.items() if field_of(output, name) is not None}
    return replaced(output, **changes)


def _attach(output: Any, decision: Decision[Any]) -> Any:
    """Copy the output, with the decision and the counts of all candidates on it."""
    summary = decision.summary()
    found = {name: field_of(output, name) for name in _COUNTS}
    own = {name: count for name, count in found.items() if count is not None}
    if decision.passed and own:
        summary["chosen_usage"] = own
    total = {
        name: sum(field_of(candidate.output, name) or 0 for candidate in decision.candidates)
        for name in own
    }
    return replaced(output, srr_guard=summary, **total)


# ---- requests ----


def _turn(message: Any) -> BaseMessage:
    role, text = field_of(message, "role"), field_of(message, "content") or ""
    match role:
        case "assistant":
            return _assistant(message)
        case "system":
            return SystemMessage(text)
        case "tool":
            return ToolMessage(text, tool_call_id=str(field_of(message, "tool_name")))
    return HumanMessage([text, *_images(field_of(message, "images"))])
