"""Chat completions and text completions of OpenAI's API and its like, whole or in chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolCallChunk
from langchain_core.messages.tool import tool_call_chunk
from typing_extensions import override

from srr_guard.blocks import METADATA_TEXTS
from srr_guard.raw.parts import RawAnswer, mappings

_FORMS: dict[str, type[AIMessage]] = {"message": AIMessage, "delta": AIMessageChunk}


class Completion(RawAnswer):
    """A completion; each of several choices is a message of its own."""

    def __init__(self) -> None:
        self._choices: dict[Any, list[BaseMessage]] = {}

    @classmethod
    @override
    def takes(cls, value: Mapping[str, Any]) -> bool:
        choices = _unframed(value).get("choices")
        if not choices:  # the last one, with the usage
            return choices == [] and value.get("object") == "chat.completion.chunk"
        return isinstance(choices, list) and all(
            isinstance(choice, Mapping) and _said(choice, value) is not None for choice in choices
        )

    @override
    def add(self, value: Mapping[str, Any]) -> None:
        value = _unframed(value)
        for choice in mappings(value["choices"]):
            said = self._choices.setdefault(choice.get("index", 0), [])
            message = _message(choice, value)
            said += [message]
            match said[-2:]:
                case [AIMessageChunk() as before, AIMessageChunk() as chunk]:
                    with suppress(TypeError, ValueError):  # their fields do not fit
                        said[-2:] = [before + chunk]

    @override
    def messages(self) -> Sequence[AIMessage]:
        if len(self._choices) > 1:  # told apart, so that nobody adds them up
            for index, said in self._choices.items():
                said[:] = [m.model_copy(update={"id": f"choice-{index}"}) for m in said]
        found = [m for said in self._choices.values() for m in said if isinstance(m, AIMessage)]
        return found or [AIMessageChunk(content="")]


def _unframed(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The chunk in an event of Mistral's client."""
    data = value.get("data")
    return data if value.keys() == {"data"} and isinstance(data, Mapping) else value


def _said(
    choice: Mapping[str, Any], whole: Mapping[str, Any]
) -> tuple[type[AIMessage], Any] | None:
    """The kind of message that a choice is, and its fields."""
    for name, kind in _FORMS.items():
        if isinstance(said := choice.get(name), Mapping):
            return kind, said
    if whole.get("object") == "text_completion" and isinstance(text := choice.get("text"), str):
        return AIMessageChunk, {"content": text}
    return None


def _message(choice: Mapping[str, Any], whole: Mapping[str, Any]) -> AIMessage:
    found = _said(choice, whole)
    assert found is not None
    kind, said = found
    beside = {k: v for k, v in said.items() if v is not None and k not in ("role", "content")}
    metadata = {name: whole[name] for name in METADATA_TEXTS if whole.get(name) is not None}
    if choice.get("finish_reason") is not None:
        metadata["finish_reason"] = choice["finish_reason"]
    calls: dict[str, Any] = {}
    if kind is AIMessageChunk:
        calls["tool_call_chunks"] = list(map(_call_chunk, mappings(beside.pop("tool_calls", []))))
    return kind(
        content=said.get("content") or "",
        additional_kwargs=beside,
        response_metadata=metadata,
        **calls,
    )


def _call_chunk(call: Mapping[str, Any]) -> ToolCallChunk:
    function = call.get("function") or {}
    return tool_call_chunk(
        name=function.get("name"),
        args=function.get("arguments"),
        id=call.get("id"),
        index=call.get("index"),
    )
