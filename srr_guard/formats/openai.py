"""OpenAI-shaped messages and completions, to what srr_guard scores and back.

Accepts `openai` objects, look-alikes from compatible clients, and plain dicts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from langchain_core.messages.ai import UsageMetadata
from pydantic import BaseModel, ValidationError

from srr_guard.conversation import Conversation
from srr_guard.decision import Decision
from srr_guard.errors import InvalidInputError, MissingExtraError, SamplingError
from srr_guard.filters import is_filter_reason
from srr_guard.formats.shapes import (
    add_call,
    count_of,
    field_of,
    plain,
    replaced,
    total_usage,
    with_decision,
)
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


def as_message(message: Any) -> BaseMessage:
    """Read one message of an assistant or a tool, as it is scored.

    Raises:
        InvalidInputError: It cannot be read.
    """
    if field_of(message, "role") in (None, "assistant"):
        return _assistant(message)
    try:
        return convert_to_messages([_turn(message)])[0]
    except (ValueError, NotImplementedError, TypeError, KeyError) as error:
        raise InvalidInputError(f"not a message: {error}") from error


class CompletionDelivery:
    """Outputs that are chat completions (see `Delivery`). Originals stay unchanged.

    Args:
        check: Raises SamplingError for an assistant's message that does not fit a schema.
        calls: Raises SamplingError for one whose calls cannot be (see `call_check`).
    """

    def __init__(
        self,
        check: Callable[[Any], None] | None = None,
        calls: Callable[[Any], None] | None = None,
    ) -> None:
        self._check = check
        self._calls = calls

    def read(self, output: Any) -> Reading:
        """Read the message of the first choice.

        Raises:
            SamplingError: There is no choice, or its message cannot be used.
        """
        message = _assistant(field_of(_choice(output), "message"))
        if self._check is not None and not self.declined(output):
            self._check(message)
        if self._calls is not None:
            self._calls(message)
        return read(message)

    def declined(self, output: Any) -> bool:
        """True if the provider's filter ended the answer."""
        return is_filter_reason(field_of(_choice(output), "finish_reason"))

    def refusal(self, text: str, output: Any) -> Any:
        """Make a completion like this one, with the refusal as its only content."""
        choice = _choice(output)
        message = field_of(choice, "message")
        said = plain(message)  # any field may hold parts of the answer, such as its reasoning
        empty = dict.fromkeys(said.keys() - {"role"}) if isinstance(said, dict) else {}
        message = replaced(message, **{**empty, "content": text, "refusal": text})
        cleared = {"logprobs": None} if field_of(choice, "logprobs") is not None else {}
        choice = replaced(choice, message=message, finish_reason="content_filter", **cleared)
        return replaced(output, choices=[choice])

    def usage(self, outputs: Sequence[Any]) -> UsageMetadata | None:
        """Sum the prompt and completion tokens of these completions."""
        total = total_usage(outputs)
        if total is None:
            return None
        given, written = count_of(total, "prompt_tokens"), count_of(total, "completion_tokens")
        return UsageMetadata(
            input_tokens=given,
            output_tokens=written,
            total_tokens=count_of(total, "total_tokens") or given + written,
        )

    def finish(self, output: Any, decision: Decision[Any]) -> Any:
        """Copy the completion, with the decision and the usage of all candidates on it."""
        if len(field_of(output, "choices")) > 1:  # only the first one is read
            output = replaced(output, choices=[_choice(output)])
        return with_decision(output, decision)


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
    choice = field_of(completion, "choices")[0]
    message = plain(field_of(choice, "message"))
    message["tool_calls"] = [
        {"index": i, **call} for i, call in enumerate(message.get("tool_calls") or [])
    ] or None
    delta = {name: value for name, value in message.items() if value is not None}
    finish = {"delta": {}, "finish_reason": field_of(choice, "finish_reason"), "index": 0}
    logprobs = field_of(choice, "logprobs")
    start = {
        "delta": delta,
        "finish_reason": None,
        "index": 0,
        "logprobs": None if logprobs is None else plain(logprobs),
    }
    common = {
        "id": field_of(completion, "id") or "",
        "created": field_of(completion, "created") or int(time.time()),
        "model": field_of(completion, "model") or "",
        "object": "chat.completion.chunk",
        "service_tier": field_of(completion, "service_tier"),
        "system_fingerprint": field_of(completion, "system_fingerprint"),
    }
    parts: list[dict[str, Any]] = [{"choices": [start]}, {"choices": [finish]}]
    if usage and field_of(completion, "usage") is not None:
        parts.append({"choices": [], "usage": plain(field_of(completion, "usage"))})
    parts[-1]["srr_guard"] = field_of(completion, "srr_guard")
    return [ChatCompletionChunk.model_construct(**common, **part) for part in parts]


def _choice(completion: Any) -> Any:
    choices = field_of(completion, "choices")
    if not choices:
        raise SamplingError(f"a completion of type {type(completion).__name__!r} has no choices")
    return choices[0]


def _turn(message: Any) -> Any:
    if field_of(message, "role") == "assistant":
        return _assistant(message)
    return plain(message) if isinstance(message, BaseModel) else message


def _assistant(message: Any) -> AIMessage:
    """Convert an assistant's message to LangChain's; unreadable calls become invalid ones."""
    given = plain(message)
    fields = {k: v for k, v in given.items() if v is not None} if isinstance(given, dict) else {}
    content, legacy = fields.pop("content", ""), field_of(message, "function_call")
    for name in ("role", "tool_calls", "function_call"):
        fields.pop(name, None)
    if fields.get("refusal") == content:  # a refusal of ours
        del fields["refusal"]
    try:
        result = AIMessage(content, additional_kwargs=fields)
    except ValidationError as error:
        raise InvalidInputError(
            f"content={content!r:.60} cannot be read: give a str, or a list of parts"
        ) from error
    calls = field_of(message, "tool_calls") or []
    if not isinstance(calls, (list, tuple)):
        raise InvalidInputError(f"tool_calls={calls!r:.60} cannot be read: give a list")
    for call in [*calls, *([legacy] if legacy else ())]:
        _add_call(result, call)
    return result


def _add_call(message: AIMessage, call: Any) -> None:
    call_id, custom = field_of(call, "id"), field_of(call, "custom")
    if custom is not None:
        add_call(message, field_of(custom, "name"), custom=field_of(custom, "input"), id=call_id)
        return
    function = field_of(call, "function") or call
    arguments = field_of(function, "arguments")
    add_call(message, field_of(function, "name"), arguments=arguments, id=call_id)
