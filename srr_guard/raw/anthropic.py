"""Messages of Anthropic's API and of Bedrock's Converse, whole or in events.

https://platform.claude.com/docs/en/build-with-claude/streaming,
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage
from typing_extensions import override

from srr_guard.raw.parts import Parts, RawAnswer, mapping, mappings

_SHAPES: dict[str, str | None] = {
    "message_start": "message",
    "content_block_start": "content_block",
    "content_block_delta": "delta",
    "content_block_stop": "index",
    "message_delta": "delta",
    "message_stop": None,
    "ping": None,
}
"""The events, each with a field that it must have."""

_TOLD = {"text": "text", "thinking": "thinking", "input_json": "partial_json"}
"""What the client's stream helper tells again, in a field of this name, with a snapshot."""

_DELTAS = {
    "text_delta": "text",
    "citations_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "thinking",
    "compaction_delta": "compaction",
}
"""The kinds of the blocks that deltas belong to; that of arguments is their own."""

_PLACES = frozenset({"type", "index", "usage", "message", "delta", "content_block", "p"})
_FIELDS = frozenset(
    {
        "id",
        "type",
        "role",
        "model",
        "content",
        "stop_reason",
        "stop_sequence",
        "stop_details",
        "usage",
        "container",
        "context_management",
        "srr_guard",
    }
)


class AnthropicMessage(RawAnswer):
    """A message; what the client's stream helper tells again counts once."""

    def __init__(self) -> None:
        self._parts = Parts()
        self._begun = False
        self._index: Any = 0

    @classmethod
    @override
    def takes(cls, value: Mapping[str, Any]) -> bool:
        kind = value.get("type")
        if not isinstance(kind, str):
            return _of_bedrock(value) is not None
        if kind in _TOLD:
            return isinstance(value.get(_TOLD[kind]), str) and "snapshot" in value
        if kind == "signature":
            return value.keys() == {"type", "signature"}
        if kind == "citation":
            return value.keys() == {"type", "citation", "snapshot"}
        if kind == "message":
            blocks = value.get("content")
            in_blocks = isinstance(blocks, list) and all(isinstance(b, Mapping) for b in blocks)
            return in_blocks and value.get("role") == "assistant"
        return kind in _SHAPES and (_SHAPES[kind] is None or _SHAPES[kind] in value)

    @override
    def begins_another(self, value: Mapping[str, Any]) -> bool:
        return self._begun and (
            value.get("type") in ("message_start", "message") or "messageStart" in value
        )

    @override
    def add(self, value: Mapping[str, Any]) -> None:
        event = _of_bedrock(value) or value
        index = event.get("index", self._index)
        match event["type"]:
            case "message" | "message_start":
                self._begun = True
                self._add_message(mapping(event.get("message", event)))
            case "message_stop" if (message := event.get("message")) is not None:
                self._add_message(mapping(message))
            case "message_delta":
                self._add_end(mapping(event["delta"]))
            case "content_block_start":
                self._parts.begin(index, event["content_block"])
            case "content_block_stop" if "content_block" in event:
                self._parts.again(event["content_block"])
            case "content_block_delta":
                self._index = index
                self._add_delta(index, mapping(event["delta"]))
            case "text" | "thinking" | "input_json" as kind:
                field, key = _TOLD[kind], ("told", kind, self._index)
                kind = "input_json_delta" if kind == "input_json" else kind
                self._parts.tell(key, kind, **{field: event[field]})
            case "citation":
                self._parts.again({"type": "text", "citations": [event["citation"]]})
        if event["type"] in _SHAPES:
            self._parts.beside(event, known=_PLACES)

    @override
    def messages(self) -> Sequence[AIMessage]:
        return [self._parts.message()]

    def _add_message(self, message: Mapping[str, Any]) -> None:
        for block in mappings(message.get("content")):
            self._parts.again(block)
        self._add_end(message)

    def _add_end(self, fields: Mapping[str, Any]) -> None:
        self._parts.note(stop_reason=fields.get("stop_reason"))
        self._parts.beside(fields, known=_FIELDS)

    def _add_delta(self, index: Any, delta: Mapping[str, Any]) -> None:
        kind = str(delta.get("type"))
        fields = {name: value for name, value in delta.items() if name != "type"}
        if "citation" in fields:
            fields = {"citations": [fields["citation"]]}
        self._parts.grow(index, _DELTAS.get(kind, kind), **fields)


def _of_bedrock(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """The event of Anthropic's that says the same as one of Bedrock's; None for any other."""
    match value:
        case {"messageStart": {}}:
            return {"type": "message_start", "message": {}}
        case {"contentBlockStart": {"start": Mapping() as start, "contentBlockIndex": i}}:
            return {
                "type": "content_block_start",
                "index": i,
                "content_block": _bedrock_block(start),
            }
        case {"contentBlockDelta": {"delta": Mapping() as delta, "contentBlockIndex": i}}:
            return {"type": "content_block_delta", "index": i, "delta": _bedrock_delta(delta)}
        case {"contentBlockStop": {"contentBlockIndex": i}}:
            return {"type": "content_block_stop", "index": i}
        case {"messageStop": {"stopReason": reason}}:
            return {"type": "message_delta", "delta": {"stop_reason": reason}}
        case {"metadata": {"usage": Mapping(), **rest}} if len(value) == 1:
            beside = {name: part for name, part in rest.items() if name == "trace"}
            return {"type": "message_delta", "delta": beside}
        case {"output": {"message": {"content": list() as content}}, "stopReason": reason}:
            blocks = [_bedrock_block(block) for block in mappings(content)]
            trace = {name: value[name] for name in ("trace",) if name in value}
            return {"type": "message", "content": blocks, "stop_reason": reason, **trace}
    return None


def _bedrock_block(block: Mapping[str, Any]) -> dict[str, Any]:
    match block:
        case {"toolUse": Mapping() as call}:
            return {"type": "tool_use", **call}
        case {"reasoningContent": {"reasoningText": Mapping() as said}}:
            return {"type": "thinking", "thinking": said.get("text", "")}
        case {"text": str(text)}:
            return {"type": "text", "text": text}
    return {"type": next(iter(block), "empty"), **block}


def _bedrock_delta(delta: Mapping[str, Any]) -> dict[str, Any]:
    match delta:
        case {"text": str(text)}:
            return {"type": "text_delta", "text": text}
        case {"toolUse": {"input": str(given)}}:
            return {"type": "input_json_delta", "partial_json": given}
        case {"reasoningContent": {"text": str(text)}}:
            return {"type": "thinking_delta", "thinking": text}
        case {"reasoningContent": Mapping()}:  # encrypted
            return {"type": "signature_delta"}
        case {"citation": citation}:
            return {"type": "citations_delta", "citation": citation}
    return {"type": next(iter(delta), "empty"), **delta}
