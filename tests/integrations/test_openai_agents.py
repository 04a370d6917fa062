"""Agents of the OpenAI Agents SDK on its own scripted model, guarded."""

from __future__ import annotations

import asyncio
import doctest
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from adapters import REFUSAL, STRICT, Asked, guard_by_word
from pydantic import BaseModel

from srr_guard import BelowThresholdError, DecisionPolicy
from srr_guard.errors import AllCandidatesFailedError, ConfigurationError, ScorerError
from srr_guard.policy import GatePolicy
from srr_guard.testing import FakeGate, FakeScorer

pytest.importorskip("agents")

import srr_guard_integrations.openai_agents as adapter
from agents import (
    Agent,
    AgentOutputSchema,
    ModelSettings,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    SQLiteSession,
    Usage,
    function_tool,
)
from agents.exceptions import ModelRefusalError
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.tracing import TracingProcessor, set_trace_processors
from srr_guard_integrations.openai_agents import SafetyRankedModel, safety_guardrail

pytestmark = pytest.mark.usefixtures("own_loop")


@pytest.fixture(autouse=True)
def spans() -> Iterator[list[Any]]:
    """The spans that the SDK would export."""
    seen: list[Any] = []

    class Keep(TracingProcessor):
        def on_trace_start(self, trace: Any) -> None: ...
        def on_trace_end(self, trace: Any) -> None: ...
        def on_span_start(self, span: Any) -> None: ...
        def on_span_end(self, span: Any) -> None:
            seen.append(span.export())

        def shutdown(self) -> None: ...
        def force_flush(self) -> None: ...

    set_trace_processors([Keep()])
    yield seen
    set_trace_processors([])


def look_at(city: str, call_id: str) -> Any:
    return function_call("look", {"city": city}, call_id=call_id)


def script(*steps: Any) -> ScriptedModel:
    made = [
        [assistant_message(step)]
        if isinstance(step, str)
        else step
        if isinstance(step, Exception)
        else [step]
        for step in steps
    ]
    usage = Usage(requests=1, input_tokens=10, output_tokens=2, total_tokens=12)
    return ScriptedModel(made, default_usage=usage)


def guarded(*steps: Any, **settings: Any) -> SafetyRankedModel:
    return SafetyRankedModel(script(*steps), guard=guard_by_word(**settings))


def agent(*steps: Any, guard: dict[str, Any] | None = None, **fields: Any) -> Agent[Any]:
    return Agent("helper", model=guarded(*steps, **(guard or {})), **fields)


looked: list[str] = []


@function_tool
def look(city: str) -> str:
    """Look at a city."""
    looked.append(city)
    return f"{city}: sunny"


class City(BaseModel):
    name: str
    people: int


def city(name: str) -> str:
    return City(name=name, people=1).model_dump_json()


class TestModel:
    async def test_async(self):
        result = await Runner.run(agent("bad", "good"), "a question")
        assert result.final_output == "good"
        (response,) = result.raw_responses
        assert response.srr_guard["reason"] == "best_of_n"  # type: ignore[attr-defined]
        usage = result.context_wrapper.usage
        assert (usage.requests, usage.input_tokens, usage.output_tokens) == (2, 20, 4)

    def test_sync(self):
        assert Runner.run_sync(agent("bad", "good"), "a question").final_output == "good"

    async def test_side_by_side(self):
        helper = agent(*["bad", "good"] * 4)
        results = await asyncio.gather(*(Runner.run(helper, "q") for _ in range(4)))
        assert {result.final_output for result in results} <= {"good", REFUSAL}
        assert helper.model.guard.totals.requests == 4  # type: ignore[union-attr]

    async def test_refusal(self):
        result = await Runner.run(agent("bad", "worse"), "q")
        assert result.final_output == REFUSAL
        assert result.raw_responses[0].response_id is None

    async def test_strict(self):
        with pytest.raises(BelowThresholdError):
            await Runner.run(agent("bad", "bad", guard={"decision": STRICT}), "q")

    async def test_a_scorer_that_fails_lets_nothing_pass(self):
        broken = FakeScorer(lambda *_: 0.9, error=RuntimeError("broken"))
        with pytest.raises(ScorerError):
            await Runner.run(agent("good", "good", guard={"scorer": broken}), "q")

    async def test_rejected_text_is_in_no_span(self, spans):
        await Runner.run(agent("wicked", "good"), "a question")
        assert "wicked" not in repr(spans)
        (generation,) = [s for s in spans if s["span_data"]["type"] == "generation"]
        assert "good" in repr(generation)
        assert generation["span_data"]["usage"]["output_tokens"] == 4

    async def test_tracing_without_data_and_none(self, spans):
        config = RunConfig(trace_include_sensitive_data=False)
        await Runner.run(agent("bad", "good"), "q", run_config=config)
        assert spans
        assert "good" not in repr(spans)
        spans.clear()
        await Runner.run(agent("bad", "good"), "q", run_config=RunConfig(tracing_disabled=True))
        assert spans == []


class TestTools:
    async def test_the_chosen_call_is_made_once(self):
        looked.clear()
        helper = agent(look_at("bad", "1"), look_at("good", "2"), "bad", "good", tools=[look])
        result = await Runner.run(helper, "weather?")
        assert (result.final_output, looked) == ("good", ["good"])

    async def test_the_scorer_sees_calls_and_results(self):
        scorer = Asked()
        steps = [look_at("good", "1"), look_at("good", "2"), "good", "good"]
        helper = agent(*steps, guard={"scorer": scorer}, tools=[look], instructions="Be brief.")
        await Runner.run(helper, "weather?")
        assert scorer.turns == [
            ("system", "Be brief."),
            ("user", "weather?"),
            ("assistant", '[tool call] look({"city": "good"})'),
            ("tool", "good: sunny"),
        ]

    async def test_a_call_of_a_tool_that_does_not_exist_is_a_failed_candidate(self):
        made_up = function_call("look_up", {"city": "good"}, call_id="1")
        helper = agent(made_up, look_at("good", "2"), "good", "good", tools=[look])
        result = await Runner.run(helper, "weather?")
        assert result.final_output == "good"
        assert result.raw_responses[0].srr_guard["failed"] == 1  # type: ignore[attr-defined]

    async def test_where_a_tool_must_be_called_text_is_a_failed_candidate(self):
        helper = agent(
            "good",
            look_at("good", "1"),
            "good",
            "good",
            tools=[look],
            model_settings=ModelSettings(tool_choice="required"),
        )
        result = await Runner.run(helper, "weather?")
        assert result.final_output == "good"
        assert result.raw_responses[0].srr_guard["failed"] == 1  # type: ignore[attr-defined]

    async def test_handoffs(self):
        other = agent("bad", "good")
        transfer = function_call("transfer_to_helper", {}, call_id="1")
        first = SafetyRankedModel(
            script(transfer, transfer), scorer=FakeScorer(lambda *_: 0.9), n=2
        )
        result = await Runner.run(Agent("first", model=first, handoffs=[other]), "q")
        assert result.final_output == "good"
        assert result.last_agent is other

    async def test_sessions(self):
        scorer = Asked()
        helper = agent("good", "good", "good", "good", guard={"scorer": scorer})
        session = SQLiteSession("s")
        await Runner.run(helper, "one", session=session)
        await Runner.run(helper, "two", session=session)
        session.close()
        assert scorer.turns == [("user", "one"), ("assistant", "good"), ("user", "two")]


class TestStructuredOutput:
    async def test_output(self):
        result = await Runner.run(agent(city("bad"), city("good"), output_type=City), "q")
        assert result.final_output == City(name="good", people=1)

    async def test_what_does_not_fit_is_a_failed_candidate(self):
        helper = agent('{"name": "good"}', city("good"), output_type=City)
        result = await Runner.run(helper, "q")
        assert result.raw_responses[0].srr_guard["failed"] == 1  # type: ignore[attr-defined]

    @pytest.mark.parametrize("strict", [True, False])
    async def test_what_the_sdk_converts_fits(self, strict):
        form = AgentOutputSchema(City, strict_json_schema=strict)
        said = '{"name": "a good one", "people": "3"}'
        helper = agent(said, city("good"), output_type=form)
        result = await Runner.run(helper, "q")
        assert result.raw_responses[0].srr_guard["failed"] == strict  # type: ignore[attr-defined]

    async def test_a_refusal_is_one_for_the_sdk(self):
        with pytest.raises(ModelRefusalError) as caught:
            await Runner.run(agent(city("bad"), city("bad"), output_type=City), "q")
        assert caught.value.refusal == REFUSAL


class TestStreams:
    async def test_selects_then_emits(self):
        looked.clear()
        helper = agent(look_at("wicked", "1"), look_at("good", "2"), "wicked", "good", tools=[look])
        stream = Runner.run_streamed(helper, "weather?")
        events = [event async for event in stream.stream_events()]
        assert (stream.final_output, looked) == ("good", ["good"])
        assert "wicked" not in repr(events)
        raw = [e.data for e in events if e.type == "raw_response_event"]
        assert [e.delta for e in raw if e.type == "response.output_text.delta"] == ["good"]
        assert stream.context_wrapper.usage.output_tokens == 8

    async def test_refusal(self):
        stream = Runner.run_streamed(agent("bad", "worse"), "q")
        events = [event async for event in stream.stream_events()]
        assert stream.final_output == REFUSAL
        assert "worse" not in repr(events)


class TestErrors:
    async def test_one_failed_candidate(self):
        result = await Runner.run(agent(RuntimeError("x"), "good"), "q")
        assert result.raw_responses[0].srr_guard["reason"] == "fallback"  # type: ignore[attr-defined]

    async def test_all_failed(self):
        with pytest.raises(AllCandidatesFailedError) as caught:
            await Runner.run(agent(TimeoutError("x"), TimeoutError("y")), "q")
        assert isinstance(caught.value, TimeoutError)

    @pytest.mark.parametrize("given", [{"previous_response_id": "r"}, {"conversation_id": "c"}])
    async def test_turns_that_only_the_provider_knows(self, given):
        with pytest.raises(ConfigurationError, match="only the provider knows"):
            await Runner.run(agent("good", "good"), "q", **given)

    async def test_unguarded(self, caplog):
        model = guarded("bad")
        with caplog.at_level(logging.WARNING, logger="srr_guard"):
            inner = model.unguarded()
        assert (await Runner.run(Agent("x", model=inner), "q")).final_output == "bad"
        assert model.guard.bypasses == 1
        assert "bypass" in caplog.text

    def test_a_new_method_of_models_is_decided_about(self):
        from agents import Model

        public = {name for name in vars(Model) if name[0] != "_"}
        assert public == {"close", "get_response", "stream_response", "get_retry_advice"}


class TestGuardrail:
    def run(self, answer: str, **settings: Any) -> Any:
        settings.setdefault("guard", guard_by_word())
        helper = Agent(
            "helper", model=script(answer), output_guardrails=[safety_guardrail(**settings)]
        )
        return Runner.run(helper, "a question")

    async def test_passes(self):
        result = await self.run("good")
        (found,) = result.output_guardrail_results
        assert found.output.output_info["p_safe"] == 0.9

    async def test_trips(self):
        with pytest.raises(OutputGuardrailTripwireTriggered) as caught:
            await self.run("bad")
        assert caught.value.guardrail_result.output.output_info["reason"] == "refused"

    async def test_trips_where_the_policy_raises(self):
        with pytest.raises(OutputGuardrailTripwireTriggered):
            await self.run("bad", guard=guard_by_word(decision=STRICT))

    async def test_trips_where_the_gate_refuses(self):
        guard = guard_by_word(
            decision=STRICT, gate=FakeGate(lambda _: 0.9), gating=GatePolicy(refuse_above=0.8)
        )
        with pytest.raises(OutputGuardrailTripwireTriggered) as caught:
            await self.run("good", guard=guard)
        found = caught.value.guardrail_result.output.output_info
        assert found["reason"] == "refused_by_gate"

    async def test_passes_what_the_policy_lets_pass(self):
        result = await self.run(
            "bad", guard=guard_by_word(decision=DecisionPolicy(below_threshold="pass"))
        )
        assert result.final_output == "bad"

    async def test_a_scorer_that_fails_ends_the_run(self):
        broken = FakeScorer(lambda *_: 0.9, error=RuntimeError("broken"))
        with pytest.raises(ScorerError):
            await self.run("good", guard=guard_by_word(scorer=broken))

    async def test_structured_output(self):
        @dataclass
        class Place:
            name: str

        for name, trips in (("good", False), ("bad", True)):
            helper = Agent(
                "helper",
                model=script(f'{{"response": {{"name": "{name}"}}}}'),
                output_type=Place,
                output_guardrails=[safety_guardrail(guard=guard_by_word())],
            )
            if trips:
                with pytest.raises(OutputGuardrailTripwireTriggered):
                    await Runner.run(helper, "q")
            else:
                assert (await Runner.run(helper, "q")).final_output == Place("good")

    async def test_it_is_asked_about_the_question(self):
        scorer = Asked()
        await self.run("good", guard=guard_by_word(scorer=scorer))
        assert scorer.turns == [("user", "a question")]


def test_docstring():
    assert doctest.testmod(adapter).failed == 0
