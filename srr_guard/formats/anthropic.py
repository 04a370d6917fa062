"""Messages of Anthropic's Messages API, to what srr_guard scores and back.

Accepts `anthropic` objects, look-alikes from compatible clients, and plain dicts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from pydantic import BaseModel

from srr_guard.conversation import Conversation
from srr_guard.errors import InvalidInputError, MissingExtraError, SamplingError
from srr_guard.formats.converted import ConvertedDelivery
from srr_guard.formats.schemas import Check
from srr_guard.formats.shapes import (
    add_call,
    build,
    count_of,
    field_of,
    plain,
    replaced,
    with_decision,
)


def as_conversation(system: Any, messages: Any) -> Conversation:
    """Read the `system` and the `messages` of a request.

    Raises:
        InvalidInputError: There are none, or they cannot be read.
    """
    if not isinstance(messages, Iterable) or isinstance(messages, (str, bytes, Mapping)):
        raise InvalidInputError(
            f"messages={messages!r} is not a list of messages: give `messages=[...]`"
        )
    turns: list[BaseMessage] = [SystemMessage(_blocks(system))] if system else []
    for message in messages:
        turns += _turns(message)
    return Conversation.of(turns)


def message_delivery(
    check: Check | None = None, *, may_refuse: bool = True
) -> ConvertedDelivery[Any]:
    """The form of outputs that are messages of the API.

    A refusal is a message with one text block and the stop reason `refusal`.

    Args:
        check: Raises SamplingError for a message that cannot be used.
        may_refuse: False where the client would parse the refusal's text.
    """
    return ConvertedDelivery(
        message=_message,
        refuse=_refusal if may_refuse else None,
        attach=with_decision,
        check=check,
    )


def as_events(message: Any) -> list[Any]:
    """Split a message into the API's events: each text and each call's input in one delta.

    Blocks of the provider's own tools are started and stopped, without a delta between.

    Raises:
        MissingExtraError: The package `anthropic` is not installed.
    """
    try:
        from anthropic import types
    except ImportError as error:
        raise MissingExtraError(
            package="anthropic", extra="anthropic", purpose="streaming a guarded message"
        ) from error
    usage = plain(field_of(message, "usage")) or {"input_tokens": 0, "output_tokens": 0}
    end = {name: field_of(message, name) for name in ("stop_reason", "stop_sequence")}
    begun = {**plain(message), "content": [], "usage": usage, **dict.fromkeys(end)}
    events: list[Any] = [
        types.RawMessageStartEvent.construct(
            type="message_start", message=types.Message.construct(**begun)
        )
    ]
    for index, block in enumerate(field_of(message, "content")):
        whole = plain(block)
        empty, deltas = _pieces(whole)
        events.append(
            types.RawContentBlockStartEvent.construct(
                type="content_block_start", index=index, content_block={**whole, **empty}
            )
        )
        events += (
            types.RawContentBlockDeltaEvent.construct(
                type="content_block_delta", index=index, delta=delta
            )
            for delta in deltas
        )
        events.append(
            types.RawContentBlockStopEvent.construct(type="content_block_stop", index=index)
        )
    events.append(
        types.RawMessageDeltaEvent.construct(
            type="message_delta", delta={**end, "stop_details": None}, usage=usage
        )
    )
    events.append(types.RawMessageStopEvent.construct(type="message_stop"))
    return events


def _pieces(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The fields of a block that begin empty, and the deltas that fill them."""
    match block["type"]:
        case "text":
            cited = [
                {"type": "citations_delta", "citation": c} for c in block.get("citations") or ()
            ]
            return (
                {"text": "", "citations": None},
                [{"type": "text_delta", "text": block["text"]}, *cited],
            )
        case "thinking":
            signature = block.get("signature") or ""
            return (
                {"thinking": "", "signature": ""},
                [
                    {"type": "thinking_delta", "thinking": block["thinking"]},
                    {"type": "signature_delta", "signature": signature},
                ],
            )
        case "tool_use" | "server_tool_use":
            given = json.dumps(block.get("input") or {}, ensure_ascii=False)
            return {"input": {}}, [{"type": "input_json_delta", "partial_json": given}]
    return {}, []


# ---- answers ----


def _message(output: Any) -> AIMessage:
    content = field_of(output, "content")
    if not isinstance(content, (list, tuple)):
        raise SamplingError(f"a message of type {type(output).__name__!r} has no content")
    blocks = _blocks(content)
    message = AIMessage(blocks, response_metadata={"stop_reason": field_of(output, "stop_reason")})
    for block in blocks:
        if isinstance(block, Mapping) and block.get("type") == "tool_use":
            given = json.dumps(block.get("input") or {})
            add_call(message, block.get("name"), arguments=given, id=block.get("id"))
    message.usage_metadata = _usage(field_of(output, "usage"))
    return message


def _usage(usage: Any) -> UsageMetadata | None:
    if usage is None:
        return None
    cached = count_of(usage, "cache_read_input_tokens")
    made = count_of(usage, "cache_creation_input_tokens")
    given, written = (
        count_of(usage, "input_tokens") + cached + made,
        count_of(usage, "output_tokens"),
    )
    return UsageMetadata(
        input_tokens=given,
        output_tokens=written,
        total_tokens=given + written,
        input_token_details=InputTokenDetails(cache_read=cached, cache_creation=made),
    )


def _refusal(text: str, output: Any) -> Any:
    block = {"type": "text", "text": text}
    changes: dict[str, Any] = {"stop_reason": "refusal"}
    if isinstance(output, BaseModel):
        changes["content"] = build(type(output), {"content": [block]}).content
        # unknown names may hold parts of the answer
        changes |= dict.fromkeys(output.model_extra or {})
    else:
        changes["content"] = [block if isinstance(output, Mapping) else SimpleNamespace(**block)]
    for name in ("stop_sequence", "stop_details", "container"):
        if field_of(output, name) is not None:
            changes[name] = None
    return replaced(output, **changes)


# ---- requests ----


def _turns(message: Any) -> Iterator[BaseMessage]:
    """A message as turns; the results of tools are turns of their own."""
    role, blocks = field_of(message, "role"), _blocks(field_of(message, "content"))
    if role == "assistant":
        yield AIMessage(blocks)
        return
    if role == "system":
        yield SystemMessage(blocks)
        return
    said: list[Any] = []
    for block in blocks:
        if isinstance(block, Mapping) and block.get("type") == "tool_result":
            yield ToolMessage(
                _blocks(block.get("content")), tool_call_id=str(block.get("tool_use_id"))
            )
        else:
            said.append(block)
    if said or not blocks:
        yield HumanMessage(said)


def _blocks(content: Any) -> list[Any]:
    if content is None:
        return []
    return [content] if isinstance(content, str) else [plain(block) for block in content]
