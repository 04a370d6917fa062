"""What OpenAI's client and its like give, as LangChain's messages: a completion, or its chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, ToolCallChunk
from langchain_core.messages.tool import tool_call_chunk
from pydantic import BaseModel

from srr_guard.blocks import METADATA_TEXTS

_FORMS: dict[str, type[AIMessage]] = {"message": AIMessage, "delta": AIMessageChunk}


def raw_message(value: Any) -> AIMessage | None:
    """The message of a chat completion, the chunk of a chunk; None for anything else.

    Args:
        value: An object or a dict. Of several choices none is the answer.

    Example:
        >>> raw_message({"choices": [{"message": {"role": "assistant", "content": "hi"}}]}).content
        'hi'
    """
    if not isinstance(value, (BaseModel, Mapping)):
        return None
    if isinstance(value, BaseModel) and "choices" not in type(value).model_fields:
        return None
    choices, kind = _field(value, "choices"), _field(value, "object")
    if choices == [] and kind == "chat.completion.chunk":  # the last one, with the usage
        return AIMessageChunk(content="")
    if not isinstance(choices, list) or len(choices) != 1:
        return None
    said = (_field(choices[0], name) for name in _FORMS)
    if not any(isinstance(one, (BaseModel, Mapping)) for one in said):
        return None  # some other object that has one choice
    if isinstance(value, BaseModel):  # no warnings: providers fill the fields as they like
        value = value.model_dump(mode="json", exclude_none=True, warnings=False)
    (choice,) = value.get("choices") or [{}]
    for name, kind in _FORMS.items():
        if isinstance(choice, Mapping) and isinstance(choice.get(name), Mapping):
            return _message(kind, choice[name], choice, value)
    return None


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _message(
    kind: type[AIMessage], said: Mapping[str, Any], choice: Mapping[str, Any], whole: Any
) -> AIMessage:
    beside = {k: v for k, v in said.items() if v is not None and k not in ("role", "content")}
    metadata = {name: whole[name] for name in METADATA_TEXTS if whole.get(name) is not None}
    calls: dict[str, Any] = {}
    if kind is AIMessageChunk:
        calls["tool_call_chunks"] = list(map(_call_chunk, beside.pop("tool_calls", [])))
    else:
        metadata["finish_reason"] = choice.get("finish_reason")
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
