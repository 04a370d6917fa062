"""Responses of OpenAI's Responses API, to what srr_guard scores and back.

Accepts `openai` objects, look-alikes from compatible clients, and plain dicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from types import SimpleNamespace
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from pydantic import BaseModel

from srr_guard.characters import is_blank
from srr_guard.conversation import Conversation
from srr_guard.decision import Decision
from srr_guard.errors import ConfigurationError, InvalidInputError, SamplingError
from srr_guard.filters import is_filter_reason
from srr_guard.formats.shapes import (
    add_call,
    as_sent,
    build,
    count_of,
    field_of,
    plain,
    replaced,
    total_usage,
    with_decision,
)
from srr_guard.reading import Reading, read

_UNSEEN = ("previous_response_id", "conversation", "prompt")
"""Arguments that stand for turns which only the provider knows."""

_NO_TURN = frozenset(
    {"reasoning", "additional_tools", "configuration_update", "compaction_trigger"}
)
"""Items of an input that say nothing themselves."""

_MESSAGE_FIELDS = frozenset({"type", "id", "role", "status", "phase", "content"})


def as_conversation(request: Mapping[str, Any]) -> Conversation:
    """Read `instructions` and `input` of a request.

    Instructions come first, as a system turn. Calls are turns of the assistant, their results
    turns of a tool; reasoning is left out, and what has no text is named in brackets.

    Args:
        request: Keyword arguments of `client.responses.create`.

    Raises:
        InvalidInputError: There is no input, or it cannot be read.
        ConfigurationError: The model is asked in the background, or sees turns that are not
            given here.
    """
    _require_all_is_here(request)
    instructions, given = request.get("instructions"), request.get("input")
    if instructions is not None and not isinstance(instructions, str):
        raise InvalidInputError(f"instructions={instructions!r:.60} cannot be read: give a str")
    turns: list[Any] = [("system", instructions)] if isinstance(instructions, str) else []
    if isinstance(given, str):
        turns.append(("user", given))
    elif isinstance(given, Iterable) and not isinstance(given, (bytes, Mapping)):
        turns += _turns([plain(item) for item in given])
    else:
        raise InvalidInputError(
            f"input={given!r} cannot be read: give `input=` a str or a list of items"
        )
    return Conversation.of(turns)


class ResponseDelivery:
    """Outputs that are responses (see `Delivery`). Originals stay unchanged.

    Everything in `output` is read: text with its annotations, refusals, reasoning, calls of
    your tools, and calls and results of the provider's. What is encrypted is not; images,
    files and items of an unknown kind are unreadable, by kind.

    A refusal is a completed response with one assistant message. Its text is an `output_text`
    part, so that `response.output_text` shows it. Where there is a check it is a `refusal` part,
    as the API has it, because clients parse the text of an `output_text` part by the schema.

    Args:
        check: Raises SamplingError for an assistant's message that cannot be used (see
            `schema_check`).
        calls: Raises SamplingError for a message whose calls cannot be (see `call_check`).
    """

    def __init__(
        self,
        check: Callable[[Any], None] | None = None,
        calls: Callable[[Any], None] | None = None,
    ) -> None:
        self._check = check
        self._calls = calls

    def read(self, output: Any) -> Reading:
        """Read all items of the output.

        Raises:
            SamplingError: The response failed or is not finished, or it cannot be used.
        """
        items = _items(output)
        if self._check is not None and not self.declined(output):
            self._check(_to_check(items))
        message = _message(items)
        if self._calls is not None:
            self._calls(message)
        assert isinstance(message.content, list)
        message.content += _texts_beside(output, items)
        return read(message)

    def declined(self, output: Any) -> bool:
        """True if the provider's filter ended the answer."""
        return is_filter_reason(field_of(field_of(output, "incomplete_details"), "reason"))

    def refusal(self, text: str, output: Any) -> Any:
        """Make a response like this one, with the refusal as its only output."""
        part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": []}
        if self._check is not None:
            part = {"type": "refusal", "refusal": text}
        message = {
            "id": "msg_srr_guard",  # not the answer's own, by which that could be retrieved
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [part],
        }
        changes: dict[str, Any] = {"status": "completed"}
        if isinstance(output, BaseModel):
            changes["output"] = build(type(output), {"output": [message]}).output
            # unknown names may hold parts of the answer
            changes |= dict.fromkeys(output.model_extra or {})
        elif isinstance(output, Mapping):
            changes["output"] = [message]
        else:
            changes["output"] = [
                SimpleNamespace(**message | {"content": [SimpleNamespace(**part)]})
            ]
        if not isinstance(output, BaseModel) and field_of(output, "output_text") is not None:
            changes["output_text"] = text
        for name in ("incomplete_details", "error"):
            if field_of(output, name) is not None:
                changes[name] = None
        return replaced(output, **changes)

    def usage(self, outputs: Sequence[Any]) -> UsageMetadata | None:
        """Sum the tokens of these responses."""
        total = total_usage(outputs)
        if total is None:
            return None
        given, written = count_of(total, "input_tokens"), count_of(total, "output_tokens")
        usage = UsageMetadata(
            input_tokens=given,
            output_tokens=written,
            total_tokens=count_of(total, "total_tokens") or given + written,
        )
        if cached := count_of(field_of(total, "input_tokens_details"), "cached_tokens"):
            usage["input_token_details"] = InputTokenDetails(cache_read=cached)
        if thought := count_of(field_of(total, "output_tokens_details"), "reasoning_tokens"):
            usage["output_token_details"] = OutputTokenDetails(reasoning=thought)
        return usage

    def finish(self, output: Any, decision: Decision[Any]) -> Any:
        """Copy the response, with the decision and the usage of all candidates on it."""
        return with_decision(output, decision)


# ---- requests ----


def _require_all_is_here(request: Mapping[str, Any]) -> None:
    sent = as_sent(request, direct=("input", "instructions", "stream", "stream_options"))
    for name in _UNSEEN:
        if value := sent.get(name):
            raise ConfigurationError(
                f"{name}={value!r} stands for turns that only the provider knows, and the scorer "
                "must see what the model sees: give the whole conversation as `input=`"
            )
    if sent.get("background"):
        raise ConfigurationError(
            "background=True answers later, when nothing can be scored: leave it out"
        )


def _turns(items: Sequence[Any]) -> Iterator[Any]:
    """The items of an input as messages; what the assistant did in a row is one message."""
    for item in items:
        if _stands_for_turns(item):
            raise ConfigurationError(
                f"the input item {dict(item)!r:.80} stands for turns that only the provider knows, "
                "and the scorer must see what the model sees: give the items themselves"
            )
    said = [item for item in items if _role(item) is not None]
    for role, group in groupby(said, _role):
        if role == "assistant":
            yield _message(list(group))
        elif role == "tool":
            yield from map(_result, group)
        else:
            yield from group


def _stands_for_turns(item: Any) -> bool:
    if not isinstance(item, Mapping):
        return False
    return item.get("type") in ("item_reference", "compaction") or set(item) == {"id"}


def _role(item: Any) -> str | None:
    """Who speaks in an item of an input; None if it says nothing."""
    kind = field_of(item, "type")
    kind = kind if isinstance(kind, str | None) else repr(kind)
    if kind in _NO_TURN:
        return None
    if not isinstance(item, Mapping) or kind in (None, "message"):
        return str(field_of(item, "role"))
    return "tool" if str(kind).endswith(("_output", "_response")) else "assistant"


def _result(item: Mapping[str, Any]) -> BaseMessage:
    call_id = str(item.get("call_id") or item.get("id") or "")
    if item["type"] in ("function_call_output", "custom_tool_call_output"):
        output = item.get("output")
        return ToolMessage(
            output if isinstance(output, str) else _blocks(output), tool_call_id=call_id
        )
    return ToolMessage(_blocks([item]), tool_call_id=call_id)


# ---- responses ----


def _items(response: Any) -> list[Any]:
    """The items of a response's output, as JSON-like values.

    Raises:
        SamplingError: There is no output, or the response is not finished.
    """
    status, error = field_of(response, "status"), field_of(response, "error")
    if error is not None or status not in (None, "completed", "incomplete"):
        raise SamplingError(
            f"the response has status {status!r}: {field_of(error, 'code')}, "
            f"{field_of(error, 'message')}"
        )
    items = field_of(response, "output")
    if not isinstance(items, (list, tuple)):
        raise SamplingError(f"a response of type {type(response).__name__!r} has no output")
    return [plain(item) for item in items]


def _message(items: Sequence[Any]) -> AIMessage:
    """Gather items in one message: parts of messages and all other items are its blocks."""
    blocks: list[Any] = []
    beside: dict[str, Any] = {}
    calls: list[Mapping[str, Any]] = []
    for item in items:
        kind = field_of(item, "type")
        if kind == "message" or (kind is None and field_of(item, "role") is not None):
            blocks += _blocks(item.get("content"))
            for name, value in item.items():
                if name not in _MESSAGE_FIELDS and value is not None:
                    beside[name] = [beside[name], value] if name in beside else value
        elif kind in ("function_call", "custom_tool_call"):
            calls.append(item)
        else:
            blocks += _blocks([item])
    message = AIMessage(blocks, additional_kwargs=beside)
    for call in calls:
        custom = call.get("input") if call["type"] == "custom_tool_call" else None
        call_id = call.get("call_id") or call.get("id")
        name, arguments = call.get("name"), call.get("arguments")
        add_call(message, name, arguments=arguments, custom=custom, id=call_id)
    return message


def _blocks(parts: Any) -> list[Any]:
    """The parts of a content as blocks that LangChain and `read` know."""
    given = parts if isinstance(parts, (list, tuple)) else [] if parts is None else [parts]
    return [_block(part) for part in given]


def _block(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        return {"type": type(part).__name__, "value": str(part)}
    if part.get("type") == "output_text":
        # parsed: the text, as the provider's client has read it
        hidden = set() if is_blank(part.get("text") or "") else {"parsed"}
        return {k: v for k, v in part.items() if k not in hidden} | {"type": "text"}
    return dict(part)


def _to_check(items: Sequence[Any]) -> AIMessage:
    """What a schema is asked of: the final answer and its calls, no commentary."""
    final = [item for item in items if field_of(item, "phase") in (None, "final_answer")]
    message = _message(final)
    blocks = [block for block in message.content if isinstance(block, Mapping)]
    said = [b.get("refusal") or "" for b in blocks if b.get("type") == "refusal"]
    if any(not is_blank(refusal) for refusal in said):
        message.additional_kwargs["refusal"] = True
    return message


def _texts_beside(response: Any, items: Sequence[Any]) -> list[Any]:
    """A text in a field of the response that is not the one of its output."""
    parts = [part for item in items if field_of(item, "type") == "message" for part in _parts(item)]
    said = "".join(str(p.get("text")) for p in parts if p.get("type") == "output_text")
    extra = getattr(response, "model_extra", None) or {}
    found = (field_of(response, "output_text"), extra.get("output_text"))
    return _blocks([text for text in found if isinstance(text, str) and text not in ("", said)])


def _parts(item: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = item.get("content")
    return [p for p in content if isinstance(p, Mapping)] if isinstance(content, list) else []
