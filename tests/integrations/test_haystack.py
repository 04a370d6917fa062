"""Components, pipelines and agents of Haystack on its mock generator, guarded."""

from __future__ import annotations

import doctest
import itertools
import logging
from typing import Any

import pytest
from adapters import REFUSAL, STRICT, Asked, guard_by_word

from srr_guard import BelowThresholdError, DecisionPolicy, SamplingPolicy
from srr_guard.errors import AllCandidatesFailedError, ConfigurationError, ScorerError
from srr_guard.testing import FakeScorer

pytest.importorskip("haystack")

import srr_guard_integrations.haystack as adapter
from haystack import Pipeline, component
from haystack.components.agents import Agent
from haystack.components.builders import ChatPromptBuilder
from haystack.components.generators.chat import MockChatGenerator
from haystack.dataclasses import ChatMessage, ImageContent, ToolCall
from haystack.tools import Tool
from srr_guard_integrations.haystack import SafetyRankedChatGenerator

ASK = [ChatMessage.from_user("a question")]
USAGE = {"prompt_tokens": 10, "completion_tokens": 2}


@component
class Script:
    """A chat generator that gives the replies of a script: texts, messages or errors."""

    def __init__(self, *replies: Any) -> None:
        self._replies = itertools.cycle(replies)
        self.seen: list[dict[str, Any]] = []

    @component.output_types(replies=list[ChatMessage])
    def run(
        self,
        messages: list[ChatMessage],
        generation_kwargs: dict[str, Any] | None = None,
        tools: Any = None,
    ) -> dict[str, Any]:
        self.seen.append({"generation_kwargs": generation_kwargs, "tools": tools})
        given = next(self._replies)
        if isinstance(given, Exception):
            raise given
        if isinstance(given, str):
            given = ChatMessage.from_assistant(given, meta={"usage": dict(USAGE)})
        return {"replies": [given]}


def guarded(*replies: Any, **settings: Any) -> SafetyRankedChatGenerator:
    return SafetyRankedChatGenerator(Script(*replies), guard=guard_by_word(**settings))


def calls(city: str) -> ChatMessage:
    return ChatMessage.from_assistant(tool_calls=[ToolCall("look", {"city": city}, id=city)])


looked: list[str] = []
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
LOOK = Tool(
    name="look",
    description="Look.",
    parameters=SCHEMA,
    function=lambda city: looked.append(city) or "sunny",
)


class TestRun:
    def test_sync(self):
        (reply,) = guarded("bad", "good").run(ASK)["replies"]
        assert reply.text == "good"
        assert reply.meta["usage"] == {"prompt_tokens": 20, "completion_tokens": 4}
        assert reply.meta["srr_guard"]["reason"] == "best_of_n"
        assert guarded("bad", "good").run("a question")["replies"][0].text == "good"

    async def test_async(self):
        for model in (Script("bad", "good"), MockChatGenerator(["bad", "good"])):
            generator = SafetyRankedChatGenerator(model, guard=guard_by_word())
            assert (await generator.run_async(ASK))["replies"][0].text == "good"

    def test_in_a_pipeline(self):
        pipeline = Pipeline()
        pipeline.add_component("prompt", ChatPromptBuilder([ChatMessage.from_user("{{ q }}")]))
        pipeline.add_component("llm", guarded("bad", "good"))
        pipeline.connect("prompt", "llm")
        assert pipeline.run({"prompt": {"q": "why"}})["llm"]["replies"][0].text == "good"

    async def test_in_a_pipeline_run_async(self):
        pipeline = Pipeline()
        pipeline.add_component("llm", guarded("bad", "good"))
        made = await pipeline.run_async({"llm": {"messages": ASK}})
        assert made["llm"]["replies"][0].text == "good"

    def test_refusal(self):
        thinks = ChatMessage.from_assistant("bad", reasoning="t", meta={"model": "m"})
        (reply,) = guarded(thinks).run(ASK)["replies"]
        assert (reply.text, reply.reasoning) == (REFUSAL, None)
        assert reply.meta["model"] == "m"

    def test_strict(self):
        with pytest.raises(BelowThresholdError):
            guarded("bad", decision=STRICT).run(ASK)

    def test_a_scorer_that_fails_lets_nothing_pass(self):
        broken = FakeScorer(lambda *_: 0.9, error=RuntimeError("broken"))
        with pytest.raises(ScorerError):
            guarded("good", scorer=broken).run(ASK)

    def test_reasoning_is_scored(self):
        scorer = FakeScorer(lambda _, answer: 0.1 if "harm" in answer else 0.9)
        thinks = ChatMessage.from_assistant("fine", reasoning="harm")
        assert guarded(thinks, "well", scorer=scorer).run(ASK)["replies"][0].text == "well"

    def test_conversation(self):
        scorer = Asked()
        call = ToolCall("look", {"city": "Oslo"}, id="1")
        picture = ImageContent("aGk=", mime_type="image/png", validation=False)
        guarded("good", scorer=scorer).run(
            [
                ChatMessage.from_system("Be brief."),
                ChatMessage.from_user(content_parts=["weather?", picture]),
                ChatMessage.from_assistant(tool_calls=[call]),
                ChatMessage.from_tool("sunny", origin=call),
            ]
        )
        assert scorer.turns == [
            ("system", "Be brief."),
            ("user", "weather?\n[image]"),
            ("assistant", '[tool call] look({"city": "Oslo"})'),
            ("tool", "sunny"),
        ]


class TestTools:
    def test_an_agent_makes_the_chosen_call_once(self):
        looked.clear()
        agent = Agent(
            chat_generator=guarded(calls("bad"), calls("good"), "bad", "good"), tools=[LOOK]
        )
        assert agent.run(messages=ASK)["messages"][-1].text == "good"
        assert looked == ["good"]

    def test_where_a_tool_must_be_called(self):
        generator = guarded("good", calls("good"))
        options = {"tool_choice": "required"}
        (reply,) = generator.run(ASK, options, [LOOK])["replies"]
        assert reply.tool_call.id == "good"
        assert reply.meta["srr_guard"]["failed"] == 1
        with pytest.raises(BelowThresholdError):
            guarded(calls("bad")).run(ASK, options, [LOOK])

    def test_structured_output(self):
        options = {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}
        (reply,) = guarded('{"town": "good"}', '{"city": "good"}').run(ASK, options)["replies"]
        assert reply.text == '{"city": "good"}'


class TestStreams:
    async def test_selects_then_emits(self):
        seen: list[Any] = []
        guarded("bad", "good").run(ASK, streaming_callback=seen.append)
        assert [chunk.content for chunk in seen] == ["good"]

        async def watch(chunk: Any) -> None:
            seen.append(chunk)

        await guarded(calls("good")).run_async(ASK, streaming_callback=watch)
        assert seen[1].tool_calls[0].arguments == '{"city": "good"}'

    def test_a_generator_that_streams_by_itself_is_refused(self):
        model = MockChatGenerator(["good"], streaming_callback=print)
        with pytest.raises(ConfigurationError, match="streaming_callback"):
            SafetyRankedChatGenerator(model)
        model = MockChatGenerator(["good"])
        generator = SafetyRankedChatGenerator(model, guard=guard_by_word())
        model.streaming_callback = print
        with pytest.raises(ConfigurationError, match="streaming_callback"):
            generator.run(ASK)


class TestRest:
    def test_errors(self):
        (reply,) = guarded(RuntimeError("x"), "good").run(ASK)["replies"]
        assert reply.meta["srr_guard"]["reason"] == "fallback"
        with pytest.raises(AllCandidatesFailedError) as caught:
            guarded(TimeoutError("x")).run(ASK)
        assert isinstance(caught.value, TimeoutError)
        with pytest.raises(ConfigurationError, match="several replies"):
            guarded("good").run(ASK, {"n": 2})
        with pytest.raises(ConfigurationError, match="no `run`"):
            SafetyRankedChatGenerator(object())

    def test_stored_and_made_again(self):
        model = MockChatGenerator(["good"])
        policy = DecisionPolicy(threshold=0.7)
        generator = SafetyRankedChatGenerator(model, sampling=SamplingPolicy(n=3), decision=policy)
        pipeline = Pipeline()
        pipeline.add_component("llm", generator)
        stored = pipeline.dumps()
        again = Pipeline.loads(stored, allowed_modules=[adapter.__name__]).get_component("llm")
        assert (again.guard.sampling.n, again.guard.decision.threshold) == (3, 0.7)
        assert isinstance(again.chat_generator, MockChatGenerator)
        with pytest.raises(ConfigurationError, match="stored"):
            guarded("good").to_dict()

    def test_unguarded(self, caplog):
        generator = guarded("bad")
        with caplog.at_level(logging.WARNING, logger="srr_guard"):
            assert generator.unguarded().run(ASK)["replies"][0].text == "bad"
        assert generator.guard.bypasses == 1


def test_docstring():
    assert doctest.testmod(adapter).failed == 0
