"""`guard_litellm` and `SafetyGuardrail`: the guard for LiteLLM's calls, routers and proxy.

The guardrail is a subclass of a class of LiteLLM's, so importing this adapter imports it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import Any, ClassVar, TypeVar, Unpack, cast

from srr_guard import Guard
from srr_guard.errors import ConfigurationError, MissingExtraError, WithheldError
from srr_guard.formats import openai, responses
from srr_guard.formats.schemas import call_check, schema_check
from srr_guard.formats.shapes import replaced
from srr_guard.wrappers.settings import GuardSettings, guard_from
from srr_guard_integrations.client_parts import (
    Answering,
    Request,
    closed_error,
    given_of,
    require_one_answer,
    without_stream,
)

try:
    import litellm
    from litellm.integrations.custom_guardrail import CustomGuardrail
    from litellm.types.utils import ModelResponse, ModelResponseStream
except ImportError as error:
    raise MissingExtraError(
        package="litellm", extra="litellm", purpose="srr_guard_integrations.litellm"
    ) from error

C = TypeVar("C")


def guard_litellm(target: C, **settings: Unpack[GuardSettings]) -> C:
    """Wrap `litellm.completion`, `litellm.acompletion` or a Router: the best safe answer of n.

    The call is made n times side by side, with your own arguments, past LiteLLM's cache. A Router
    picks a deployment for each candidate. The chosen response is returned with two changes: its
    `usage` is the sum over all candidates, and `srr_guard` on it is the decision as a dict (see
    `Decision.summary`). `_hidden_params`, costs among them, are those of the chosen one.

    A refusal is a response whose finish reason is `content_filter`. An answer that does not fit
    the `response_format`, or calls no tool where one must be called, is a failed candidate.

    With `stream=True` one is selected, then emitted in chunks; the last one carries `srr_guard`.

    Of a Router, `completion` and `acompletion` are guarded, deployments and embeddings pass
    through, and all else raises UnguardedError: `router.unguarded("aresponses")` hands it out,
    which is logged and counted. Callbacks of LiteLLM see each candidate. `num_retries` and
    `SamplingPolicy.attempts` multiply.

    Args:
        target: One of the two functions, one with their arguments and results, or a Router. It is
            not changed.
        settings: Those of `Guard`, or `guard=`, a guard to share (see `GuardSettings`).

    Returns:
        A function, or an object that is used like the Router.

    Raises:
        ConfigurationError: It is neither, or a setting is of the wrong kind.

    Example:
        >>> from srr_guard.testing import FakeScorer
        >>> answers = iter(["a bad answer", "a good answer"])
        >>> def completion(model, messages, **options):
        ...     return litellm.completion(model, messages, mock_response=next(answers))
        >>> scorer = FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1)
        >>> guarded = guard_litellm(completion, n=2, scorer=scorer)
        >>> question = {"role": "user", "content": "How do magnets work?"}
        >>> guarded("gpt-5-mini", [question]).choices[0].message.content
        'a good answer'
    """
    guard = guard_from(settings)
    if callable(getattr(target, "completion", None)) and not inspect.ismodule(target):
        return cast("C", _Router(target, guard))
    if not callable(target):
        raise ConfigurationError(
            f"{target!r} cannot be guarded: give `litellm.completion`, `litellm.acompletion` or a "
            "Router"
        )
    calls = _Calls(target, guard)

    @functools.wraps(target)
    def guarded(model: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return calls.answer(target, {"model": model, "messages": messages, **kwargs})

    if inspect.iscoroutinefunction(inspect.unwrap(target)):

        @functools.wraps(target)
        async def aguarded(model: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return await guarded(model, messages, **kwargs)

        return cast("C", aguarded)
    return cast("C", guarded)


class _Calls(Answering):
    def answer(self, method: Any, arguments: dict[str, Any]) -> Any:
        """Answer by calling this method n times."""
        given = given_of(arguments)
        require_one_answer(given)
        if prompt := given.get("prompt_id"):
            raise ConfigurationError(
                f"prompt_id={prompt!r} stands for turns that LiteLLM fetches, and the scorer must "
                "see what the model sees: give all of them as `messages=`"
            )
        # a cache would give n copies of one answer
        plain = {"cache": {"no-cache": True, "no-store": True}, **without_stream(given)}
        options = given.get("stream_options")
        usage = isinstance(options, Mapping) and bool(options.get("include_usage"))
        request = Request(
            openai.as_conversation(given.get("messages")),
            plain,
            openai.CompletionDelivery(schema_check(given), call_check(given)),
            partial(_chunks, usage=usage) if given.get("stream") else None,
        )
        return self._answer(method, request)


_OPEN = frozenset(
    {
        *("model_list", "model_names", "registry", "get_model_list", "get_model_info"),
        *("set_model_list", "add_deployment", "upsert_deployment", "delete_deployment"),
        *("get_deployment", "discard", "reset", "flush_cache", "get_settings", "update_settings"),
        *("embedding", "aembedding", "arerank", "amoderation"),
    }
)
"""Attributes of a Router that return no model's answer."""


class _Router(_Calls):
    guarded = frozenset({"completion", "acompletion"})
    instead = "`completion` or `acompletion`"

    def completion(self, model: str, messages: Any, **kwargs: Any) -> Any:
        return self.answer(
            self._wrapped.completion, {"model": model, "messages": messages, **kwargs}
        )

    async def acompletion(self, model: str, messages: Any, **kwargs: Any) -> Any:
        return await self.answer(
            self._wrapped.acompletion, {"model": model, "messages": messages, **kwargs}
        )

    def __getattr__(self, name: str) -> Any:
        if name not in _OPEN and callable(super().__getattr__(name)):
            raise closed_error(name, instead=self.instead)
        return super().__getattr__(name)


class SafetyGuardrail(CustomGuardrail):  # type: ignore[misc, unused-ignore]
    """A guardrail of LiteLLM's proxy: each answer must be safe enough, or a refusal goes out.

    In the proxy's configuration, with any settings of the guardrail beside `mode`:

        guardrails:
          - guardrail_name: srr_guard
            litellm_params:
              guardrail: srr_guard_integrations.litellm.SafetyGuardrail
              mode: post_call
              default_on: true
              threshold: 0.5

    It checks one answer of chat completions and of responses; nothing is sampled. The response
    that goes out carries `srr_guard`, the decision as a dict. Where the policy says to raise, the
    client gets status 400. An answer of another endpoint, or one that cannot be scored, ends in
    an error.

    A stream is held until it is complete, then passed on as it came, or replaced by a refusal.

    Args:
        threshold: Lowest `p_safe` that may go out.
        guard: A guard to share, in place of `threshold`.
        options: Those of LiteLLM's `CustomGuardrail`; `event_hook` is `post_call`.

    Raises:
        ConfigurationError: The mode is not `post_call`, or a setting is of the wrong kind.

    Example:
        >>> import asyncio
        >>> from srr_guard.testing import FakeScorer
        >>> guardrail = SafetyGuardrail(guard=Guard(scorer=FakeScorer(lambda *_: 0.1)))
        >>> question = [{"role": "user", "content": "How do magnets work?"}]
        >>> answer = litellm.completion("gpt-5-mini", question, mock_response="a bad answer")
        >>> out = guardrail.async_post_call_success_hook({"messages": question}, None, answer)
        >>> asyncio.run(out).choices[0].message.content
        "I'm sorry, but I can't help with that."
    """

    use_native_lifecycle_hooks: ClassVar[bool] = True

    def __init__(
        self, *, threshold: float | None = None, guard: Guard | None = None, **options: Any
    ) -> None:
        mode = options.setdefault("event_hook", "post_call")
        if mode not in ("post_call", ["post_call"]):
            raise ConfigurationError(
                f"mode={mode!r}: SafetyGuardrail checks answers; set `mode: post_call`"
            )
        options.setdefault("guardrail_name", "srr_guard")
        super().__init__(**options)
        self.guard: Guard = guard_from({"guard": guard, "threshold": threshold})

    async def async_post_call_success_hook(
        self, data: dict[str, Any], user_api_key_dict: Any, response: Any
    ) -> Any:
        """Check a complete answer; the proxy sends what this returns."""
        if getattr(response, "choices", None) is not None and data.get("messages") is not None:
            asked: Any = openai.as_conversation(data["messages"])
            form: Any = openai.CompletionDelivery()
        elif getattr(response, "output", None) is not None and data.get("input") is not None:
            asked, form = responses.as_conversation(data), responses.ResponseDelivery()
        elif type(response).__name__ in _NO_ANSWERS:
            return response
        else:
            raise ConfigurationError(
                f"a response of type {type(response).__name__!r} cannot be checked: "
                "SafetyGuardrail checks chat completions and responses; switch it off for this "
                "endpoint"
            )
        try:
            decision = await self.guard.acheck(asked, response, delivery=form)
        except WithheldError as held:
            raise _bad_request() from held
        return decision.output

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """Hold a stream until it is complete, then pass it on or replace it."""
        chunks = [chunk async for chunk in response]
        if any(choice.index for chunk in chunks for choice in getattr(chunk, "choices", ())):
            raise ConfigurationError("a stream of several answers cannot be checked: leave n out")
        whole = litellm.stream_chunk_builder(chunks, messages=request_data.get("messages"))
        checked = await self.async_post_call_success_hook(request_data, user_api_key_dict, whole)
        passed = checked.srr_guard["chosen"] is not None
        for chunk in chunks if passed else _chunks(checked, usage=False):
            yield chunk


_NO_ANSWERS = frozenset({"EmbeddingResponse", "RerankResponse", "TranscriptionResponse"})


def _chunks(response: ModelResponse, *, usage: bool) -> list[ModelResponseStream]:
    """Split a response into LiteLLM's chunks."""
    made = [chunk.model_dump() for chunk in openai.as_chunks(response, usage=usage)]
    chunks = [ModelResponseStream(**fields) for fields in made]
    chunks[-1] = replaced(chunks[-1], srr_guard=made[-1].get("srr_guard"))
    return chunks


def _bad_request() -> Exception:
    from fastapi import HTTPException  # the proxy is made of it

    return HTTPException(400, "no answer may be passed on")
