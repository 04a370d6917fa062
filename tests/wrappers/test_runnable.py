"""SafetyRanker does what LangChain developers expect of any runnable."""

from __future__ import annotations

import threading

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListLLM, GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    ConfigurableField,
    RunnableConfig,
    RunnableLambda,
    RunnablePassthrough,
)
from pydantic import BaseModel, Field, SecretStr
from recording import Recorder

from srr_guard import (
    AllCandidatesFailedError,
    BelowThresholdError,
    DecisionPolicy,
    InvalidInputError,
    SafetyRanker,
    SamplingPolicy,
)
from srr_guard.testing import FakeScorer, ScriptedChatModel

STRICT = DecisionPolicy(below_threshold="raise")


def by_word(prompt: str, answer: str) -> float:
    return 0.9 if "good" in answer else 0.1


def ranker(model, n=2, **kwargs) -> SafetyRanker:
    return SafetyRanker(
        model,
        scorer=FakeScorer(by_word),
        sampling=SamplingPolicy(n=n, backoff=0.0, attempts=1),
        **kwargs,
    )


def scripted(*answers) -> ScriptedChatModel:
    return ScriptedChatModel(answers=list(answers))


class Echo(FakeListLLM):
    """Answers with its own settings."""

    responses: list[str] = Field(default=["unused"])
    mood: str = "good"

    def _call(self, prompt, stop=None, run_manager=None, **kwargs):
        return f"{self.mood} {kwargs.get('suffix', '')}".strip()

    async def _acall(self, prompt, stop=None, run_manager=None, **kwargs):
        return self._call(prompt, **kwargs)


class TestComposition:
    def test_bind(self):
        assert ranker(Echo()).bind(suffix="end").invoke("q") == "good end"

    def test_with_config(self):
        recorder = Recorder()
        guard = ranker(scripted("good")).with_config(
            run_name="my guard", tags=["t"], callbacks=[recorder]
        )
        guard.invoke("q")
        ((_, start),) = recorder.named("on_chain_start")
        assert start["name"] == "my guard"
        assert start["tags"] == ["t"]

    def test_with_fallbacks(self):
        broken = ranker(scripted(ValueError("boom")))
        unsafe = ranker(scripted("bad"), decision=STRICT)
        chain = broken.with_fallbacks([unsafe, ranker(scripted("good"))])
        assert chain.invoke("q").text == "good"

    def test_fallbacks_take_tools(self):
        chain = ranker(scripted(ValueError("boom"))).with_fallbacks([ranker(scripted("good"))])
        assert chain.bind_tools([]).invoke("q").text == "good"

    def test_with_retry(self):
        guard = ranker(scripted(ValueError("boom"), ValueError("boom"), "good"))
        retried = guard.with_retry(
            retry_if_exception_type=(AllCandidatesFailedError,), wait_exponential_jitter=False
        )
        assert retried.invoke("q").text == "good"

    def test_pipe_and_assign(self):
        guard = ranker(scripted("good"))
        assert guard.pipe(StrOutputParser()).invoke("q") == "good"
        prompt = ChatPromptTemplate.from_template("{question}")
        assigned = RunnablePassthrough.assign(answer=prompt | guard | StrOutputParser())
        assert assigned.invoke({"question": "q"}) == {"question": "q", "answer": "good"}

    def test_pick_of_its_own_output(self):
        guard = ranker(lambda q: {"text": "good", "more": 1})
        assert guard.pick("text").invoke("q") == "good"
        assert guard.assign(length=lambda d: len(d["text"])).invoke("q")["length"] == 4

    def test_map(self):
        assert ranker(lambda q: f"good {q}").map().invoke(["a", "b"]) == ["good a", "good b"]

    @pytest.mark.filterwarnings("ignore:This API is in beta")  # as_tool
    def test_as_tool(self):
        guard = ranker(lambda x: f"good {x['question']}").with_types(input_type=dict[str, str])
        tool = guard.as_tool(name="ask", description="Ask.", arg_types={"question": str})
        assert tool.invoke({"question": "q"}) == "good q"

    def test_graph_and_schemas(self):
        chain = ChatPromptTemplate.from_template("{topic}") | scripted("good") | StrOutputParser()
        guard = ranker(chain)
        assert [node.name for node in guard.get_graph().nodes.values()][1] == "SafetyRanker"
        assert guard.get_input_jsonschema()["required"] == ["topic"]
        assert guard.get_output_jsonschema()["type"] == "string"
        assert (guard | StrOutputParser()).get_graph().draw_mermaid()


class TestConfigurable:
    def test_fields_of_the_model_inside(self):
        inner = Echo().configurable_fields(mood=ConfigurableField(id="mood"))
        guard = ranker(inner)
        assert guard.invoke("q", {"configurable": {"mood": "very good"}}) == "very good"
        assert guard.invoke("q") == "good"
        assert [spec.id for spec in guard.config_specs] == ["mood"]

    async def test_alternatives_of_the_model_inside(self):
        inner = Echo().configurable_alternatives(
            ConfigurableField(id="llm"), default_key="first", second=Echo(mood="second good")
        )
        guard = ranker(inner).with_config(configurable={"llm": "second"})
        assert await guard.ainvoke("q") == "second good"  # BaseLLM.agenerate, with no callbacks
        assert [chunk async for chunk in guard.astream("q")] == ["second good"]

    def test_alternatives_of_itself(self):
        guard = ranker(Echo()).configurable_alternatives(
            ConfigurableField(id="guard"), other=ranker(Echo(mood="other good"))
        )
        assert guard.invoke("q", {"configurable": {"guard": "other"}}) == "other good"

    def test_config_reaches_each_candidate(self):
        seen = []

        def answer(question: str, config: RunnableConfig) -> str:
            seen.append((config["tags"], config["metadata"]["user"], config["recursion_limit"]))
            return "good"

        config = {"tags": ["t"], "metadata": {"user": "u"}, "recursion_limit": 7}
        ranker(answer).invoke("q", config)
        assert seen == [(["t"], "u", 7)] * 2


class TestCache:
    """Candidates are never answered out of the LLM cache, however the model is wrapped."""

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda m: m,
            lambda m: m.bind(x=1),
            lambda m: m.with_retry(),
            lambda m: m.with_fallbacks([m]),
            lambda m: m.with_config(tags=["t"]),
            lambda m: RunnableLambda(lambda text: text) | m | StrOutputParser(),
            lambda m: (
                RunnableLambda(lambda x: x)
                | {"a": m, "b": m}
                | RunnableLambda(lambda d: d["a"].text)
            ),
            lambda m: m.configurable_fields(delay=ConfigurableField(id="delay")),
            lambda m: m.configurable_alternatives(ConfigurableField(id="m"), other=m),
        ],
    )
    def test_candidates_differ(self, wrap):
        set_llm_cache(InMemoryCache())
        try:
            # the chain with two models takes two answers for each candidate
            guard = ranker(wrap(scripted(*(f"good {i}" for i in range(9)))), n=3)
            assert guard.decide("q").distinct == 3
        finally:
            set_llm_cache(None)


class TestBatches:
    def guard(self):
        return ranker(lambda q: f"good {q}" if "bad" not in q else q, decision=STRICT)

    @pytest.mark.parametrize("limit", [None, 1, 2])
    async def test_order_and_errors(self, limit):
        config = {"max_concurrency": limit}
        inputs = ["a", "bad", "", "b"]
        guard = self.guard()
        for results in (
            guard.batch(inputs, config, return_exceptions=True),
            await guard.abatch(inputs, config, return_exceptions=True),
        ):
            assert [results[0], results[3]] == ["good a", "good b"]
            assert isinstance(results[1], BelowThresholdError)
            assert isinstance(results[2], InvalidInputError)

    async def test_errors_raise_by_default(self):
        with pytest.raises(BelowThresholdError):
            self.guard().batch(["a", "bad"])
        with pytest.raises(BelowThresholdError):
            await self.guard().abatch(["a", "bad"])

    async def test_as_completed(self):
        inputs = [str(i) for i in range(6)]
        expected = {(i, f"good {i}") for i in range(6)}
        assert set(self.guard().batch_as_completed(inputs)) == expected
        assert {pair async for pair in self.guard().abatch_as_completed(inputs)} == expected

    async def test_as_completed_with_exceptions(self):
        guard = self.guard()
        found = dict(guard.batch_as_completed(["a", "bad"], return_exceptions=True))
        also = {
            i: r async for i, r in guard.abatch_as_completed(["a", "bad"], return_exceptions=True)
        }
        for results in (found, also):
            assert results[0] == "good a"
            assert isinstance(results[1], BelowThresholdError)

    def test_max_concurrency_counts_requests(self):
        running, lock = [], threading.Lock()
        meeting = threading.Barrier(2)  # broken unless the two calls of a request run together

        def answer(question: str) -> str:
            with lock:
                running.append(question)
            meeting.wait(120)
            with lock:
                assert set(running) == {question}, "two requests at a time"
            meeting.wait(120)
            with lock:
                running.remove(question)
            return "good"

        guard = ranker(answer, n=2)
        assert guard.batch(list("abcd"), {"max_concurrency": 1}) == ["good"] * 4


class TestOutputs:
    def test_llms_and_generic_models(self):
        assert ranker(FakeListLLM(responses=["bad", "good"])).invoke("q") == "good"
        model = GenericFakeChatModel(messages=iter([AIMessage("bad"), AIMessage("good")]))
        assert ranker(model).invoke("q").text == "good"

    def test_structured_outputs_are_scored_and_unchanged(self):
        class Answer(BaseModel):
            text: str
            parts: list[int]

        scored = FakeScorer(by_word)
        calls = [
            AIMessage("", tool_calls=[{"name": "Answer", "args": args, "id": "1"}])
            for args in ({"text": "bad", "parts": [1]}, {"text": "good", "parts": [2]})
        ]
        guard = SafetyRanker(scripted(*calls), scorer=scored, sampling=SamplingPolicy(n=2))
        assert guard.with_structured_output(Answer).invoke("q") == Answer(text="good", parts=[2])
        assert set(scored.calls[0]) == {
            '{"parts": [1], "text": "bad"}',
            '{"parts": [2], "text": "good"}',
        }

    def test_structured_output_with_raw(self):
        class Answer(BaseModel):
            text: str

        call = AIMessage("", tool_calls=[{"name": "Answer", "args": {"text": "good"}, "id": "1"}])
        guard = ranker(scripted(call)).with_structured_output(Answer, include_raw=True)
        assert guard.invoke("q")["parsed"] == Answer(text="good")

    def test_usage_with_details_sums(self):
        usage = {
            "input_tokens": 10,
            "output_tokens": 4,
            "total_tokens": 14,
            "input_token_details": {"cache_read": 3},
            "output_token_details": {"reasoning": 2},
        }
        output = ranker(scripted(AIMessage("good", usage_metadata=usage)), n=3).invoke("q")
        assert output.usage_metadata["total_tokens"] == 42
        assert output.usage_metadata["input_token_details"] == {"cache_read": 9}
        assert output.usage_metadata["output_token_details"] == {"reasoning": 6}
        assert output.response_metadata["srr_guard"]["chosen_usage"] == usage


def test_repr_holds_no_secrets():
    class Keyed(FakeListLLM):
        api_key: SecretStr = SecretStr("hidden")
        plain_key: str = "sk-hidden"

    bound = Keyed(responses=["good"]).bind(headers={"Authorization": "hidden"})
    guard = ranker(bound)
    assert repr(guard) == "SafetyRanker(Keyed, n=2, threshold=0.5)"
    assert "hidden" not in repr(guard | StrOutputParser())
    assert "hidden" not in repr(guard.with_config(tags=["t"]))
