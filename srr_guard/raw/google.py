"""Responses of Google's Gemini API, whole or in chunks.

https://ai.google.dev/api/generate-content. Field names may be in either case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage
from typing_extensions import override

from srr_guard.raw.parts import Parts, RawAnswer, mapping, mappings

_RESPONSE = frozenset(
    {
        "candidates",
        "create_time",
        "model_version",
        "model_status",
        "parsed",
        "automatic_function_calling_history",
        "prompt_feedback",
        "response_id",
        "sdk_http_response",
        "usage_metadata",
    }
)
_CANDIDATE = frozenset(
    {
        "content",
        "finish_reason",
        "token_count",
        "avg_logprobs",
        "logprobs_result",
        "index",
        "safety_ratings",
    }
)
_BESIDE = frozenset(
    {"thought", "thought_signature", "media_resolution", "video_metadata", "part_metadata"}
)
"""What stands beside the data of a part."""


class GenerateContentResponse(RawAnswer):
    """A response; each of several candidates is a message of its own."""

    def __init__(self) -> None:
        self._candidates: dict[Any, _Candidate] = {}
        self._id: Any = None

    @classmethod
    @override
    def takes(cls, value: Mapping[str, Any]) -> bool:
        fields = _snake(value)
        if not (isinstance(fields.get("candidates") or [], list) and fields.keys() <= _RESPONSE):
            return False
        given = fields.get("candidates") or []
        if not all(isinstance(candidate, Mapping) for candidate in given):
            return False
        candidates = [_snake(candidate) for candidate in given]
        if not candidates:
            return not fields.keys().isdisjoint({"usage_metadata", "prompt_feedback"})
        return all(
            isinstance(c.get("content"), Mapping) or "finish_reason" in c for c in candidates
        )

    @override
    def begins_another(self, value: Mapping[str, Any]) -> bool:
        new = _snake(value).get("response_id")
        return None not in (self._id, new) and self._id != new

    @override
    def add(self, value: Mapping[str, Any]) -> None:
        fields = _snake(value)
        self._id = fields.get("response_id", self._id)
        feedback = fields.get("prompt_feedback")
        for place, candidate in enumerate(mappings(fields.get("candidates") or [{}])):
            told = _snake(candidate)
            growing = self._candidates.setdefault(told.get("index", place), _Candidate())
            growing.add(told, _snake(feedback) if isinstance(feedback, Mapping) else None)

    @override
    def messages(self) -> Sequence[AIMessage]:
        return [candidate.message() for candidate in self._candidates.values()]


class _Candidate(Parts):
    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._last: Any = None

    def add(self, told: Mapping[str, Any], feedback: Mapping[str, Any] | None) -> None:
        self.note(finish_reason=told.get("finish_reason"), prompt_feedback=feedback)
        self.beside(told, known=_CANDIDATE)
        for part in mappings(mapping(told.get("content", {})).get("parts")):
            self._add_part(_snake(part))

    def _add_part(self, part: Mapping[str, Any]) -> None:
        thought = bool(part.get("thought"))
        match part:
            case {"text": str(text)} if thought:
                self.grow(self._key("thinking"), "thinking", thinking=text)
            case {"text": str(text)}:
                self.grow(self._key("text"), "text", text=text)
            case {"function_call": Mapping() as call}:
                self._add_call(_snake(call))
            case {"executable_code": Mapping() as code}:
                self.begin(self._key(), {"type": "executable_code", **code})
            case {"code_execution_result": Mapping() as result}:
                self.begin(self._key(), {"type": "code_execution_result", **result})
            case {"tool_call": Mapping() as call}:
                self.begin(self._key(), {"type": "server_tool_call", **call})
            case {"tool_response": Mapping() as result}:
                self.begin(self._key(), {"type": "server_tool_result", **result})
            case {"inline_data": _}:
                self.begin(self._key(), {"type": "media"})
            case _ if rest := {k: v for k, v in part.items() if k not in _BESIDE}:
                self.begin(self._key(), {"type": min(rest), **rest})

    def _add_call(self, call: Mapping[str, Any]) -> None:
        """A call, whose arguments may come in pieces by their JSON paths."""
        key = self._key("call" if self._last == "call" and not call.get("name") else None)
        given = dict(mapping(call.get("args", {})))
        named = {"name": call.get("name"), "id": call.get("id")}
        self.begin(key, {"type": "function_call", **named, "arguments": given})
        arguments = self.block(key)["arguments"]
        for piece in map(_snake, mappings(call.get("partial_args"))):
            path = piece.get("json_path")
            for name in ("string_value", "number_value", "bool_value"):
                if name in piece:
                    value = piece[name]
                    old = arguments.get(path)
                    both = isinstance(old, str) and isinstance(value, str)
                    arguments[path] = old + value if both else value
        self._last = "call" if call.get("will_continue") else None

    def _key(self, kind: str | None = None) -> int:
        """The place of the last block if it is of this kind, else of a new one."""
        if kind is None or kind != self._last:
            self._count += 1
        self._last = kind
        return self._count


def _snake(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are given, by their names in snake case."""
    return {
        re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", str(name)): value
        for name, value in fields.items()
        if value is not None
    }
