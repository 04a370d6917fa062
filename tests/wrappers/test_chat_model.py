"""SafetyRankedChatModel: a chat model like any other, with one answer chosen out of several."""

from __future__ import annotations

import asyncio
import pickle
from typing import ClassVar

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    ConfigurableField,
    RunnableConfig,
    RunnableLambda,
    RunnablePassthrough,
)
from langchain_core.tools import tool
from pydantic import BaseModel, ConfigDict, SecretStr
from recording import Recorder

from srr_guard import (
    BelowThresholdError,
    DecisionPolicy,
    InvalidInputError,
    SafetyRankedChatModel,
    SafetyRanker,
    SamplingPolicy,
)
from srr_guard.errors import AllCandidatesFailedError, ConfigurationError, SamplingError
from srr_guard.policy import DEFAULT_REFUSAL
from srr_guard.testing import FakeScorer, ScriptedChatModel

USAGE = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
CALL = {"name": "good_tool", "args": {"x": 1}, "id": "1", "type": "tool_call"}


def by_word(prompt: str, answer: str) -> float:
    return 0.9 if "good" in answer else 0.1


def guarded(*answers, model=None, **kwargs) -> SafetyRankedChatModel:
    return SafetyRankedChatModel(
        ScriptedChatModel(answers=list(answers)) if model is None else model,
        scorer=FakeScorer(by_word),
        sampling=SamplingPolicy(n=2, backoff=0.0),
        **kwargs,
    )


def said(text: str) -> AIMessage:
    return AIMessage(text, usage_metadata=USAGE, response_metadata={"model_name": "scripted-1"})


class Listening(ScriptedChatModel):
    """Keeps the options of its calls."""

    heard: ClassVar[list] = []

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.heard.append({"stop": stop, **kwargs})
        return super()._generate(messages, stop, run_manager, **kwargs)


@pytest.fixture(params=["invoke", "ainvoke", "stream", "astream"])
def run(request):
    """The whole answer, each way there is."""

    def ask(model, value="question", config=None):
        async def astream():
            return [chunk async for chunk in model.astream(value, config)]

        match request.param:
            case "invoke":
                return model.invoke(value, config)
            case "ainvoke":
                return asyncio.run(model.ainvoke(value, config))
            case "stream":
                chunks = list(model.stream(value, config))
            case _:
                chunks = asyncio.run(astream())
        assert isinstance(chunks[0], AIMessageChunk)
        assert not any(chunk.text for chunk in chunks[1:])
        return chunks[0]

    return ask


class TestAnswer:
    def test_best_is_passed_on(self, run):
        answer = run(guarded("REJECTED", "good"))
        assert answer.text == "good"
        assert answer.response_metadata["srr_guard"]["distinct"] == 2

    def test_refusal(self, run):
        assert run(guarded("REJECTED")).text == DEFAULT_REFUSAL

    def test_below_threshold_raises_where_the_policy_says_so(self, run):
        with pytest.raises(BelowThresholdError):
            run(guarded("REJECTED", decision=DecisionPolicy(below_threshold="raise")))

    def test_tool_calls_come_back_unchanged(self, run):
        answer = run(guarded("REJECTED", AIMessage("", tool_calls=[CALL])))
        assert answer.tool_calls == [CALL]

    def test_usage_is_the_sum(self, run):
        with get_usage_metadata_callback() as counter:
            answer = run(guarded(said("REJECTED"), said("good")))
        assert answer.usage_metadata["total_tokens"] == 14
        assert answer.response_metadata["srr_guard"]["chosen_usage"] == USAGE
        assert counter.usage_metadata["scripted-1"]["total_tokens"] == 14

    def test_empty_prompt(self, run):
        with pytest.raises(InvalidInputError):
            run(guarded("good"), "")

    def test_batch(self):
        assert [m.text for m in guarded("good").batch(["a", "b"])] == ["good", "good"]

    async def test_abatch(self):
        assert [m.text for m in await guarded("good").abatch(["a", "b"])] == ["good", "good"]


class TestCallbacks:
    def test_one_chat_model_run(self, run):
        recorder = Recorder()
        run(guarded("REJECTED", "good"), config={"callbacks": [recorder]})
        names = [event for event, *_ in recorder.events if event != "on_llm_new_token"]
        assert names == ["on_chat_model_start", "on_llm_end"]
        assert "REJECTED" not in recorder.text()

    @pytest.mark.parametrize(("trace", "shown"), [(True, True), ("redacted", False)])
    async def test_candidates_as_child_runs(self, trace, shown):
        recorder = Recorder()
        guard = guarded("REJECTED", "good", trace_candidates=trace)
        await guard.ainvoke("question", {"callbacks": [recorder]})
        (_, outer), *children = recorder.named("on_chat_model_start")
        assert {kwargs["parent_run_id"] for _, kwargs in children} == {outer["run_id"]}
        tags = {tag for _, kwargs in children for tag in kwargs["tags"]} - {"nostream"}
        assert tags == {"srr:candidate:0", "srr:candidate:1"}
        assert ("REJECTED" in recorder.text()) is shown

    async def test_events_hold_the_chosen_answer_only(self):
        guard = guarded("REJECTED", "good words")
        events = [e async for e in guard.astream_events("question", version="v2")]
        assert "REJECTED" not in repr(events)
        streamed = [e["data"]["chunk"].text for e in events if e["event"].endswith("_stream")]
        assert "".join(streamed) == "good words"

    async def test_streaming_invoke(self):
        recorder = Recorder()
        guard = guarded("REJECTED", "good", streaming=True)
        await guard.ainvoke("question", {"callbacks": [recorder]})
        assert recorder.named("on_llm_new_token")[0][0] == ("good",)


class TestOptions:
    def test_reach_the_calls(self):
        model = Listening(answers=["good"])
        guard = guarded(model=model, stop=["."], temperature=0.5, max_tokens=7)
        guard.invoke("question", seed=3)
        guard.invoke("question", stop=["!"])
        own = {"temperature": 0.5, "max_tokens": 7}
        assert model.heard == [{"stop": ["."], "seed": 3, **own}] * 2 + [{"stop": ["!"], **own}] * 2

    def test_configurable_of_a_surrounding_chain(self):
        seen = []

        def note(message, config: RunnableConfig):
            seen.append(config["configurable"]["user"])
            return message

        inner = ScriptedChatModel(answers=["good"]) | RunnableLambda(note)
        chain = ChatPromptTemplate.from_template("{x}") | guarded(model=inner)
        chain.invoke({"x": "q"}, {"configurable": {"user": "u1"}})
        assert seen == ["u1", "u1"]

    def test_unknown(self):
        with pytest.raises(ConfigurationError, match="no option 'max_retries'"):
            guarded("good", max_retries=3)

    def test_functions_are_no_chat_models(self):
        with pytest.raises(ConfigurationError, match="wrap it in SafetyRanker"):
            SafetyRankedChatModel(lambda question: "good")

    def test_texts_are_no_messages(self, run):
        chain = ScriptedChatModel(answers=["good"]) | RunnableLambda(lambda m: str(m.text))
        with pytest.raises(SamplingError, match="'str'"):
            run(guarded(model=chain))

    def test_global_cache_does_not_answer(self):
        set_llm_cache(InMemoryCache())
        try:
            guard = guarded("good one", "good two")
            assert guard.invoke("q").response_metadata["srr_guard"]["distinct"] == 2
            strict = guarded("good", decision=DecisionPolicy(threshold=0.95))
            assert guarded("good").invoke("q").text == "good"
            assert strict.invoke("q").text == DEFAULT_REFUSAL
        finally:
            set_llm_cache(None)


class TestSeveralModels:
    def test_candidates_come_from_each(self, run):
        models = [ScriptedChatModel(answers=["REJECTED"]), ScriptedChatModel(answers=["good"])]
        guard = guarded(model=models)
        assert run(guard).text == "good"
        assert [model.calls for model in models] == [1, 1]
        assert run(guard.bind_tools([Joke])).text == "good"
        assert "ScriptedChatModel, ScriptedChatModel" in repr(guard)

    @pytest.mark.parametrize("raw", [False, True])
    def test_structured_output(self, raw):
        call = {"name": "Joke", "args": {"good_text": "x"}, "id": "1"}
        answer = AIMessage("", tool_calls=[call])
        models = [ScriptedChatModel(answers=["REJECTED"]), ScriptedChatModel(answers=[answer])]
        output = guarded(model=models).with_structured_output(Joke, include_raw=raw).invoke("q")
        assert (output["parsed"] if raw else output) == Joke(good_text="x")

    @pytest.mark.parametrize("raw", [False, True])
    def test_a_refusal_has_no_structured_form(self, raw):
        call = {"name": "Joke", "args": {"good_text": "x"}, "id": "1"}
        models = [ScriptedChatModel(answers=[AIMessage("", tool_calls=[call])])] * 2
        guard = guarded(model=models, decision=DecisionPolicy(threshold=0.95))
        with pytest.raises(BelowThresholdError):
            guard.with_structured_output(Joke, include_raw=raw).invoke("q")

    @pytest.mark.parametrize("raw", [False, True])
    def test_an_answer_that_does_not_fit_is_a_failed_candidate(self, raw):
        calls = [{"name": "Count", "args": {"good_number": n}, "id": "1"} for n in ("x", "3")]
        models = [
            ScriptedChatModel(answers=[AIMessage("", tool_calls=[call])] * 2) for call in calls
        ]
        guard = guarded(model=models).with_structured_output(Count, include_raw=raw)
        output = guard.invoke("q")
        assert (output["parsed"] if raw else output) == Count(good_number=3)


class Joke(BaseModel):
    good_text: str


class Count(BaseModel):
    """A number."""

    good_number: int


class TestBound:
    def test_structured_output(self):
        call = {"name": "Joke", "args": {"good_text": "x"}, "id": "1"}
        model = guarded("REJECTED", AIMessage("", tool_calls=[call]))
        assert model.with_structured_output(Joke).invoke("q") == Joke(good_text="x")
        raw = model.with_structured_output(Joke, include_raw=True).invoke("q")
        assert raw["parsed"] == Joke(good_text="x")
        # which candidate gets the other answer again is chance
        assert raw["raw"].response_metadata["srr_guard"]["reason"] in ("best_of_n", "fallback")

    @pytest.mark.parametrize("raw", [False, True])
    def test_what_the_parser_converts_fits(self, raw):
        call = {"name": "Count", "args": {"good_number": "3"}, "id": "1"}
        model = guarded(AIMessage("", tool_calls=[call]))
        found = model.with_structured_output(Count, include_raw=raw).invoke("q")
        assert (found["parsed"] if raw else found) == Count(good_number=3)
        with pytest.raises(AllCandidatesFailedError):  # a dict is not converted
            model.with_structured_output(Count.model_json_schema(), include_raw=raw).invoke("q")

    def test_a_refusal_has_no_structured_form(self):
        call = {"name": "Joke", "args": {"good_text": "x"}, "id": "1"}
        strict = DecisionPolicy(threshold=0.95)
        guard = guarded(AIMessage("", tool_calls=[call]), decision=strict)
        with pytest.raises(BelowThresholdError) as caught:
            guard.with_structured_output(Joke).invoke("q")
        assert "structured" in caught.value.__notes__[0]
        assert guard.invoke("q").text == DEFAULT_REFUSAL

    @pytest.mark.parametrize("method", ["bind_tools", "with_structured_output"])
    def test_model_without_tools(self, method):
        chain = ScriptedChatModel(answers=["good"]) | RunnableLambda(lambda m: m)
        with pytest.raises(ConfigurationError, match=method):
            getattr(guarded(model=chain), method)([Joke])

    def test_model_whose_tools_are_not_a_plain_binding(self):
        class Wrapping(ScriptedChatModel):
            def bind_tools(self, tools, **kwargs):
                return self.bind(tools=tools).with_config(tags=["bound"])

        guard = guarded(model=Wrapping(answers=["REJECTED", "good"])).bind_tools([Joke])
        assert guard.invoke("q").text == "good"

    def test_around_shares_the_guard(self):
        guard = guarded("REJECTED", decision=DecisionPolicy(below_threshold="pass"))
        other = guard.around(ScriptedChatModel(answers=["REJECTED too"]))
        assert other.invoke("q").text == "REJECTED too"
        assert guard.bypasses == other.bypasses == 1
        assert guard.totals.requests == other.totals.requests == 1

    def test_fallbacks(self):
        strict = DecisionPolicy(below_threshold="raise")
        chain = guarded("REJECTED", decision=strict).with_fallbacks([guarded("good")])
        assert chain.invoke("q").text == "good"

    async def test_in_an_agent(self):
        @tool
        def search(query: str) -> str:
            """Look something up."""
            return f"found {query}"

        call = AIMessage("good", tool_calls=[{"name": "search", "args": {"query": "x"}, "id": "1"}])
        model = guarded("REJECTED", call, "REJECTED", "good end")
        agent = create_agent(model=model, tools=[search])
        parts = [
            part
            async for part in agent.astream({"messages": [("user", "q")]}, stream_mode="messages")
        ]
        assert "REJECTED" not in repr(parts)
        assert parts[-1][0].text == "good end"


class TestNameAndProfile:
    """Frameworks look them up to choose how to ask for structured output."""

    @pytest.mark.parametrize(
        ("fields", "name"),
        [
            ({"model_name": "gpt-5-mini"}, "gpt-5-mini"),
            ({"model": "claude-x"}, "claude-x"),
            ({"model_id": "m"}, "m"),
            ({"model": 7}, "Named"),
            ({}, "Named"),
        ],
    )
    def test_name(self, fields, name):
        class Named(ScriptedChatModel):
            model_config = ConfigDict(extra="allow", protected_namespaces=())

        inner = Named(answers=["good"], **fields)
        assert guarded(model=inner).model_name == name
        assert guarded(model=inner.bind(stop=["x"])).model_name == name

    def test_profile_is_that_of_the_model_inside(self):
        inner = ScriptedChatModel(answers=["good"], profile={"structured_output": True})
        assert guarded("good").around(inner).profile == {"structured_output": True}
        assert guarded(model=inner).around(ScriptedChatModel(answers=["a"])).profile is None


def test_repr_and_traces_hold_no_secrets():
    class Keyed(FakeListChatModel):
        api_key: SecretStr = SecretStr("hidden")
        plain_key: str = "sk-hidden"

    guard = guarded(model=Keyed(responses=["good"]))
    assert repr(guard) == str(guard) == "SafetyRankedChatModel(Keyed, n=2, threshold=0.5)"
    recorder = Recorder()
    guard.invoke("q", {"callbacks": [recorder]})
    assert "hidden" not in recorder.text()
    assert "hidden" not in guard.model_dump_json()


def test_pickles_where_its_parts_do():
    guard = SafetyRankedChatModel(FakeListChatModel(responses=["good"]))
    assert repr(pickle.loads(pickle.dumps(guard))) == repr(guard)
    with pytest.raises((AttributeError, pickle.PicklingError), match="pickle"):
        pickle.dumps(guarded("good", on_decision=lambda decision: None))


# ---- what the caller's config says ----


async def last(stream):
    return [chunk async for chunk in stream][-1]


WAYS = {
    "invoke": lambda model, config: model.invoke("q", config),
    "stream": lambda model, config: list(model.stream("q", config))[-1],
    "batch": lambda model, config: model.batch(["q"], config)[0],
    "ainvoke": lambda model, config: asyncio.run(model.ainvoke("q", config)),
    "astream": lambda model, config: asyncio.run(last(model.astream("q", config))),
    "abatch": lambda model, config: asyncio.run(model.abatch(["q"], config))[0],
    "bound": lambda model, config: model.with_config(config).invoke("q"),
    "chain": lambda model, config: (RunnablePassthrough() | model).invoke("q", config),
}


@pytest.mark.parametrize("way", WAYS)
class TestConfig:
    scorer = FakeScorer(lambda *_: 0.9)

    def test_fields_of_the_model_inside_are_configured(self, way):
        model = ScriptedChatModel(answers=["one"])
        inside = model.configurable_fields(answers=ConfigurableField(id="answers"))
        guarded = SafetyRankedChatModel(inside, scorer=self.scorer, n=2)
        said = WAYS[way](guarded, {"configurable": {"answers": ["two"]}})
        assert said.text == "two"
        assert guarded.invoke("q").text == "one"

    def test_tags_and_metadata_reach_the_candidates(self, way):
        seen = []
        chain = RunnableLambda(noted_in(seen)) | ScriptedChatModel(answers=["good"])
        guarded = SafetyRankedChatModel(chain, scorer=self.scorer, n=2)
        config = {"tags": ["t"], "metadata": {"tenant": "a"}, "callbacks": [Once()]}
        WAYS[way](guarded, config)
        assert seen[0]["tags"] == ["t"]
        assert seen[0]["metadata"]["tenant"] == "a"


def noted_in(seen):
    def look(value, config):
        seen.append(config)
        return value

    return look


class Once(BaseCallbackHandler):
    """Hears of the guarded model alone."""

    raise_error = True
    starts = 0

    def on_chat_model_start(self, *args, **kwargs):
        self.starts += 1
        assert self.starts == 1


@pytest.mark.parametrize("kind", [SafetyRanker, SafetyRankedChatModel])
class TestSeveralAnswers:
    """Of several answers LangChain keeps one: the others would cost, and are not scored."""

    scorer = FakeScorer(lambda *_: 0.9)

    def test_asked_for_in_the_call(self, kind):
        model = ScriptedChatModel(answers=["good"])
        guarded = kind(model, scorer=self.scorer)
        with pytest.raises(ConfigurationError, match="n=3 asks the provider"):
            guarded.invoke("q", n=3)
        with pytest.raises(ConfigurationError, match="n=3 asks the provider"):
            guarded.bind(n=3).invoke("q")
        assert guarded.invoke("q", n=1).text == "good"

    def test_bound_or_set_on_the_model(self, kind):
        class Several(ScriptedChatModel):
            n: int = 3

        for model in (ScriptedChatModel(answers=["good"]).bind(n=3), Several(answers=["good"])):
            with pytest.raises(ConfigurationError, match="n=3 asks the provider"):
                kind(model, scorer=self.scorer)

    def test_an_argument_of_a_function_is_none(self, kind):
        if kind is SafetyRankedChatModel:
            pytest.skip("wraps no function")

        def said(question, n=1):
            return f"good {n}"

        assert kind(RunnableLambda(said), scorer=self.scorer).invoke("q", n=3) == "good 3"
