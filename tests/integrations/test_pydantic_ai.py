"""Agents of Pydantic AI on its own function models, guarded."""

from __future__ import annotations

import asyncio
import doctest
import itertools
import logging
from typing import Any

import pytest
from adapters import REFUSAL, STRICT, Asked, guard_by_word
from pydantic import BaseModel

from srr_guard import BelowThresholdError, SamplingPolicy
from srr_guard.errors import (
    AllCandidatesFailedError,
    ConfigurationError,
    ScorerError,
    UnguardedError,
)
from srr_guard.testing import FakeScorer

pytest.importorskip("pydantic_ai")

import srr_guard_integrations.pydantic_ai as adapter
from pydantic_ai import Agent, ModelRetry, NativeOutput, PromptedOutput, UsageLimits
from pydantic_ai.exceptions import ModelHTTPError, UsageLimitExceeded
from pydantic_ai.messages import (
    CompactionPart,
    ImageUrl,
    ModelRequest,
    ModelResponse,
    NativeToolCallPart,
    NativeToolReturnPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.usage import RequestUsage
from srr_guard_integrations.pydantic_ai import SafetyRankedModel

pytestmark = pytest.mark.usefixtures("own_loop")


class Script:
    """A function model that gives the responses of a script, over and over."""

    def __init__(self, *responses: Any) -> None:
        self._responses = itertools.cycle(responses)
        self.calls = 0
        self.model = FunctionModel(self)

    async def __call__(self, messages: Any, info: Any) -> ModelResponse:
        self.calls += 1
        response = next(self._responses)
        if isinstance(response, Exception):
            raise response
        if isinstance(response, ModelResponse):
            return response
        return ModelResponse(
            [TextPart(response)], usage=RequestUsage(input_tokens=10, output_tokens=2)
        )


def guarded(*responses: Any, **settings: Any) -> SafetyRankedModel:
    script = Script(*responses)
    return SafetyRankedModel(script.model, guard=guard_by_word(**settings))


def calls(tool: str, /, **args: Any) -> ModelResponse:
    return ModelResponse([ToolCallPart(tool, args)])


class City(BaseModel):
    name: str
    people: int


class TestAnswers:
    def test_sync(self):
        result = Agent(guarded("bad", "good")).run_sync("a question")
        assert result.output == "good"
        summary = result.response.metadata["srr_guard"]
        assert (summary["reason"], summary["p_safe"], summary["sampled"]) == ("best_of_n", 0.9, 2)
        assert summary["chosen_usage"] == {"input_tokens": 10, "output_tokens": 2}

    async def test_async_side_by_side(self):
        model = guarded("bad", "good")
        agent = Agent(model)
        results = await asyncio.gather(*(agent.run("a question") for _ in range(5)))
        assert {result.output for result in results} == {"good"}
        assert model.guard.totals.requests == 5

    def test_usage_is_the_sum_over_all_candidates(self):
        usage = Agent(guarded("bad", "good")).run_sync("a question").usage
        assert (usage.input_tokens, usage.output_tokens, usage.requests) == (20, 4, 1)

    def test_limits_count_all_candidates(self):
        with pytest.raises(UsageLimitExceeded):
            Agent(guarded("good")).run_sync(
                "a question", usage_limits=UsageLimits(output_tokens_limit=3)
            )

    def test_refusal(self):
        result = Agent(guarded("bad", "worse")).run_sync("a question")
        assert result.output == REFUSAL
        assert result.response.metadata["srr_guard"]["reason"] == "refused"

    def test_strict(self):
        with pytest.raises(BelowThresholdError):
            Agent(guarded("bad", decision=STRICT)).run_sync("a question")

    def test_a_scorer_that_fails_lets_nothing_pass(self):
        scorer = FakeScorer(lambda *_: 0.9, error=RuntimeError("broken"))
        with pytest.raises(ScorerError):
            Agent(guarded("good", scorer=scorer)).run_sync("a question")

    def test_reasoning_and_native_tools_are_scored(self):
        scorer = FakeScorer(lambda _, answer: 0.1 if "harm" in answer else 0.9)
        thinks = ModelResponse([ThinkingPart("harm"), TextPart("fine")])
        searches = ModelResponse(
            [
                NativeToolCallPart("web_search", {"query": "harm"}),
                NativeToolReturnPart("web_search", "found", "id"),
                TextPart("fine"),
            ]
        )
        result = Agent(guarded(thinks, searches, "well", n=3, scorer=scorer)).run_sync("q")
        assert result.output == "well"
        texts = [text for call in scorer.calls for text in call]
        assert {"harm", "fine"} <= set(texts)  # reasoning and answer, each by itself
        assert any("found" in text for text in texts)

    def test_files_are_unreadable(self):
        from pydantic_ai.messages import BinaryImage, FilePart

        picture = FilePart(BinaryImage(b"x", media_type="image/png"))
        result = Agent(guarded(ModelResponse([TextPart("good"), picture]))).run_sync("q")
        assert result.output == REFUSAL

    @pytest.mark.parametrize("transcript", [None, "", "\u200b", "a bad one"])
    def test_speech_is_read_by_its_transcript(self, transcript):
        from pydantic_ai.messages import BinaryContent, SpeechPart

        sound = BinaryContent(b"x", media_type="audio/wav")
        spoken = SpeechPart(speaker="assistant", transcript=transcript, audio=sound)
        result = Agent(guarded(ModelResponse([TextPart("good"), spoken]))).run_sync("q")
        reason = result.response.metadata["srr_guard"]["reason"]
        assert reason == ("best_of_n" if transcript == "a bad one" else "refused")


class TestStreams:
    async def test_selects_then_emits(self):
        model = guarded("wicked answer", "good answer")
        async with Agent(model).run_stream("a question") as stream:
            pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
            assert "".join(pieces) == "good answer"
            assert "wicked" not in "".join(pieces)
        assert stream.usage.output_tokens == 4

    async def test_events_of_a_tool_call(self):
        agent = Agent(
            guarded(calls("look", city="wicked"), calls("look", city="good"), "good", "good")
        )

        @agent.tool_plain
        def look(city: str) -> str:
            return f"{city} found"

        seen = []

        async def watch(_: Any, events: Any) -> None:
            seen.extend([event async for event in events])

        result = await agent.run("q", event_stream_handler=watch)
        assert result.output == "good"
        assert "wicked" not in repr(seen)
        assert "good found" in repr(seen)


class TestTools:
    def test_the_chosen_call_is_made_once_and_the_others_never(self):
        looked = []
        agent = Agent(guarded(calls("look", city="bad"), calls("look", city="good"), "good", "bad"))

        @agent.tool_plain
        def look(city: str) -> str:
            looked.append(city)
            return "sunny"

        assert agent.run_sync("weather?").output == "good"
        assert looked == ["good"]

    def test_the_scorer_sees_calls_and_results(self):
        scorer = Asked()
        agent = Agent(
            guarded(calls("look", city="good"), calls("look", city="good"), "good", scorer=scorer),
            instructions="Be brief.",
            system_prompt="You are kind.",
        )

        @agent.tool_plain
        def look(city: str) -> str:
            if len(scorer.conversations) == 1:
                raise ModelRetry("try again")
            return "sunny"

        assert agent.run_sync("weather?").output == "good"
        assert scorer.turns[0] == ("system", "Be brief.")
        assert ("system", "You are kind.") in scorer.turns
        assert ("user", "weather?") in scorer.turns
        assert ("assistant", '[tool call] look({"city": "good"})') in scorer.turns
        tools = [text for role, text in scorer.turns if role == "tool"]
        assert tools[-1] == "sunny" if len(tools) > 1 else "try again" in tools[0]

    def test_arguments_that_are_no_json_are_scored_and_kept(self):
        wrong = ModelResponse([ToolCallPart("look", "{good")])
        agent = Agent(guarded(wrong, wrong, "good", "good"))

        @agent.tool_plain
        def look(city: str) -> str:
            raise AssertionError

        assert agent.run_sync("q").output == "good"  # the agent asked the model to mend it


class TestStructuredOutput:
    @pytest.mark.parametrize("form", [City, NativeOutput(City), PromptedOutput(City)])
    def test_output(self, form):
        answers = [{"name": "bad", "people": 1}, {"name": "good", "people": 2}]

        def answer(messages: Any, info: Any) -> ModelResponse:
            given = next(script)
            if info.output_tools:
                return calls(info.output_tools[0].name, **given)
            return ModelResponse([TextPart(City(**given).model_dump_json())])

        script = itertools.cycle(answers)
        profile: Any = {"supports_json_schema_output": True}
        model = FunctionModel(answer, profile=profile)
        agent = Agent(SafetyRankedModel(model, guard=guard_by_word()), output_type=form)
        assert agent.run_sync("q").output == City(name="good", people=2)

    def test_what_does_not_fit_is_a_failed_candidate(self):
        name = "final_result"
        model = guarded(calls(name, name="good"), calls(name, name="a good one", people=3))
        result = Agent(model, output_type=City).run_sync("q")
        assert result.output == City(name="a good one", people=3)
        assert result.response.metadata["srr_guard"]["failed"] == 1
        assert model.guard.totals.requests == 1  # the agent had nothing to ask again for

    def test_what_pydantic_converts_fits(self):
        model = guarded(calls("final_result", name="good", people="3"))
        result = Agent(model, output_type=City).run_sync("q")
        assert result.output == City(name="good", people=3)
        assert result.response.metadata["srr_guard"]["failed"] == 0

    @pytest.mark.parametrize("output_type", [str, City, [City, str]])
    def test_a_call_of_a_tool_that_does_not_exist_is_a_failed_candidate(self, output_type):
        made_up = calls("look_up", good="x")
        fits = "good" if output_type is str else calls("final_result", name="good", people=1)
        model = guarded(made_up, fits)
        agent: Any = Agent(model, output_type=output_type)

        @agent.tool_plain
        def look(x: str) -> str:
            return x

        result = agent.run_sync("q")
        assert result.output in ("good", City(name="good", people=1))
        assert result.response.metadata["srr_guard"]["failed"] == 1
        assert model.guard.totals.requests == 1  # the agent had nothing to ask again for

    @pytest.mark.parametrize("fence", ["{}", "Here:\n```json\n{}\n```"])
    @pytest.mark.parametrize("form", [NativeOutput(City), PromptedOutput(City)])
    def test_text_that_does_not_fit_is_a_failed_candidate(self, form, fence):
        said = fence if isinstance(form, PromptedOutput) else "{}"
        texts = ['{"name": "good"}', '{"name": "a good one", "people": 3}']
        script = itertools.cycle(ModelResponse([TextPart(said.format(text))]) for text in texts)
        profile: Any = {"supports_json_schema_output": True}
        model = SafetyRankedModel(
            FunctionModel(lambda *_: next(script), profile=profile), guard=guard_by_word()
        )
        result = Agent(model, output_type=form).run_sync("q")
        assert result.output == City(name="a good one", people=3)
        assert (model.guard.totals.requests, model.guard.totals.candidates) == (1, 2)
        assert result.response.metadata["srr_guard"]["failed"] == 1

    def test_a_call_that_does_not_fit_fails_where_text_is_taken_too(self):
        name = "final_result"
        model = guarded(calls(name, name="good"), calls(name, name="a good one", people=3))
        result = Agent(model, output_type=[City, str]).run_sync("q")  # type: ignore[arg-type]
        assert result.output == City(name="a good one", people=3)
        assert model.guard.totals.requests == 1
        assert Agent(guarded("good"), output_type=[City, str]).run_sync("q").output == "good"  # type: ignore[arg-type]

    def test_behind_a_fallback_model(self):
        name = "final_result"
        script = Script(calls(name, name="good"), calls(name, name="a good one", people=3))
        model = SafetyRankedModel(FallbackModel(script.model), guard=guard_by_word())
        assert Agent(model, output_type=City).run_sync("q").output.people == 3
        assert model.guard.totals.requests == 1

    def test_a_refusal_has_no_form(self):
        model = guarded(calls("final_result", name="bad", people=1))
        with pytest.raises(BelowThresholdError):
            Agent(model, output_type=City).run_sync("q")

    def test_where_text_is_taken_too_it_has_one(self):
        model = guarded(calls("final_result", name="bad", people=1))
        agent: Any = Agent(model, output_type=[City, str])
        assert agent.run_sync("q").output == REFUSAL


class TestErrors:
    def test_one_failed_candidate(self):
        error = ModelHTTPError(status_code=503, model_name="m")
        result = Agent(guarded(error, "good")).run_sync("q")
        assert result.output == "good"
        assert result.response.metadata["srr_guard"]["reason"] == "fallback"

    def test_all_failed_and_a_fallback_outside_takes_over(self):
        model = guarded(ModelHTTPError(status_code=503, model_name="m"))
        with pytest.raises(AllCandidatesFailedError):
            Agent(model).run_sync("q")
        other = FunctionModel(lambda *_: ModelResponse([TextPart("other")]))
        assert Agent(FallbackModel(model, other)).run_sync("q").output == "other"

    def test_a_suspended_response_is_cancelled_and_fails(self):
        cancelled = []

        class Suspends(FunctionModel):
            async def cancel_suspended_response(self, response: ModelResponse) -> None:
                cancelled.append(response)

        def answer(*_: Any) -> ModelResponse:
            return ModelResponse([TextPart("good")], state="suspended")

        model = SafetyRankedModel(Suspends(answer), guard=guard_by_word())
        with pytest.raises(AllCandidatesFailedError, match="suspended"):
            Agent(model).run_sync("q")
        assert len(cancelled) == 2

    def test_settings_that_reach_no_model(self):
        with pytest.raises(ConfigurationError, match="temperatures"):
            SafetyRankedModel(Script("x").model, sampling=SamplingPolicy(temperatures=(1.0,)))
        with pytest.raises(ConfigurationError, match="no such setting"):
            SafetyRankedModel(Script("x").model, tresh=1)  # type: ignore[call-arg]

    def test_an_encrypted_compaction_is_refused(self):
        history: list[Any] = [
            ModelRequest([UserPromptPart("q")]),
            ModelResponse([CompactionPart(None, provider_name="openai")]),
        ]
        with pytest.raises((ConfigurationError, BelowThresholdError)):
            Agent(guarded("bad", decision=STRICT)).run_sync("more", message_history=history)


class TestConversation:
    def test_pictures_are_named(self):
        scorer = Asked()
        content = ["what is this?", ImageUrl("https://example.org/x.png")]
        Agent(guarded("good", scorer=scorer)).run_sync(content)
        ((role, text),) = scorer.turns
        assert role == "user"
        assert "what is this?" in text
        assert "[image-url]" in text

    def test_history(self):
        scorer = Asked()
        agent = Agent(guarded("good", scorer=scorer))
        first = agent.run_sync("one")
        agent.run_sync("two", message_history=first.all_messages())
        assert scorer.turns == [("user", "one"), ("assistant", "good"), ("user", "two")]


class TestUnguarded:
    async def test_what_is_closed(self):
        model = guarded("bad")
        for call in (model.compact_messages, model.batch_create, model.batch_results):
            with pytest.raises(UnguardedError, match=r"unguarded\(\)"):
                await call()
        with pytest.raises(UnguardedError):
            model.batch_decode()
        assert not hasattr(model, "client")

    def test_by_name_it_is_handed_out(self, caplog):
        model = guarded("bad")
        with caplog.at_level(logging.WARNING, logger="srr_guard"):
            inner = model.unguarded()
        assert Agent(inner).run_sync("q").output == "bad"
        assert "bypass" in caplog.text
        assert model.guard.bypasses == 1

    def test_every_method_that_answers_is_decided_about(self):
        """A new way to a model's answer fails here, so that somebody decides about it."""
        from pydantic_ai.models.wrapper import WrapperModel

        answering = {
            name
            for name, value in vars(WrapperModel).items()
            if "ModelResponse" in str(getattr(value, "__annotations__", {}).get("return"))
            or "StreamedResponse" in str(getattr(value, "__annotations__", {}).get("return"))
        }
        assert answering <= {"request", "request_stream", "compact_messages", "batch_decode"}


def test_docstring():
    assert doctest.testmod(adapter).failed == 0
