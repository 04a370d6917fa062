"""OpenAI-shaped messages and completions, to what srr_guard scores and back.

Accepts `openai` objects, look-alikes from compatible clients, and plain dicts.
"""

from __future__ import annotations

import copy
import functools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call
from pydantic import BaseModel

from srr_guard.conversation import Conversation
from srr_guard.decision import Decision
from srr_guard.errors import InvalidInputError, MissingExtraError, SamplingError
from srr_guard.filters import is_filter_reason
from srr_guard.reading import Reading, read


def as_conversation(messages: Any) -> Conversation:
    """Read the `messages` of a request.

    Raises:
        InvalidInputError: There are none, or they cannot be read.
    """
    if not isinstance(messages, Iterable) or isinstance(messages, (str, bytes, Mapping)):
        raise InvalidInputError(
            f"messages={messages!r} is not a list of messages: give `messages=[...]`"
        )
    return Conversation.of([_turn(message) for message in messages])


class CompletionDelivery:
    """Outputs that are chat completions (see `Delivery`). Originals stay unchanged.

    Args:
        check: Raises SamplingError for an assistant's message that cannot be used.
    """

    def __init__(self, check: Callable[[Any], None] | None = None) -> None:
        self._check = check

    def read(self, output: Any) -> Reading:
        """Read the message of the first choice.

        Raises:
            SamplingError: There is no choice, or its message cannot be used.
        """
        message = _assistant(_get(_choice(output), "message"))
        if self._check is not None and not self.declined(output):
            self._check(message)
        return read(message)

    def declined(self, output: Any) -> bool:
        """True if the provider's filter ended the answer."""
        return is_filter_reason(_get(_choice(output), "finish_reason"))

    def refusal(self, text: str, output: Any) -> Any:
        """Make a completion like this one, with the refusal as its only content."""
        choice = _choice(output)
        message = _get(choice, "message")
        empty = {
            name: None
            for name in ("tool_calls", "function_call", "audio", "annotations", "parsed")
            if _get(message, name) is not None
        }
        # unknown names may hold parts of the answer, such as its reasoning
        extra = dict.fromkeys(getattr(message, "model_extra", None) or {})
        message = _replace(message, **{**extra, **empty, "content": text, "refusal": text})
        cleared = {"logprobs": None} if _get(choice, "logprobs") is not None else {}
        choice = _replace(choice, message=message, finish_reason="content_filter", **cleared)
        return _replace(output, choices=[choice])

    def usage(self, outputs: Sequence[Any]) -> UsageMetadata | None:
        """Sum the prompt and completion tokens of these completions."""
        total = _total_usage(outputs)
        if total is None:
            return None
        given, written = _count(total, "prompt_tokens"), _count(total, "completion_tokens")
        return UsageMetadata(
            input_tokens=given,
            output_tokens=written,
            total_tokens=_count(total, "total_tokens") or given + written,
        )

    def finish(self, output: Any, decision: Decision[Any]) -> Any:
        """Copy the completion, with the decision and the usage of all candidates on it."""
        summary, own = decision.summary(), _get(output, "usage")
        if len(_get(output, "choices")) > 1:  # only the first one is read
            output = _replace(output, choices=[_choice(output)])
        if own is None:
            return _replace(output, srr_guard=summary)
        if decision.passed:
            summary["chosen_usage"] = _plain(own)
        total = _total_usage([candidate.output for candidate in decision.candidates])
        if isinstance(own, BaseModel):
            total = type(own).model_validate(total)
        return _replace(output, srr_guard=summary, usage=total)


def as_chunks(completion: Any, *, usage: bool) -> list[Any]:
    """Split a completion into stream chunks: the message, its end, the usage if asked for.

    Raises:
        MissingExtraError: The package `openai` is not installed.
    """
    try:
        from openai.types.chat import ChatCompletionChunk
    except ImportError as error:
        raise MissingExtraError(
            package="openai", extra="openai", purpose="streaming a guarded chat completion"
        ) from error
    choice = _get(completion, "choices")[0]
    message = _plain(_get(choice, "message"))
    message["tool_calls"] = [
        {"index": i, **call} for i, call in enumerate(message.get("tool_calls") or [])
    ] or None
    delta = {name: value for name, value in message.items() if value is not None}
    finish = {"delta": {}, "finish_reason": _get(choice, "finish_reason"), "index": 0}
    logprobs = _get(choice, "logprobs")
    start = {
        "delta": delta,
        "finish_reason": None,
        "index": 0,
        "logprobs": None if logprobs is None else _plain(logprobs),
    }
    common = {
        "id": _get(completion, "id") or "",
        "created": _get(completion, "created") or int(time.time()),
        "model": _get(completion, "model") or "",
        "object": "chat.completion.chunk",
        "service_tier": _get(completion, "service_tier"),
        "system_fingerprint": _get(completion, "system_fingerprint"),
    }
    parts: list[dict[str, Any]] = [{"choices": [start]}, {"choices": [finish]}]
    if usage and _get(completion, "usage") is not None:
        parts.append({"choices": [], "usage": _plain(_get(completion, "usage"))})
    parts[-1]["srr_guard"] = _get(completion, "srr_guard")
    return [ChatCompletionChunk.model_construct(**common, **part) for part in parts]


def _choice(completion: Any) -> Any:
    choices = _get(completion, "choices")
    if not choices:
        raise SamplingError(f"a completion of type {type(completion).__name__!r} has no choices")
    return choices[0]


def _total_usage(completions: Sequence[Any]) -> Any:
    """The usage of these completions, summed field by field, as a dict; None if none has one."""
    usages = [_plain(usage) for c in completions if (usage := _get(c, "usage")) is not None]
    return functools.reduce(_sum, usages) if usages else None


def _count(usage: Any, name: str) -> int:
    value = _get(usage, name)
    return value if isinstance(value, int) else 0


def _turn(message: Any) -> Any:
    if _get(message, "role") == "assistant":
        return _assistant(message)
    return _plain(message) if isinstance(message, BaseModel) else message


def _assistant(message: Any) -> AIMessage:
    """Convert an assistant's message to LangChain's; unreadable calls become invalid ones."""
    plain = _plain(message)
    fields = {k: v for k, v in plain.items() if v is not None} if isinstance(plain, dict) else {}
    content, legacy = fields.pop("content", ""), _get(message, "function_call")
    for name in ("role", "tool_calls", "function_call"):
        fields.pop(name, None)
    if fields.get("refusal") == content:  # a refusal of ours
        del fields["refusal"]
    result = AIMessage(content, additional_kwargs=fields)
    for call in [*(_get(message, "tool_calls") or ()), *([legacy] if legacy else ())]:
        _add_call(result, call)
    return result


def _add_call(message: AIMessage, call: Any) -> None:
    call_id = _get(call, "id")
    custom = _get(call, "custom")
    if custom is not None:
        args = {"input": _get(custom, "input")}
        message.tool_calls.append(tool_call(name=_get(custom, "name"), args=args, id=call_id))
        return
    function = _get(call, "function") or call
    name, raw = _get(function, "name"), _get(function, "arguments")
    try:
        arguments = json.loads(raw or "{}", strict=False)
    except (ValueError, TypeError, RecursionError):
        arguments = None
    if isinstance(arguments, dict) and isinstance(name, str):
        message.tool_calls.append(tool_call(name=name, args=arguments, id=call_id))
    else:
        message.invalid_tool_calls.append(
            invalid_tool_call(name=name, args=raw, id=call_id, error="not a JSON object")
        )


def _get(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def _replace(thing: Any, **changes: Any) -> Any:
    """Copy a completion or part of it, with some fields changed or added."""
    if isinstance(thing, BaseModel):
        return thing.model_copy(update=changes)
    if isinstance(thing, Mapping):
        return {**thing, **changes}
    changed = copy.copy(thing)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def _plain(thing: Any) -> Any:
    """Convert a pydantic object, a dict, or an object with attributes to JSON-like values."""
    if isinstance(thing, BaseModel):
        # no warnings: providers fill the fields of these classes with what they like
        return thing.model_dump(mode="json", exclude_none=True, warnings=False)
    if isinstance(thing, Mapping):
        return {name: _plain(value) for name, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [_plain(value) for value in thing]
    if not hasattr(thing, "__dict__"):
        return thing
    return {name: _plain(value) for name, value in vars(thing).items() if name[0] != "_"}


def _sum(a: Any, b: Any) -> Any:
    """Add numbers, and dicts of them, field by field; keep the first of other values."""
    if isinstance(a, dict) and isinstance(b, dict):
        return {k: _sum(a[k], b[k]) if k in a and k in b else a.get(k, b.get(k)) for k in a | b}
    both_numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (a, b))
    return a + b if both_numbers else a
