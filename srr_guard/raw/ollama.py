"""Answers of Ollama's API, whole or in chunks (https://docs.ollama.com/api)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage
from typing_extensions import override

from srr_guard.raw.parts import Parts, RawAnswer, mappings

_MESSAGE = frozenset({"role", "content", "response", "thinking", "tool_calls", "images", "image"})
_CHUNK = frozenset({"model", "created_at", "message", "context", "done", "done_reason", "logprobs"})


class OllamaAnswer(RawAnswer):
    """An answer of `chat` or `generate`."""

    def __init__(self) -> None:
        self._parts = Parts()
        self._calls = 0
        self._done = False

    @classmethod
    @override
    def takes(cls, value: Mapping[str, Any]) -> bool:
        if not {"model", "done"} <= value.keys():
            return False
        return isinstance(value.get("message"), Mapping) or isinstance(value.get("response"), str)

    @override
    def begins_another(self, value: Mapping[str, Any]) -> bool:
        return self._done

    @override
    def add(self, value: Mapping[str, Any]) -> None:
        self._done = bool(value["done"])
        said = value.get("message", value)
        if thought := said.get("thinking"):
            self._parts.grow("thinking", "thinking", thinking=thought)
        if text := said.get("content") or said.get("response"):
            self._parts.grow("text", "text", text=text)
        for call in mappings(said.get("tool_calls")):
            self._calls += 1
            self._parts.begin(self._calls, {"type": "function_call", **call})
        if said.get("images") or said.get("image"):
            self._parts.begin("image", {"type": "image"})
        self._parts.note(finish_reason=value.get("done_reason"))
        self._parts.beside(said, known=_MESSAGE | _CHUNK)
        if said is not value:
            self._parts.beside(value, known=_CHUNK)

    @override
    def messages(self) -> Sequence[AIMessage]:
        return [self._parts.message()]
