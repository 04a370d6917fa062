"""What reaches callbacks, streams and traces of candidates that were rejected: nothing."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    CallbackManager,
    get_usage_metadata_callback,
)
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import Generation, LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tracers.context import collect_runs, tracing_v2_enabled
from langchain_core.tracers.langchain import LangChainTracer
from langgraph.graph import END, START, MessagesState, StateGraph
from langsmith import tracing_context
from langsmith.utils import get_env_var
from recording import FakeLangSmith, Recorder

from srr_guard import AllCandidatesFailedError, SafetyRanker, SamplingPolicy, srr_guard
from srr_guard.runnables.tracing import shielded
from srr_guard.testing import FakeScorer, ScriptedChatModel

USAGE = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
METADATA = {"model_name": "scripted-1"}


def by_word(prompt: str, answer: str) -> float:
    return 0.9 if "good" in answer else 0.1


def answers() -> list[AIMessage]:
    return [
        AIMessage(text, usage_metadata=USAGE, response_metadata=METADATA)
        for text in ("REJECTED one two", "good three")
    ]


def ranker(model=None, **kwargs) -> SafetyRanker:
    return SafetyRanker(
        ScriptedChatModel(answers=answers()) if model is None else model,
        scorer=FakeScorer(by_word),
        sampling=SamplingPolicy(n=2, backoff=0.0, attempts=1),
        **kwargs,
    )


@pytest.fixture(params=["invoke", "ainvoke", "stream", "astream"])
def run(request):
    """Run to the end, each way there is."""

    def collect(runnable, value, config=None):
        async def through_astream():
            return [part async for part in runnable.astream(value, config)]

        match request.param:
            case "invoke":
                return runnable.invoke(value, config)
            case "ainvoke":
                return asyncio.run(runnable.ainvoke(value, config))
            case "stream":
                return list(runnable.stream(value, config))
            case _:
                return asyncio.run(through_astream())

    return collect


class TestIsolated:
    """The default."""

    def test_callbacks_see_one_run(self, run):
        recorder = Recorder()
        run(ranker(), "question", {"callbacks": [recorder]})
        assert [event for event, *_ in recorder.events] == ["on_chain_start", "on_chain_end"]
        assert "REJECTED" not in recorder.text()

    @pytest.mark.parametrize("inner", ["model", "chain", "function"])
    def test_tracer_of_the_environment(self, run, monkeypatch, inner):
        client = FakeLangSmith()
        tracer = LangChainTracer(client=client)
        traced = []
        for method in ("_persist_run_single", "_update_run_single"):
            monkeypatch.setattr(LangChainTracer, method, lambda _, run: traced.append(run))
        model = ScriptedChatModel(answers=answers())
        wrapped = {
            "model": model,
            "chain": ChatPromptTemplate.from_template("{x}?") | model | StrOutputParser(),
            "function": RunnableLambda(lambda x: model.invoke(x["x"]).text),
        }[inner]
        value = "question" if inner == "model" else {"x": "question"}
        with tracing_context(enabled=True, client=client), tracing_v2_enabled(client=client):
            run(ranker(wrapped), value, {"callbacks": [tracer]})
        assert traced
        assert {r.name for r in traced} == {"SafetyRanker"}
        assert "REJECTED" not in repr([(r.inputs, r.outputs) for r in traced])

    def test_tracing_by_environment_variable(self, run, monkeypatch):
        traced = []
        monkeypatch.setenv("LANGSMITH_TRACING", "true")
        monkeypatch.setattr("langchain_core.tracers.langchain.get_client", FakeLangSmith)
        for method in ("_persist_run_single", "_update_run_single"):
            monkeypatch.setattr(LangChainTracer, method, lambda _, run: traced.append(run))
        get_env_var.cache_clear()
        try:
            run(ranker(), "question")
        finally:
            get_env_var.cache_clear()
        assert {r.name for r in traced} == {"SafetyRanker"}

    def test_run_collector(self, run):
        with collect_runs() as collected:
            run(ranker(), "question")
        assert [r.name for r in collected.traced_runs] == ["SafetyRanker"]
        assert "REJECTED" not in repr([r.outputs for r in collected.traced_runs])

    def test_tracing_of_the_caller_goes_on(self):
        with collect_runs() as collected:
            (ranker() | StrOutputParser()).invoke("question")
        assert [r.name for r in collected.traced_runs] == ["RunnableSequence"]
        assert [r.name for r in collected.traced_runs[0].child_runs] == [
            "SafetyRanker",
            "StrOutputParser",
        ]

    def test_usage_counters_see_every_candidate(self, run):
        with get_usage_metadata_callback() as counter:
            run(ranker(), "question")
        assert counter.usage_metadata["scripted-1"]["total_tokens"] == 14


def text_of(parts) -> str:
    return repr(parts)


def graph(node):
    builder = StateGraph(MessagesState)
    builder.add_node("model", node)
    builder.add_edge(START, "model")
    builder.add_edge("model", END)
    return builder.compile()


MODES = [False, "redacted"]


class TestStreams:
    @pytest.mark.parametrize("trace", MODES)
    async def test_astream_events(self, trace):
        chain = ranker(trace_candidates=trace) | StrOutputParser()
        events = [e async for e in chain.astream_events("question", version="v2")]
        assert "REJECTED" not in text_of(events)
        assert "good three" in text_of(events)
        assert not [e for e in events if e["event"] == "on_chat_model_stream"]

    @pytest.mark.filterwarnings("ignore:astream_log is deprecated")  # but still there
    @pytest.mark.parametrize("trace", MODES)
    async def test_astream_log(self, trace):
        chain = ranker(trace_candidates=trace) | StrOutputParser()
        patches = [p async for p in chain.astream_log("question")]
        assert "REJECTED" not in text_of(patches)
        assert "good three" in text_of(patches)

    @pytest.mark.parametrize("trace", MODES)
    async def test_messages_of_a_graph(self, trace):
        guard = ranker(trace_candidates=trace)

        def node(state):
            return {"messages": [guard.invoke(state["messages"])]}

        async def anode(state):
            return {"messages": [await guard.ainvoke(state["messages"])]}

        inputs = {"messages": [("user", "question")]}
        parts = await asyncio.to_thread(
            lambda: list(graph(node).stream(inputs, stream_mode="messages"))
        )
        aparts = [p async for p in graph(anode).astream(inputs, stream_mode="messages")]
        for got in (parts, aparts):
            assert "".join(m.text for m, _ in got) == "good three"


class TestRedacted:
    def test_child_runs_without_text(self, run):
        recorder = Recorder()
        run(ranker(trace_candidates="redacted"), "question", {"callbacks": [recorder]})
        starts = recorder.named("on_chat_model_start")
        assert {t for _, kw in starts for t in kw["tags"] if t.startswith("srr:")} == {
            "srr:candidate:0",
            "srr:candidate:1",
        }
        (parent, *_) = recorder.named("on_chain_start")
        assert {kw["parent_run_id"] for _, kw in starts} == {parent[1]["run_id"]}
        ends = [args[0].generations[0][0].message for args, _ in recorder.named("on_llm_end")]
        assert [m.content for m in ends] == ["[redacted]"] * 2
        assert [m.usage_metadata["total_tokens"] for m in ends] == [7, 7]
        assert [m.response_metadata for m in ends] == [METADATA] * 2
        assert recorder.named("on_llm_new_token") == []
        assert "REJECTED" not in recorder.text()

    def test_chains_tools_and_errors(self, run):
        model = ScriptedChatModel(answers=answers())

        def fail(message):
            if "REJECTED" in message.text:
                raise ValueError(message.text)
            return message.text

        recorder = Recorder()
        chain = model | RunnableLambda(fail)
        run(ranker(chain, trace_candidates="redacted"), "question", {"callbacks": [recorder]})
        assert "REJECTED" not in recorder.text()
        errors = [str(args[0]) for args, _ in recorder.named("on_chain_error")]
        assert set(errors) == {"ValueError (its text is redacted)"}

    def test_failure_of_all(self, run):
        recorder = Recorder()
        guard = ranker(
            ScriptedChatModel(answers=[ValueError("REJECTED")]), trace_candidates="redacted"
        )
        with pytest.raises(AllCandidatesFailedError):
            run(guard, "question", {"callbacks": [recorder]})
        children = recorder.named("on_llm_error")
        assert {str(args[0]) for args, _ in children} == {"ValueError (its text is redacted)"}

    def test_asynchronous_handler(self):
        seen = []

        class Handler(AsyncCallbackHandler):
            async def on_llm_end(self, response, **kwargs):
                seen.append(response.generations[0][0].text)

        guard = ranker(trace_candidates="redacted")
        asyncio.run(guard.ainvoke("question", {"callbacks": [Handler()]}))
        assert seen == ["[redacted]", "[redacted]"]

    def test_langsmith(self, run, monkeypatch):
        traced = {}

        def keep(_, run):
            traced[run.id] = run

        monkeypatch.setattr(LangChainTracer, "_persist_run_single", keep)
        monkeypatch.setattr(LangChainTracer, "_update_run_single", keep)
        with tracing_context(enabled=True), tracing_v2_enabled(client=FakeLangSmith()):
            run(ranker(trace_candidates="redacted"), "question")
        assert sorted(r.name for r in traced.values()) == [
            "SafetyRanker",
            "ScriptedChatModel",
            "ScriptedChatModel",
        ]
        assert "REJECTED" not in repr([(r.inputs, r.outputs) for r in traced.values()])


def test_traced_whole(run):
    recorder = Recorder()
    run(ranker(trace_candidates=True), "question", {"callbacks": [recorder]})
    assert "REJECTED" in recorder.text()
    tags = {t for _, kw in recorder.named("on_chat_model_start") for t in kw["tags"]}
    assert tags == {"srr:candidate:0", "srr:candidate:1"}


class TestFunctions:
    """What a guarded function calls is as isolated as what a ranker wraps."""

    @pytest.mark.parametrize("kind", ["sync", "async"])
    def test_candidates_are_not_traced(self, kind):
        model = ScriptedChatModel(answers=answers())
        options = {"scorer": FakeScorer(by_word), "n": 2}

        @srr_guard(**options)
        def answer(question: str) -> str:
            return model.invoke(question).text

        @srr_guard(**options)
        async def answer_async(question: str) -> str:
            return (await model.ainvoke(question)).text

        with collect_runs() as collected, tracing_v2_enabled(client=FakeLangSmith()) as tracer:
            if kind == "sync":
                assert answer("q") == "good three"
            else:
                assert asyncio.run(answer_async("q")) == "good three"
        assert collected.traced_runs == []
        assert tracer.latest_run is None

    async def test_async_llms(self):
        class Native(FakeListLLM):
            async def _agenerate(self, prompts, **kwargs):
                return LLMResult(generations=[[Generation(text="good")]])

        llm = Native(responses=["unused"])

        @srr_guard(scorer=FakeScorer(by_word), n=2)
        async def answer(question: str) -> str:
            return await llm.ainvoke(question)

        assert await RunnableLambda(answer).ainvoke("q") == "good"


CONFIG: RunnableConfig = {"callbacks": [BaseCallbackHandler()], "tags": ["t"]}


class TestShielded:
    """Arguments that lead to the outside are given in a form that leads nowhere."""

    def test_configs(self):
        inside = shielded(CONFIG, {})
        assert inside["tags"] == ["t"]
        assert CONFIG["callbacks"][0] not in inside["callbacks"].handlers

    @pytest.mark.parametrize(
        "value", [{"tags": ["t"]}, {"callbacks": 1, "other": 2}, "text", 7, None]
    )
    def test_other_values(self, value):
        assert shielded(value, {}) is value

    def test_managers_and_handlers(self):
        handler = BaseCallbackHandler()
        assert shielded(handler, {}) is not handler
        assert shielded([handler], {}) == []
        assert shielded(CallbackManager([handler]), {}).handlers == []

    def test_managers_of_a_run(self):
        handler = BaseCallbackHandler()
        manager = CallbackManager([handler]).on_chain_start({}, {})
        inside = shielded(manager, {})
        assert type(inside) is type(manager)
        assert inside.handlers == []

    def test_tool_runtimes(self):
        from langgraph.prebuilt import ToolRuntime

        written = []
        runtime = ToolRuntime(
            state={"k": 1},
            context=None,
            config=CONFIG,
            stream_writer=written.append,
            tool_call_id="1",
            store=None,
        )
        inside = shielded(runtime, {})
        inside.stream_writer("HARM")
        assert written == []
        assert (inside.state, inside.tool_call_id) == ({"k": 1}, "1")
        assert CONFIG["callbacks"][0] not in inside.config["callbacks"].handlers
