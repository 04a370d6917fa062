"""A chat completion as the chunks by which the API streams it, as plain dicts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

_REASONING = ("reasoning_content", "reasoning")
_COMMON = ("system_fingerprint", "service_tier")


def completion_chunks(completion: Mapping[str, Any], *, usage: bool) -> list[dict[str, Any]]:
    """Split a completion: role, reasoning, text, each tool call, the rest, the end, the usage.

    The last chunk carries the decision, in `srr_guard`.

    Args:
        completion: Of one choice, as JSON-like values.
        usage: Add a chunk with the usage and no choice; the others have `usage: null` then.
    """
    choice = completion["choices"][0]
    common = {
        "id": completion.get("id") or "",
        "object": "chat.completion.chunk",
        "created": completion.get("created") or int(time.time()),
        "model": completion.get("model") or "",
        **{name: completion[name] for name in _COMMON if completion.get(name) is not None},
    }
    if usage:
        common["usage"] = None
    made = [_chunk(common, delta) for delta in _deltas(choice["message"])]
    if choice.get("logprobs") is not None:
        made[0]["choices"][0]["logprobs"] = choice["logprobs"]
    made.append(_chunk(common, {}, finish=choice.get("finish_reason")))
    if usage and completion.get("usage") is not None:
        made.append({**common, "choices": [], "usage": completion["usage"]})
    if completion.get("srr_guard") is not None:
        made[-1]["srr_guard"] = completion["srr_guard"]
    return made


def _deltas(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": ""}
    rest = {k: v for k, v in message.items() if k != "role" and v is not None}
    for name in _REASONING:
        if name in rest:
            yield {name: rest.pop(name)}
    content, calls = rest.pop("content", None), rest.pop("tool_calls", None)
    if content:
        yield {"content": content}
    for index, call in enumerate(calls or []):
        yield {"tool_calls": [{"index": index, **call}]}
    if rest:
        yield rest


def _chunk(common: dict[str, Any], delta: Any, *, finish: Any = None) -> dict[str, Any]:
    return {**common, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
