"""Where the answers come from; here: servers. `local_backend.py` has the local model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

from srr_guard.conversation import Conversation
from srr_guard.core import Guard
from srr_guard.core.in_flight import CallLimit
from srr_guard.errors import ConfigurationError, UpstreamError
from srr_guard.policy import SamplingPolicy
from srr_guard.protocols import AnswerWatch, CandidateSource, CutOff
from srr_guard.serving.health import Caller
from srr_guard.serving.upstreams import Upstreams
from srr_guard.threads import blocking_calls

Door = Literal["/chat/completions", "/responses"]

LIMIT_FIELDS: Mapping[Door, tuple[str, ...]] = {
    "/chat/completions": ("max_completion_tokens", "max_tokens"),
    "/responses": ("max_output_tokens",),
}
"""Fields by which a request limits the tokens of an answer."""


class Backend(Protocol):
    """Answers requests; one for all of them."""

    def require_ready(self, body: Mapping[str, Any], caller: Caller) -> None:
        """Refuse a request that cannot be answered, before anything is generated."""
        ...

    def plan(self, body: Mapping[str, Any], sampling: SamplingPolicy) -> SamplingPolicy:
        """The sampling policy of this request."""
        ...

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
        """Makes the candidates of one request, as answers of this door.

        Args:
            door: Where the request came.
            body: What it asks for.
            guard: Says how candidates differ, and follows them where they are to be cut off.
            asked: The body as the scorer sees it.
            limit: Places for calls.
            output_tokens: Most tokens of an answer, where the body says nothing; None: no limit.
            headers: Go on to servers.
            caller: Who asks.
        """
        ...

    async def models(self) -> list[dict[str, Any]]:
        """The models that may be asked for."""
        ...

    def opened(self) -> Any:
        """An async context manager around the time in which requests come."""
        ...


class UpstreamBackend:
    """Servers answer."""

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams

    def require_ready(self, body: Mapping[str, Any], caller: Caller) -> None:
        """Refuse a model that no server has, and all models while no server answers."""
        self._upstreams.require_one(body.get("model"), caller)

    def plan(self, body: Mapping[str, Any], sampling: SamplingPolicy) -> SamplingPolicy:
        """The policy as it is."""
        return sampling

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
        """One call per candidate."""
        return _UpstreamSource(
            self._upstreams, door, body, guard, asked, limit, output_tokens, headers, caller
        )

    async def models(self) -> list[dict[str, Any]]:
        """The models of all servers."""
        return await self._upstreams.models()

    def opened(self) -> Upstreams:
        """The servers themselves."""
        return self._upstreams


@dataclass(frozen=True)
class _UpstreamSource:
    upstreams: Upstreams
    door: Door
    body: Mapping[str, Any]
    guard: Guard
    asked: Conversation
    limit: CallLimit
    output_tokens: int | None
    headers: Mapping[str, str]
    caller: Caller
    batches: bool = False

    def sample(self, indices: Sequence[int]) -> Sequence[Any]:
        raise ConfigurationError("the gateway makes candidates as tasks only: use `adecide`")

    async def asample(self, indices: Sequence[int]) -> Sequence[Any]:
        sampling = self.guard.sampling
        body = varied(self.door, self.body, sampling, indices[0])
        async with self.limit.aplace():
            answer = await self.upstreams.post(
                self.door,
                body,
                self.headers,
                self.caller,
                output_tokens=self.output_tokens,
                watching=self._watching if self._streams else None,
            )
        if isinstance(answer, CutOff):
            return [CutOff(self._as_asked(answer.output))]
        return [self._as_asked(answer)]

    def _as_asked(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The answer without what a server repeats of the operator's system prompts."""
        own = cleaned(self.door, answer)
        if "instructions" in own:
            own["instructions"] = self.body.get("instructions")
        return own

    @property
    def _streams(self) -> bool:
        """Answers are streamed to be cut off; sound, which nothing cuts, has another form then."""
        return self.guard.sampling.cut_below is not None and not self.body.get("audio")

    async def _watching(self, *, trace: bool = False) -> AnswerWatch:
        return await blocking_calls.run(partial(self.guard.watch, self.asked, trace=trace))


_COMPLETION = ("id", "created", "model", "usage", "service_tier", "system_fingerprint")
_RESPONSE = (
    *("id", "object", "created_at", "completed_at", "model", "status", "error", "output", "usage"),
    *("incomplete_details", "instructions", "max_output_tokens", "metadata", "parallel_tool_calls"),
    *("reasoning", "service_tier", "store", "temperature", "text", "tool_choice", "tools"),
    *("top_p", "truncation", "user", "background", "previous_response_id", "max_tool_calls"),
)


def cleaned(door: Door, answer: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a server's answer that are scored, or known to hold nothing of the model's.

    Raises:
        UpstreamError: It has no form that can be read; another attempt may help.
    """
    if door == "/responses":
        return {name: answer[name] for name in _RESPONSE if name in answer}
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(choice, Mapping) or not isinstance(message, Mapping):
        raise UpstreamError("a server gave a completion without a message", status=502)
    content, calls = message.get("content"), message.get("tool_calls") or []
    parts = content if isinstance(content, list) else []
    if not (
        isinstance(content, str | list | None)
        and all(isinstance(part, str | Mapping) for part in parts)
        and isinstance(calls, list)
        and all(isinstance(call, Mapping) for call in calls)
    ):
        raise UpstreamError("a server gave a message that cannot be read", status=502)
    kept = {k: v for k, v in message.items() if k not in ("parsed", "srr_guard")}
    return {
        **{name: answer[name] for name in _COMPLETION if name in answer},
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {**kept, "role": "assistant"},
                "finish_reason": choice.get("finish_reason") or "stop",
                "logprobs": choice.get("logprobs"),
            }
        ],
    }


def varied(
    door: Door, body: Mapping[str, Any], sampling: SamplingPolicy, index: int
) -> dict[str, Any]:
    """The body for one candidate: with its temperature, seed and system prompt."""
    changed = dict(body)
    if sampling.temperatures is not None:
        changed["temperature"] = sampling.temperatures[index % len(sampling.temperatures)]
    if sampling.seed is not None:
        changed["seed"] = sampling.seed + index
    prompts = sampling.system_prompts or (None,)
    prompt = prompts[index % len(prompts)]
    if prompt is not None and door == "/responses":
        own = changed.get("instructions")
        changed["instructions"] = f"{own}\n\n{prompt}" if own else prompt
    elif prompt is not None:
        changed["messages"] = _with_system_prompt(changed["messages"], prompt)
    return changed


def _with_system_prompt(messages: Sequence[Any], prompt: str) -> list[Any]:
    first = messages[0] if isinstance(messages[0], Mapping) else {}
    if first.get("role") in ("system", "developer") and isinstance(first.get("content"), str):
        return [{**first, "content": f"{first['content']}\n\n{prompt}"}, *messages[1:]]
    return [{"role": "system", "content": prompt}, *messages]
