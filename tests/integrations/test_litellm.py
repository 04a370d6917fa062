"""LiteLLM's own calls, a Router and the proxy's guardrail hooks, on its mock responses."""

from __future__ import annotations

import asyncio
import doctest
import itertools
import logging
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from adapters import REFUSAL, STRICT, Asked, guard_by_word
from pydantic import BaseModel

from srr_guard import BelowThresholdError
from srr_guard.errors import (
    AllCandidatesFailedError,
    ConfigurationError,
    InvalidInputError,
    ScorerError,
    UnguardedError,
)
from srr_guard.policy import GatePolicy
from srr_guard.testing import FakeGate, FakeScorer

litellm = pytest.importorskip("litellm")
adapter = pytest.importorskip("srr_guard_integrations.litellm")
guard_litellm, SafetyGuardrail = adapter.guard_litellm, adapter.SafetyGuardrail

# pydantic's warnings about LiteLLM's own types
pytestmark = pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning")

ASK = [{"role": "user", "content": "How do magnets work?"}]
USAGE = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}


@pytest.fixture(autouse=True, scope="module")
def loaded() -> None:
    """The first call and the first stream load what would block an event loop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        litellm.completion("gpt-4o", ASK, mock_response="x")
        stream = litellm.completion("gpt-4o", ASK, mock_response="x", stream=True)
        litellm.stream_chunk_builder(list(stream))


def response(said: Any) -> Any:
    message = {"role": "assistant", "content": said} if isinstance(said, str) else said
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return litellm.ModelResponse(id="c", model="m", choices=[choice], usage=USAGE)


def calls(city: str) -> dict[str, Any]:
    function = {"name": "look", "arguments": f'{{"city": "{city}"}}'}
    call = {"id": f"call_{city}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


class Script:
    """Gives the responses of a script to calls of both kinds."""

    def __init__(self, *answers: Any) -> None:
        self._answers = itertools.cycle(answers)
        self.seen: list[dict[str, Any]] = []

    def completion(self, model: str, messages: Any, **kwargs: Any) -> Any:
        self.seen.append(kwargs)
        given = next(self._answers)
        if isinstance(given, Exception):
            raise given
        return response(given)

    async def acompletion(self, model: str, messages: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return self.completion(model, messages, **kwargs)


def guarded(*answers: Any, **settings: Any) -> Any:
    return guard_litellm(Script(*answers).completion, guard=guard_by_word(**settings))


def aguarded(*answers: Any, **settings: Any) -> Any:
    return guard_litellm(Script(*answers).acompletion, guard=guard_by_word(**settings))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"n": 2}, "n=2"),
        ({"extra_body": {"n": 2}}, "n=2"),
        ({"extra_body": {"messages": ASK}}, "'messages' in extra_body"),
        ({"extra_body": {"stream": True}}, "'stream' in extra_body"),
        ({"prompt_id": "p", "prompt_variables": {"x": 1}}, "prompt_id='p'"),
    ],
)
def test_what_is_asked_beside_the_arguments_is_refused(given, match):
    with pytest.raises(ConfigurationError, match=match):
        guarded("good")("m", ASK, **given)


class City(BaseModel):
    name: str
    people: int


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


class TestCalls:
    def test_sync(self):
        script = Script("bad", "good")
        made = guard_litellm(script.completion, guard=guard_by_word())("m", ASK, temperature=1)
        assert isinstance(made, litellm.ModelResponse)
        assert made.choices[0].message.content == "good"
        assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (20, 4)
        assert made.srr_guard["reason"] == "best_of_n"
        assert made.srr_guard["chosen_usage"]["prompt_tokens"] == 10
        assert all(call["temperature"] == 1 for call in script.seen)
        assert all(call["cache"]["no-cache"] for call in script.seen)

    async def test_async(self):
        call = aguarded("bad", "good")
        made = await asyncio.gather(*(call(model="m", messages=ASK) for _ in range(3)))
        assert {m.choices[0].message.content for m in made} <= {"good", REFUSAL}

    async def test_the_functions_of_litellm_themselves(self):
        shared = guard_by_word()
        made = guard_litellm(litellm.completion, guard=shared)("gpt-4o", ASK, mock_response="good")
        assert made.choices[0].message.content == "good"
        acompletion = guard_litellm(litellm.acompletion, guard=shared)
        assert asyncio.iscoroutinefunction(acompletion)
        made = await acompletion("gpt-4o", ASK, mock_response="bad")
        assert made.choices[0].message.content == REFUSAL

    def test_past_the_cache(self, monkeypatch):
        monkeypatch.setattr(litellm, "cache", litellm.Cache(type="local"))
        first = litellm.completion("gpt-4o", ASK, mock_response="bad", caching=True)
        made = guard_litellm(litellm.completion, guard=guard_by_word())(
            "gpt-4o", ASK, mock_response="good", caching=True
        )
        assert first.choices[0].message.content == "bad"
        assert made.choices[0].message.content == "good"

    def test_refusal(self):
        made = guarded({"role": "assistant", "content": "bad", "reasoning_content": "t"})("m", ASK)
        message = made.choices[0].message
        assert message.content == REFUSAL
        assert made.choices[0].finish_reason == "content_filter"
        assert getattr(message, "reasoning_content", None) is None

    def test_strict(self):
        with pytest.raises(BelowThresholdError):
            guarded("bad", decision=STRICT)("m", ASK)

    def test_a_scorer_that_fails_lets_nothing_pass(self):
        broken = FakeScorer(lambda *_: 0.9, error=RuntimeError("broken"))
        with pytest.raises(ScorerError):
            guarded("good", scorer=broken)("m", ASK)

    def test_tools(self):
        made = guarded(calls("bad"), calls("good"))("m", ASK, tools=TOOLS)
        (call,) = made.choices[0].message.tool_calls
        assert (call.id, call.function.arguments) == ("call_good", '{"city": "good"}')

    def test_a_call_of_a_tool_that_was_not_given_is_a_failed_candidate(self):
        made_up = calls("good")
        made_up["tool_calls"][0]["function"]["name"] = "look_up"
        made = guarded(made_up, calls("good"))("m", ASK, tools=TOOLS)
        assert made.choices[0].message.tool_calls[0].function.name == "look"
        assert made.srr_guard["failed"] == 1

    def test_where_a_tool_must_be_called(self):
        made = guarded("good", calls("good"))("m", ASK, tools=TOOLS, tool_choice="required")
        assert made.choices[0].message.tool_calls
        assert made.srr_guard["failed"] == 1

    def test_structured_output(self):
        good = City(name="good", people=1).model_dump_json()
        made = guarded('{"name": "good"}', good)("m", ASK, response_format=City)
        assert City.model_validate_json(made.choices[0].message.content).people == 1
        assert made.srr_guard["failed"] == 1

    def test_errors(self):
        made = guarded(ValueError("x"), "good")("m", ASK)
        assert made.srr_guard["reason"] == "fallback"
        with pytest.raises(AllCandidatesFailedError) as caught:
            guarded(TimeoutError("x"))("m", ASK)
        assert isinstance(caught.value, TimeoutError)
        with pytest.raises(ConfigurationError, match="several answers"):
            guarded("good")("m", ASK, n=3)
        with pytest.raises(InvalidInputError):
            guarded("good")("m", "text")
        with pytest.raises(ConfigurationError, match="Router"):
            guard_litellm(object())


class TestStreams:
    def test_sync(self):
        chunks = list(guarded("bad", "good")("m", ASK, stream=True))
        assert all(isinstance(chunk, litellm.ModelResponseStream) for chunk in chunks)
        whole = litellm.stream_chunk_builder(chunks)
        assert whole.choices[0].message.content == "good"
        assert chunks[-1].srr_guard["sampled"] == 2

    def test_tools_and_usage(self):
        call = guarded(calls("bad"), calls("good"))
        chunks = list(call("m", ASK, tools=TOOLS, stream=True, stream_options={"include_usage": 1}))
        whole = litellm.stream_chunk_builder(chunks)
        assert whole.choices[0].message.tool_calls[0].function.arguments == '{"city": "good"}'
        assert whole.usage.completion_tokens == 4

    async def test_async(self):
        stream = await aguarded("bad", "good")("m", ASK, stream=True)
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.content == "good"


class TestRouter:
    @pytest.fixture
    def router(self):
        def deployment(answer: str) -> dict[str, Any]:
            params = {"model": "gpt-4o", "api_key": "x", "mock_response": answer}
            return {"model_name": "m", "litellm_params": params}

        return litellm.Router(model_list=[deployment("bad answer"), deployment("good answer")])

    def test_sync(self, router):
        ours = guard_litellm(router, guard=guard_by_word(n=16))
        made = ours.completion("m", ASK)
        assert made.choices[0].message.content in ("good answer", REFUSAL)
        assert made.srr_guard["sampled"] == 16
        assert isinstance(ours, litellm.Router)

    async def test_async(self, router):
        ours = guard_litellm(router, guard=guard_by_word(n=16))
        made = await ours.acompletion(model="m", messages=ASK)
        assert made.choices[0].message.content in ("good answer", REFUSAL)

    def test_what_is_closed(self, router, caplog):
        shared = guard_by_word()
        ours = guard_litellm(router, guard=shared)
        for name in ("aresponses", "atext_completion", "aanthropic_messages", "agenerate_content"):
            with pytest.raises(UnguardedError, match="acompletion"):
                getattr(ours, name)
        assert ours.registry == router.registry
        with caplog.at_level(logging.WARNING, logger="srr_guard"):
            assert ours.unguarded("aresponses") == router.aresponses
        assert shared.bypasses == 1


class TestGuardrail:
    def guardrail(self, **settings: Any) -> Any:
        return SafetyGuardrail(
            guardrail_name="srr", default_on=True, guard=guard_by_word(**settings)
        )

    async def check(self, said: Any, **settings: Any) -> Any:
        data = {"messages": ASK}
        return await self.guardrail(**settings).async_post_call_success_hook(
            data, None, response(said)
        )

    async def test_passes(self):
        made = await self.check("good")
        assert made.choices[0].message.content == "good"
        assert made.srr_guard["p_safe"] == 0.9

    async def test_refuses(self):
        made = await self.check("bad")
        assert made.choices[0].message.content == REFUSAL

    async def test_a_tool_call_is_kept(self):
        made = await self.check(calls("good"))
        assert made.choices[0].message.tool_calls[0].id == "call_good"

    async def test_strict_is_a_bad_request(self):
        from fastapi import HTTPException

        with pytest.raises(HTTPException) as caught:
            await self.check("bad", decision=STRICT)
        assert caught.value.status_code == 400

    async def test_a_prompt_that_the_gate_refuses_is_a_bad_request(self):
        from fastapi import HTTPException

        gate = {"gate": FakeGate(lambda _: 0.9), "gating": GatePolicy(refuse_above=0.8)}
        with pytest.raises(HTTPException) as caught:
            await self.check("good", decision=STRICT, **gate)
        assert caught.value.status_code == 400

    async def test_a_scorer_that_fails(self):
        with pytest.raises(ScorerError):
            await self.check("good", scorer=FakeScorer(lambda *_: 1, error=RuntimeError("x")))

    async def test_responses(self):
        scorer = Asked()
        part = {"type": "output_text", "text": "bad", "annotations": []}
        message = {"type": "message", "role": "assistant", "content": [part]}
        given = SimpleNamespace(output=[message], status="completed")
        made = await self.guardrail(scorer=scorer).async_post_call_success_hook(
            {"input": "a question", "instructions": "Be brief."}, None, given
        )
        assert REFUSAL in repr(made.output)
        assert scorer.turns == [("system", "Be brief."), ("user", "a question")]

    async def test_other_endpoints(self):
        guardrail = self.guardrail()
        embedding = litellm.EmbeddingResponse()
        assert await guardrail.async_post_call_success_hook({}, None, embedding) is embedding
        text = litellm.TextCompletionResponse()
        with pytest.raises(ConfigurationError, match="TextCompletionResponse"):
            await guardrail.async_post_call_success_hook({"prompt": "q"}, None, text)

    @pytest.mark.parametrize(("said", "sent"), [("a good one", "a good one"), ("bad", REFUSAL)])
    async def test_streams(self, said, sent):
        stream = await litellm.acompletion("gpt-4o", ASK, mock_response=said, stream=True)
        hook = self.guardrail().async_post_call_streaming_iterator_hook
        chunks = [chunk async for chunk in hook(None, stream, {"messages": ASK})]
        assert litellm.stream_chunk_builder(chunks).choices[0].message.content == sent
        assert len(chunks) > 1

    def test_modes(self):
        with pytest.raises(ConfigurationError, match="post_call"):
            SafetyGuardrail(guardrail_name="srr", event_hook="pre_call")
        made = SafetyGuardrail(
            guardrail_name="srr", event_hook="post_call", default_on=True, threshold=0.7
        )
        assert made.guard.decision.threshold == 0.7

    @pytest.mark.may_block  # the proxy does, on its first call
    async def test_in_the_proxy(self, monkeypatch):
        """The proxy's own code runs the guardrail and sends what it returns."""
        pytest.importorskip("litellm.proxy.proxy_server", exc_type=ImportError)
        utils = pytest.importorskip("litellm.proxy.utils")
        auth = pytest.importorskip("litellm.proxy._types").UserAPIKeyAuth()
        monkeypatch.setattr(litellm, "callbacks", [self.guardrail()])
        proxy = utils.ProxyLogging(user_api_key_cache=litellm.DualCache())
        data = {"messages": ASK, "model": "m", "metadata": {}}
        made = await proxy.post_call_success_hook(data, response("bad"), auth)
        assert made.choices[0].message.content == REFUSAL
        stream = await litellm.acompletion("gpt-4o", ASK, mock_response="bad", stream=True)
        sent = proxy.async_post_call_streaming_iterator_hook(stream, auth, data)
        chunks = [chunk async for chunk in sent]
        assert litellm.stream_chunk_builder(chunks).choices[0].message.content == REFUSAL


def test_docstring():
    assert doctest.testmod(adapter).failed == 0
