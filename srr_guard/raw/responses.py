"""Responses of OpenAI's Responses API, whole or in events.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage
from typing_extensions import override

from srr_guard.raw.parts import Parts, RawAnswer, mapping, mappings

_GROWING = {
    "output_text": ("output_text", "text"),
    "refusal": ("refusal", "refusal"),
    "reasoning_text": ("reasoning", "reasoning"),
    "reasoning_summary_text": ("reasoning", "reasoning"),
    "function_call_arguments": ("function_call", "arguments"),
    "custom_tool_call_input": ("custom_tool_call", "input"),
    "mcp_call_arguments": ("mcp_call", "arguments"),
    "code_interpreter_call_code": ("code_interpreter_call", "code"),
    "shell_call_command": ("shell_call", "command"),
    "shell_call_output_content": ("shell_call_output", "output"),
    "audio": ("audio", "data"),
    "audio.transcript": ("output_text", "text"),
}
"""What comes in deltas: the kind of its block, and the field that grows."""

_PLACES = ("content_index", "summary_index", "command_index")
_ITEMS = frozenset({"function_call", "custom_tool_call", "mcp_call", "code_interpreter_call"})
"""Items that grow themselves; of others it is a part."""


class Response(RawAnswer):
    """A response. Events at the end tell again what the deltas said: it counts once."""

    def __init__(self) -> None:
        self._parts = Parts()
        self._begun = False

    @classmethod
    @override
    def takes(cls, value: Mapping[str, Any]) -> bool:
        if value.get("object") == "response":
            return isinstance(value.get("output"), list)
        kind = value.get("type")
        return isinstance(kind, str) and kind.startswith("response.") and len(value) > 1

    @override
    def begins_another(self, value: Mapping[str, Any]) -> bool:
        whole = value.get("object") == "response"
        return self._begun and (whole or value.get("type") == "response.created")

    @override
    def add(self, value: Mapping[str, Any]) -> None:
        if value.get("object") == "response":
            self._add_response(value)
            return
        name, _, step = value["type"].removeprefix("response.").rpartition(".")
        match value:
            case {"response": Mapping() as response}:
                self._add_response(response)
            case {"item": Mapping() as item}:
                self._add_item(item, value.get("output_index"), step)
            case {"part": Mapping() as part}:
                self._parts.again(_block(part))
            case {"annotation": annotation}:
                self._parts.again({"type": "output_text", "annotations": [annotation]})
            case {"response": other} | {"item": other} | {"part": other}:
                mapping(other)
            case {"delta": delta}:
                kind, field = _GROWING.get(name, (name, "delta"))
                self._parts.grow(_key(value, name, kind), kind, **{field: delta})
            case {"partial_image_b64": _}:
                self._parts.again({"type": "image"})
            case _ if step == "done" and name in _GROWING:
                kind, field = _GROWING[name]
                told = value.get(field, value.get("text"))
                if told is not None:
                    self._parts.again({"type": kind, field: told})

    @override
    def messages(self) -> Sequence[AIMessage]:
        return [self._parts.message()]

    def _add_response(self, response: Mapping[str, Any]) -> None:
        self._begun = True
        for item in mappings(response.get("output")):
            self._add_item(item, None, "done")
        self._parts.note(incomplete_details=response.get("incomplete_details"))

    def _add_item(self, item: Mapping[str, Any], index: Any, step: str) -> None:
        if step == "added" and item.get("type") in _ITEMS:
            self._parts.begin(index, item)
            return
        rest = {n: v for n, v in item.items() if n not in ("content", "summary")}
        parts = [*mappings(item.get("summary")), *mappings(item.get("content"))]
        for part in parts:
            self._parts.again(_block(part))
        if item.get("type") not in ("message", "reasoning"):
            self._parts.again(item if not parts else rest)


def _key(value: Mapping[str, Any], name: str, kind: str) -> Any:
    place = value.get("output_index")
    return place if kind in _ITEMS else (place, name, *map(value.get, _PLACES))


def _block(part: Mapping[str, Any]) -> Mapping[str, Any]:
    if part.get("type") in ("summary_text", "reasoning_text"):
        return {"type": "reasoning", "reasoning": part.get("text")}
    return part
