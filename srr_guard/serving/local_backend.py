"""The model on this machine as the one that answers."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage, convert_to_messages

from srr_guard.conversation import Conversation
from srr_guard.core import Guard
from srr_guard.core.in_flight import CallLimit
from srr_guard.errors import ConfigurationError, InvalidInputError
from srr_guard.formats.responses import as_conversation
from srr_guard.local.chat_model import LocalChatModel
from srr_guard.policy import SamplingPolicy
from srr_guard.protocols import CandidateSource, CutOff
from srr_guard.serving.backends import LIMIT_FIELDS, Door, varied
from srr_guard.serving.config import LocalConfig
from srr_guard.serving.health import Caller
from srr_guard.threads import blocking_calls

_FOLLOWED = frozenset(
    {"model", "messages", "input", "instructions", "response_format", "text", "stop"}
    | {"temperature", "top_p", "seed", "tools", "tool_choice"}
    | {name for names in LIMIT_FIELDS.values() for name in names}
)
_OF_NO_EFFECT = frozenset(
    {"user", "metadata", "safety_identifier", "service_tier", "prediction"}
    | {"prompt_cache_key", "prompt_cache_retention"}
)
"""Fields that change no answer."""
_DEFAULTS: Mapping[str, Sequence[Any]] = {
    "parallel_tool_calls": [True],
    "truncation": ["disabled"],
    "modalities": [["text"]],
    "verbosity": ["medium"],
    "function_call": ["none", "auto"],
    "frequency_penalty": [0],
    "presence_penalty": [0],
    "top_logprobs": [0],
    **{key: [False] for key in ("store", "background", "logprobs")},
    **{key: [[]] for key in ("include", "functions")},
    **{key: [{}] for key in ("logit_bias", "reasoning")},
}
"""Values of other fields that ask for nothing special."""


class LocalBackend:
    """The model on this machine answers, n times in one call.

    Options that it cannot follow are refused.
    """

    def __init__(self, config: LocalConfig, model: Any = None) -> None:
        self._config = config
        self._model = model or LocalChatModel(
            model=config.model,
            file=config.file,
            revision=config.revision,
            device=config.device,
            dtype=config.dtype,
            max_new_tokens=config.max_new_tokens,
        )

    def require_ready(self, body: Mapping[str, Any], caller: Caller) -> None:
        """Refuse what the model cannot be asked for."""
        for name in ("response_format", "text"):
            wanted = body.get(name)
            inner = wanted.get("format", wanted) if isinstance(wanted, Mapping) else None
            if isinstance(inner, Mapping) and inner.get("type") not in (None, "text"):
                raise ConfigurationError(
                    f"the local model cannot be held to a schema ({name}={inner.get('type')!r}): "
                    "leave it out, or serve an upstream that can"
                )
        for name, value in body.items():
            known = value is None or name in _FOLLOWED | _OF_NO_EFFECT
            if not known and value not in _DEFAULTS.get(name, ()):
                raise ConfigurationError(
                    f"the local model cannot follow {name}={value!r:.60}: leave it out, or serve "
                    "an upstream that can"
                )
        for name in ("temperature", "top_p"):
            _require(body, name, "a number", (int, float))
        _require(body, "seed", "a whole number", int)
        _require(body, "tools", "a list", list)
        _require(body, "stop", "a str or a list of them", (str, list))

    def plan(self, body: Mapping[str, Any], sampling: SamplingPolicy) -> SamplingPolicy:
        """One candidate where the temperature is 0: all would be equal."""
        if body.get("temperature") != 0 or sampling.temperatures is not None:
            return sampling
        one = {"n": 1, "initial": 1, "min_candidates": 1, "accept_at": None}
        return sampling.model_copy(update=one)

    def source(
        self,
        door: Door,
        body: Mapping[str, Any],
        *,
        guard: Guard,
        asked: Conversation,
        limit: CallLimit,
        output_tokens: int | None,
        headers: Mapping[str, str],
        caller: Caller,
    ) -> CandidateSource[Any]:
        """All candidates in one call."""
        most = min(output_tokens or self._config.max_new_tokens, self._config.max_new_tokens)
        config = self._config.model_copy(update={"max_new_tokens": most})
        return _LocalSource(self._model, config, door, body, guard, asked, limit)

    async def models(self) -> list[dict[str, Any]]:
        """The one model."""
        name = self._config.name
        return [{"id": name, "object": "model", "created": 0, "owned_by": "srr_guard"}]

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Nothing is opened."""
        yield


@dataclass(frozen=True)
class _LocalSource:
    model: Any
    config: LocalConfig
    door: Door
    body: Mapping[str, Any]
    guard: Guard
    asked: Conversation
    limit: CallLimit

    @property
    def batches(self) -> bool:
        policy = self.guard.sampling
        varies = policy.temperatures or policy.system_prompts or policy.seed is not None
        return not varies and policy.batched == "auto"

    def sample(self, indices: Sequence[int]) -> Sequence[Any]:
        raise ConfigurationError("the gateway makes candidates as tasks only: use `adecide`")

    async def asample(self, indices: Sequence[int]) -> Sequence[Any]:
        body = varied(self.door, self.body, self.guard.sampling, indices[0])
        messages, options = _local_request(self.door, body, self.config)
        cut = None
        if self.guard.sampling.cut_below is not None:
            cut = await blocking_calls.run(self.guard.early_cut, self.asked)
            options |= {} if cut is None else {"cut": cut}
        async with self.limit.aplace():
            answers = await self.model.asample_candidates(messages, len(indices), **options)
        shape = _completion if self.door == "/chat/completions" else _response
        made = [shape(answer, self.config.name) for answer in answers]
        cuts = [_ended(answer) == "cut" for answer in answers]
        return [CutOff(one) if was else one for one, was in zip(made, cuts, strict=True)]


def _local_request(
    door: Door, body: Mapping[str, Any], config: LocalConfig
) -> tuple[list[BaseMessage], dict[str, Any]]:
    """Messages and options for `asample_candidates`."""
    if door == "/chat/completions":
        try:
            messages = convert_to_messages(body["messages"])
        except (ValueError, NotImplementedError, TypeError, KeyError) as error:
            raise InvalidInputError(f"messages cannot be read: {error}") from error
    else:
        turns = as_conversation(body).turns
        pairs = [
            ToolMessage(turn.text, tool_call_id="")
            if turn.role == "tool"
            else (turn.role, turn.text)
            for turn in turns
        ]
        messages = convert_to_messages(pairs)
    options: dict[str, Any] = {}
    asked = [body[name] for name in LIMIT_FIELDS[door] if body.get(name) is not None]
    options["max_new_tokens"] = min([*asked, config.max_new_tokens])
    for name in ("temperature", "top_p", "seed"):
        if body.get(name) is not None:
            options[name] = body[name]
    stop = body.get("stop")
    if stop is not None:
        options["stop"] = [stop] if isinstance(stop, str) else list(stop)
    tools = [_tool(tool) for tool in body.get("tools") or []]
    if tools:
        options |= {"tools": tools, "tool_choice": body.get("tool_choice")}
    return messages, options


def _require(body: Mapping[str, Any], name: str, wanted: str, kinds: Any) -> None:
    value = body.get(name)
    if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
        raise InvalidInputError(f"{name}={value!r:.60} cannot be used: give {wanted}")


def _tool(tool: Any) -> dict[str, Any]:
    """A function in the form of chat completions; the Responses API has it flat."""
    if not isinstance(tool, Mapping) or tool.get("type") != "function":
        kind = tool.get("type") if isinstance(tool, Mapping) else type(tool).__name__
        raise ConfigurationError(f"the local model has no tool of type {kind!r}: give functions")
    if isinstance(tool.get("function"), Mapping):
        return dict(tool)
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


def _calls(answer: AIMessage) -> list[tuple[str, str, str]]:
    """Id, name and arguments of each call."""
    valid = [(c["id"], c["name"], json.dumps(c["args"])) for c in answer.tool_calls]
    invalid = [(c["id"], c["name"], c["args"]) for c in answer.invalid_tool_calls]
    return [(i or _id("call"), name or "", args or "") for i, name, args in [*valid, *invalid]]


def _completion(answer: AIMessage, model: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
    calls = [
        {"id": i, "type": "function", "function": {"name": name, "arguments": args}}
        for i, name, args in _calls(answer)
    ]
    finish = {"length": "length", "cut": "content_filter"}.get(_ended(answer), "stop")
    if calls:
        message["tool_calls"] = calls
        finish = "tool_calls"
    usage = _counts(answer)
    return {
        "id": _id("chatcmpl"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": {
            "prompt_tokens": usage[0],
            "completion_tokens": usage[1],
            "total_tokens": sum(usage),
        },
    }


def _response(answer: AIMessage, model: str) -> dict[str, Any]:
    output: list[dict[str, Any]] = []
    if answer.text:
        part = {"type": "output_text", "text": answer.text, "annotations": []}
        said = {"type": "message", "role": "assistant", "status": "completed", "content": [part]}
        output.append({"id": _id("msg"), **said})
    output += [
        {
            "id": _id("fc"),
            "type": "function_call",
            "call_id": i,
            "name": name,
            "arguments": args,
            "status": "completed",
        }
        for i, name, args in _calls(answer)
    ]
    why = {"length": "max_output_tokens", "cut": "content_filter"}.get(_ended(answer))
    usage = _counts(answer)
    return {
        "id": _id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "model": model,
        "status": "incomplete" if why else "completed",
        "incomplete_details": {"reason": why} if why else None,
        "error": None,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": usage[0],
            "output_tokens": usage[1],
            "total_tokens": sum(usage),
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }


def _ended(answer: AIMessage) -> str:
    """Why an answer ended: `stop`, `length`, `cut`."""
    return str(answer.response_metadata.get("finish_reason"))


def _counts(answer: AIMessage) -> tuple[int, int]:
    usage = answer.usage_metadata
    return (usage["input_tokens"], usage["output_tokens"]) if usage else (0, 0)


def _id(kind: str) -> str:
    return f"{kind}{'-' if kind == 'chatcmpl' else '_'}{secrets.token_hex(12)}"
