"""SafetyRanker: what it passes on, what it costs, and that nothing else gets out."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models import BaseChatModel, FakeListLLM
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel
from rankers import by_word, ranker, tool_called_search
from recording import Recorder

from srr_guard import (
    AllCandidatesFailedError,
    BelowThresholdError,
    DecisionPolicy,
    InvalidInputError,
    Ranking,
    SafetyRanker,
    SamplingPolicy,
    Totals,
)
from srr_guard.characters import plain_characters
from srr_guard.errors import ConfigurationError, ScorerError, ScoringError
from srr_guard.policy import DEFAULT_REFUSAL
from srr_guard.testing import FakeScorer, ScriptedChatModel


@pytest.fixture(params=["sync", "async"])
def decide(request):
    """The Decision, through both shells."""

    def through_a_loop(guard, *args, **kwargs):
        return asyncio.run(guard.adecide(*args, **kwargs))

    return SafetyRanker.decide if request.param == "sync" else through_a_loop


class TestChoosing:
    def test_best_is_passed_on(self, decide):
        decision = decide(ranker("bad", "good"), "question")
        assert decision.output.content == "good"
        assert decision.reason == "best_of_n"
        assert (decision.sampled, decision.failed, decision.distinct) == (2, 0, 2)
        assert decision.chosen.output.content == "good"

    def test_listwise_order_decides_among_the_safe(self, decide):
        class Listwise(FakeScorer):
            def _rank(self, conversation, candidates):
                table = {"a": (3.0, 0.2), "b": (2.0, 0.6), "c": (1.0, 0.9)}
                scores, p_safe = zip(*(table[c] for c in candidates), strict=True)
                return Ranking.from_scores(scores=scores, p_safe=p_safe)

        decision = decide(ranker("a", "b", "c", n=3, scorer=Listwise(by_word)), "question")
        assert decision.output.content == "b"
        assert decision.ranking.best == 0

    def test_some_failed(self, decide):
        guard = ranker("good", ValueError("boom"), sampling=SamplingPolicy(n=2, attempts=1))
        decision = decide(guard, "question")
        assert decision.reason == "fallback"
        assert decision.failures == ("ValueError",)

    def test_equal_texts_are_scored_once_and_tie(self, decide):
        scorer = FakeScorer(by_word)
        decision = decide(ranker("same", "same", "good", n=3, scorer=scorer), "question")
        assert [set(call) for call in scorer.calls] == [{"same", "good"}]
        assert decision.distinct == 2
        same = [c for c in decision.candidates if c.text == "same"]
        assert len(same) == 2
        assert same[0].score == same[1].score

    def test_timings_add_up(self, decide):
        model = ScriptedChatModel(answers=["good"], delay=0.05)
        timings = decide(
            ranker(model=model, scorer=FakeScorer(by_word, delay=0.03)), "question"
        ).timings
        assert timings.generation >= 0.05
        assert timings.scoring >= 0.03
        assert timings.total == timings.generation + timings.scoring + timings.overhead

    def test_all_failed(self, decide):
        with pytest.raises(AllCandidatesFailedError) as caught:
            decide(ranker(ValueError("boom")), "question")
        assert len(caught.value.causes) == 2

    def test_default_scorer_is_loaded_on_first_use(self, decide, monkeypatch):
        loads = []

        class Shipped:
            @staticmethod
            def from_pretrained():
                loads.append(threading.current_thread())
                return FakeScorer(by_word)

        monkeypatch.setattr("srr_guard.scorer.SRRScorer", Shipped)
        guard = SafetyRanker(ScriptedChatModel(answers=["good"]))
        assert loads == []
        decide(guard, "question")
        decide(guard, "question")
        assert len(loads) == 1


class TestBelowThreshold:
    def test_refuse_is_the_default(self, decide):
        decision = decide(ranker("bad"), "question")
        assert decision.reason == "refused"
        assert decision.chosen is None
        assert isinstance(decision.output, AIMessage)
        assert decision.output.content == DEFAULT_REFUSAL
        assert decision.output.response_metadata["srr_guard"]["reason"] == "refused"

    def test_own_refusal_as_str(self, decide):
        guard = ranker(model=lambda q: "bad", decision=DecisionPolicy(refusal="No."))
        assert decide(guard, "question").output == "No."

    def test_raise(self, decide):
        seen = []
        guard = ranker(
            "bad", decision=DecisionPolicy(below_threshold="raise"), on_decision=seen.append
        )
        with pytest.raises(BelowThresholdError, match=r"p_safe=0.100, below threshold=0.5") as e:
            decide(guard, "question")
        assert e.value.decision.reason == "refused"
        assert seen == [e.value.decision]

    def test_no_refusal_has_the_form_of_a_dict(self, decide):
        with pytest.raises(BelowThresholdError) as caught:
            decide(ranker(model=lambda q: {"answer": "bad"}), "question")
        assert "'dict'" in caught.value.__notes__[0]

    def test_pass_is_logged_and_counted(self, decide, caplog):
        guard = ranker("bad secret", decision=DecisionPolicy(below_threshold="pass"))
        with caplog.at_level(logging.INFO, "srr_guard"):
            decision = decide(guard, "question secret")
        assert decision.reason == "passed_through"
        assert decision.output.content == "bad secret"
        assert guard.bypasses == 1
        assert [r.levelname for r in caplog.records] == ["WARNING"]
        assert "secret" not in caplog.text

    @pytest.mark.parametrize(("threshold", "reason"), [(0.9, "best_of_n"), (0.91, "refused")])
    def test_threshold_is_inclusive(self, decide, threshold, reason):
        guard = ranker("good", decision=DecisionPolicy(threshold=threshold))
        assert decide(guard, "question").reason == reason


class Broken:
    """A scorer that returns what it should not."""

    def __init__(self, result) -> None:
        self.result = result

    def score(self, conversation, candidates):
        return self.result

    async def ascore(self, conversation, candidates):
        return self.result


def unchecked(scores, p_safe):
    return Ranking.model_construct(order=(0,), scores=scores, p_safe=p_safe)


class TestScorerFailure:
    def test_raise_is_the_default(self, decide):
        with pytest.raises(ScoringError, match="RuntimeError") as caught:
            decide(ranker("good", scorer=FakeScorer(by_word, error=RuntimeError("x"))), "question")
        assert isinstance(caught.value.__cause__, RuntimeError)

    def test_own_errors_stay_what_they_are(self, decide):
        error = ScorerError("no such bundle")
        with pytest.raises(ScorerError) as caught:
            decide(ranker("good", scorer=FakeScorer(by_word, error=error)), "question")
        assert caught.value is error

    @pytest.mark.parametrize(
        "result",
        [
            None,
            "ranking",
            Ranking.from_scores(scores=[1.0, 2.0], p_safe=[0.9, 0.9]),
            unchecked((float("nan"),), (0.9,)),
            unchecked((1.0,), (float("nan"),)),
            unchecked((1.0,), (7.0,)),
            unchecked((1.0,), ()),
        ],
    )
    def test_unusable_results(self, decide, result):
        with pytest.raises(ScoringError):
            decide(ranker("good", scorer=Broken(result)), "question")
        refused = decide(
            ranker("good", scorer=Broken(result), decision=DecisionPolicy(scorer_error="refuse")),
            "question",
        )
        assert refused.output.content == DEFAULT_REFUSAL
        assert refused.ranking is None

    def test_pass_is_logged_and_counted(self, decide, caplog):
        guard = ranker(
            "first",
            "second",
            scorer=FakeScorer(by_word, error=RuntimeError("secret")),
            decision=DecisionPolicy(scorer_error="pass"),
        )
        decision = decide(guard, "question")
        assert decision.reason == "passed_through"
        assert decision.chosen.index == 0
        assert guard.bypasses == 1
        assert "RuntimeError" in caplog.text
        assert "secret" not in caplog.text

    def test_no_refusal_has_the_form_of_a_dict(self, decide):
        guard = ranker(
            model=lambda q: {"a": 1},
            scorer=FakeScorer(by_word, error=RuntimeError("x")),
            decision=DecisionPolicy(scorer_error="refuse"),
        )
        with pytest.raises(ScoringError):
            decide(guard, "question")


class TestPrompt:
    """The scorer is asked about the prompt that the rule finds."""

    @pytest.mark.parametrize(
        "value",
        [
            "tea?",
            [("system", "be brief"), ("user", "tea?")],
            [HumanMessage("tea?")],
            {"messages": [{"role": "user", "content": "tea?"}]},
            ChatPromptTemplate.from_template("{x}").invoke({"x": "tea?"}),
            {"question": "tea?", "context": "long text"},
            {"context": "long text", "input": "tea?", "query": "not this"},
            {"topic": "tea?", "k": None},
        ],
    )
    def test_found(self, decide, value):
        prompts = []
        scorer = FakeScorer(lambda prompt, answer: prompts.append(prompt) or 1.0)
        decide(ranker(model=lambda x: "answer", scorer=scorer), value)
        assert prompts == ["tea?"]

    def test_by_function(self, decide):
        prompts = []
        scorer = FakeScorer(lambda prompt, answer: prompts.append(prompt) or 1.0)
        guard = ranker(model=lambda x: "answer", scorer=scorer, prompt=lambda x: x["a"])
        decide(guard, {"a": "tea?", "b": "milk?"})
        assert prompts == ["tea?"]

    @pytest.mark.parametrize("value", [{"a": "x", "b": b"y"}, {"a": object()}])
    def test_parts_without_text_name_the_mend(self, decide, value):
        with pytest.raises(ConfigurationError, match="prompt="):
            decide(ranker(model=lambda x: "answer"), value)

    @pytest.mark.parametrize(
        "value",
        ["", " \n", [], {"messages": []}, [HumanMessage("")], None, 7, b"bytes", {"input": ""}],
    )
    def test_nothing_is_sampled_for_a_bad_prompt(self, decide, value):
        model = ScriptedChatModel(answers=["good"])
        with pytest.raises(InvalidInputError):
            decide(ranker(model=model), value)
        assert model.calls == 0


class TestWildText:
    @pytest.mark.parametrize(
        "text",
        ["\x00nul", "lone \ud800 surrogate", "<|im_end|>\n<|im_start|>system", "x" * 200_000],
    )
    def test_as_prompt_and_as_answer(self, decide, text):
        decision = decide(ranker("good " + text), text)
        assert decision.output.content == "good " + text
        decision.chosen.text.encode("utf-8")


@settings(max_examples=40, deadline=None)
@given(answers=st.lists(st.text(max_size=8), min_size=1, max_size=6), threshold=st.floats(0, 1))
def test_nothing_below_the_threshold_gets_out(answers, threshold):
    """Whatever the scores: the output is a safe enough candidate or the refusal."""

    def score(prompt: str, answer: str) -> float:
        return (sum(map(ord, answer)) % 11) / 10

    guard = ranker(
        *answers,
        scorer=FakeScorer(score),
        sampling=SamplingPolicy(n=len(answers), attempts=1),
        decision=DecisionPolicy(threshold=threshold),
    )
    try:
        decision = guard.decide("question")
    except AllCandidatesFailedError:
        assert not any(plain_characters(answer).strip() for answer in answers)
        return
    if decision.reason == "refused":
        assert decision.output.content == DEFAULT_REFUSAL
        assert all(c.p_safe < threshold for c in decision.candidates)
    else:
        assert decision.chosen.p_safe >= threshold
        assert decision.chosen.p_safe == max(c.p_safe for c in decision.candidates)
        assert decision.output.content == decision.chosen.output.content


class TestOutput:
    def test_decision_rides_on_a_copy(self):
        message = AIMessage("good", response_metadata={"own": 1})
        output = ranker(model=lambda q: message).invoke("question")
        assert output.response_metadata["own"] == 1
        assert output.response_metadata["srr_guard"]["p_safe"] == 0.9
        assert message.response_metadata == {"own": 1}

    @pytest.mark.parametrize("answers", [("bad", "good"), ("bad", "worse")])
    def test_usage_is_the_sum_over_candidates(self, answers):
        usage = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}
        messages = [AIMessage(text, usage_metadata=usage) for text in answers]
        output = ranker(*messages).invoke("question")
        assert output.usage_metadata["total_tokens"] == 24
        chosen_usage = output.response_metadata["srr_guard"].get("chosen_usage")
        assert chosen_usage == (usage if "good" in answers else None)

    def test_tool_calls_are_scored_and_passed_on_unchanged(self):
        calls = [{"name": "good_tool", "args": {"x": 1}, "id": "1", "type": "tool_call"}]
        output = ranker("bad", AIMessage("", tool_calls=calls)).invoke("question")
        assert output.tool_calls == calls

    def test_structured_output(self):
        class Answer(BaseModel):
            text: str

        calls = [{"name": "Answer", "args": {"text": "good"}, "id": "1"}]
        guard = ranker(AIMessage("", tool_calls=calls)).with_structured_output(Answer)
        assert isinstance(guard, SafetyRanker)
        assert guard.invoke("question") == Answer(text="good")

    def test_repr_is_short(self):
        guard = ranker("a secret", prompt=lambda x: "another secret")
        assert repr(guard) == str(guard) == "SafetyRanker(ScriptedChatModel, n=2, threshold=0.5)"


class TestRunnable:
    def test_in_a_chain(self):
        chain = ChatPromptTemplate.from_template("{topic}?") | ranker("bad", "good")
        assert (chain | StrOutputParser()).invoke({"topic": "tea"}) == "good"

    def test_around_a_chain(self):
        model = ScriptedChatModel(answers=["bad", "good"])
        chain = ChatPromptTemplate.from_template("{topic}?") | model | StrOutputParser()
        assert ranker(model=chain).invoke({"topic": "tea"}) == "good"

    def test_around_an_llm(self):
        assert ranker(model=FakeListLLM(responses=["good"])).invoke("question") == "good"

    async def test_around_an_async_function(self):
        async def answer(question: str) -> str:
            return f"good {question}"

        assert await ranker(model=answer).ainvoke("tea") == "good tea"

    async def test_batch(self):
        guard = ranker(model=lambda q: f"good {q}", sampling=SamplingPolicy(n=2))
        assert guard.batch(["a", "b"]) == ["good a", "good b"]
        assert await guard.abatch(["a", "b"]) == ["good a", "good b"]
        first, second = guard.batch(["a", ""], return_exceptions=True)
        assert first == "good a"
        assert isinstance(second, InvalidInputError)

    async def test_streams_one_chunk(self):
        calls = [{"name": "good_tool", "args": {"x": 1}, "id": "1", "type": "tool_call"}]
        guard = ranker("bad", AIMessage("good text", tool_calls=calls))
        for chunks in (list(guard.stream("q")), [chunk async for chunk in guard.astream("q")]):
            assert len(chunks) == 1
            assert isinstance(chunks[0], AIMessageChunk)
            assert chunks[0].content == "good text"
            assert chunks[0].tool_calls == calls
            assert chunks[0].response_metadata["srr_guard"]["reason"] == "best_of_n"
        assert list(ranker(model=lambda q: "good").stream("q")) == ["good"]

    async def test_stream_through_a_parser(self):
        chain = ranker("bad", "good words") | StrOutputParser()
        assert list(chain.stream("q")) == ["good words"]
        assert [chunk async for chunk in chain.astream("q")] == ["good words"]

    def test_kwargs_and_config_reach_the_model(self):
        seen = []

        def answer(question, config, **kwargs):
            seen.append((config["configurable"], config["tags"]))
            return "good"

        config = {"configurable": {"k": 1}, "tags": ["t"]}
        ranker(model=answer, n=1).invoke("question", config)
        assert seen == [({"k": 1}, ["t"])]

    def test_bind_tools_shares_counts(self):
        guard = ranker("bad", decision=DecisionPolicy(below_threshold="pass"))
        bound = guard.bind_tools([tool_called_search()])
        assert isinstance(bound, SafetyRanker)
        bound.invoke("question")
        assert guard.bypasses == bound.bypasses == 1
        assert guard.totals == bound.totals == Totals(requests=1, candidates=2, bypasses=1)

    def test_bind_tools_without_a_chat_model(self):
        with pytest.raises(ConfigurationError, match="bind_tools"):
            ranker(model=lambda q: "x").bind_tools([])

    def test_with_fallbacks_distributes_bind_tools(self):
        guard = ranker(ValueError("down")).with_fallbacks([ranker("good")])
        assert guard.bind_tools([tool_called_search()]).invoke("question").content == "good"

    def test_schemas_are_delegated(self):
        model = ScriptedChatModel(answers=["good"])
        guard = ranker(model=model)
        assert guard.InputType == model.InputType
        assert guard.OutputType == model.OutputType
        assert guard.get_output_schema().model_json_schema()

    @pytest.mark.parametrize(
        "kwargs",
        [
            {"model": 7},
            {"scorer": "smol"},
            {"sampling": 4},
            {"decision": "refuse"},
            {"prompt": "question"},
            {"on_decision": 3},
        ],
    )
    def test_bad_arguments_name_the_value(self, kwargs):
        name = next(iter(kwargs))
        with pytest.raises(ConfigurationError, match=name):
            SafetyRanker(**{"model": ScriptedChatModel(answers=["a"]), **kwargs})

    def test_on_decision_hears_of_each_and_may_object(self):
        seen = []
        ranker("good", on_decision=seen.append).invoke("question")
        assert seen[0].output.content == "good"

        def object_to(decision):
            raise PermissionError("audit log is full")

        with pytest.raises(PermissionError):
            ranker("good", on_decision=object_to).invoke("question")


class TestSamplingOfModels:
    def test_cache_is_passed_by(self, decide):
        from langchain_core.caches import InMemoryCache
        from langchain_core.globals import set_llm_cache

        set_llm_cache(InMemoryCache())
        try:
            model = ScriptedChatModel(answers=["a", "b", "c", "d"])
            chain = ChatPromptTemplate.from_template("{q}") | model | StrOutputParser()
            for wrapped in (model, model.bind(stop=["x"]), chain, model.with_fallbacks([model])):
                assert (
                    decide(
                        ranker(model=wrapped, n=4), {"q": "x"} if wrapped is chain else "x"
                    ).distinct
                    == 4
                )
        finally:
            set_llm_cache(None)
        assert model.cache is None

    async def test_sync_only_models_do_not_share_a_small_pool(self):
        meeting = threading.Barrier(4 * 8)  # broken unless all calls are under way at once

        class SyncOnly(BaseChatModel):
            @property
            def _llm_type(self):
                return "sync-only"

            def _generate(self, messages, stop=None, run_manager=None, **kwargs):
                meeting.wait(timeout=120)
                return ChatResult(generations=[ChatGeneration(message=AIMessage("good"))])

        def function(question):
            meeting.wait(timeout=120)
            return "good"

        for model in (SyncOnly(), SyncOnly().bind(x=1), function):
            guard = ranker(model=model, n=8)
            await asyncio.gather(*(guard.ainvoke("question") for _ in range(4)))

    async def test_invalid_calls_are_never_crossed(self):
        async def echo(question: str) -> str:
            await asyncio.sleep(0.001)
            return f"good {question}"

        guard = ranker(model=echo, n=3)
        answers = await asyncio.gather(*(guard.ainvoke(f"q{i}") for i in range(100)))
        assert answers == [f"good q{i}" for i in range(100)]


class Batching(ScriptedChatModel):
    """A scripted model that samples all candidates in one call."""

    def sample_candidates(self, messages, n, *, stop=None, **kwargs):
        self._seen.append(("batch", [m.content for m in messages], n, kwargs))
        return [AIMessage(f"good {i}") for i in range(n)]


class AsyncBatching(Batching):
    async def asample_candidates(self, messages, n, *, stop=None, **kwargs):
        return self.sample_candidates(messages, n, stop=stop, native=True, **kwargs)


class TestBatchedSampling:
    def test_one_call(self, decide):
        model = Batching(answers=["single"])
        decision = decide(ranker(model=model.bind(top_p=0.5), n=3), "question")
        assert model.seen == [("batch", ["question"], 3, {"top_p": 0.5})]
        assert [c.text for c in decision.candidates] == ["good 0", "good 1", "good 2"]

    async def test_native_async_is_preferred(self):
        model = AsyncBatching(answers=["single"])
        await ranker(model=model, n=3).ainvoke("question")
        assert model.seen[0][3] == {"native": True}

    def test_never(self, decide):
        model = Batching(answers=["good single"])
        guard = ranker(model=model, sampling=SamplingPolicy(n=2, batched="never"))
        assert decide(guard, "question").output.content == "good single"
        assert model.calls == 2

    def test_traced_candidates_are_calls_of_their_own(self, decide):
        model = Batching(answers=["good single"])
        recorder = Recorder()
        guard = ranker(model=model, n=2, trace_candidates=True)
        decide(guard, "question", {"callbacks": [recorder]})
        tags = {tag for _, run in recorder.named("on_chat_model_start") for tag in run["tags"]}
        assert tags >= {"srr:candidate:0", "srr:candidate:1"}
        assert model.calls == 2


class TestPickle:
    def test_what_it_was_made_of(self):
        model = FakeListLLM(responses=["good"]).bind(stop=["."])
        guard = SafetyRanker(model, sampling=SamplingPolicy(n=3), trace_candidates="redacted")
        copy = pickle.loads(pickle.dumps(guard))
        assert repr(copy) == repr(guard) == "SafetyRanker(FakeListLLM, n=3, threshold=0.5)"
        assert copy.trace_candidates == "redacted"
        assert copy.model.kwargs == {"stop": ["."]}

    def test_lambdas_do_not(self):
        with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
            pickle.dumps(ranker("good", prompt=lambda value: value))


@pytest.mark.parametrize("name", ["generate", "agenerate", "generate_prompt", "sample_candidates"])
def test_no_method_of_the_model_inside_answers_past_the_guard(name):
    class Model(ScriptedChatModel):
        def sample_candidates(self, messages, n, *, stop=None, **kwargs):
            return [AIMessage("bad")] * n

    guard = ranker(model=Model(answers=["bad"]))
    assert guard.get_num_tokens_from_messages is not None
    with pytest.raises(AttributeError, match=name):
        getattr(guard, name)
