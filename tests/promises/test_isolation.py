"""No text of a rejected answer gets out, by whatever road."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from doors import SCORER, Answer, quick
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.context import collect_runs
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt
from promises import promise

from srr_guard import SafetyRankedChatModel, SafetyRanker, srr_guard
from srr_guard.errors import BelowThresholdError, ConfigurationError, NotRepeatableError
from srr_guard.testing import ScriptedChatModel

REJECTED = Answer("HARM one two", thinking="HARM thoughts")
FINE = Answer("a fine one")


class Recorder(BaseCallbackHandler):
    """Keeps all that it is told."""

    run_inline = True

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_"):
            return lambda *args, **kwargs: self.heard.append((name, args, kwargs))
        return super().__getattribute__(name)


class AsyncRecorder(AsyncCallbackHandler):
    """The same, async."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_"):

            async def hear(*args: Any, **kwargs: Any) -> None:
                self.heard.append((name, args, kwargs))

            return hear
        return super().__getattribute__(name)


def runnable(asker) -> RunnableLambda[Any, Any]:
    """A run around the door."""

    async def later(question: str) -> Any:
        return await asker.aask(question)

    return RunnableLambda(asker.ask, later)


def guarded(door, **sampling):
    return door(REJECTED, FINE, scorer=SCORER, sampling=quick(2, **sampling))


def through(outer, mode: str, *args: Any, **kwargs: Any) -> Any:
    if mode == "sync":
        return outer.invoke(*args, **kwargs)
    return asyncio.run(outer.ainvoke(*args, **kwargs))


@pytest.mark.parametrize("mode", ["sync", "async"])
class TestRoads:
    @promise("isolated")
    @pytest.mark.needs("callbacks")
    @pytest.mark.parametrize("handler", [Recorder, AsyncRecorder])
    def test_callbacks_of_the_run_around(self, door, mode, handler):
        heard = handler()
        through(runnable(guarded(door)), mode, "q", {"callbacks": [heard]})
        assert "HARM" not in repr(heard.heard)
        assert "a fine one" in repr(heard.heard)

    @promise("isolated")
    @pytest.mark.needs("callbacks")
    def test_every_key_of_the_config(self, door, mode):
        heard = Recorder()
        config = {
            "callbacks": [heard],
            "tags": ["t"],
            "metadata": {"k": 1},
            "run_name": "mine",
            "max_concurrency": 3,
            "recursion_limit": 9,
            "configurable": {"thread_id": "1"},
        }
        through(runnable(guarded(door)), mode, "q", config)
        assert "HARM" not in repr(heard.heard)

    @promise("isolated")
    @pytest.mark.needs("callbacks")
    def test_collected_runs(self, door, mode):
        with collect_runs() as runs:
            through(runnable(guarded(door)), mode, "q")
        assert runs.traced_runs
        assert "HARM" not in repr([run.model_dump() for run in runs.traced_runs])

    @promise("isolated")
    @pytest.mark.needs("callbacks")
    def test_retries_and_failures(self, door, mode):
        heard = Recorder()
        asker = door(REJECTED, ConnectionError("HARM"), FINE, scorer=SCORER, sampling=quick(3))
        with suppress(ConnectionError):
            through(runnable(asker), mode, "q", {"callbacks": [heard]})
        assert "HARM" not in repr(heard.heard)


@promise("isolated")
@pytest.mark.needs("callbacks")
@pytest.mark.filterwarnings("ignore:astream_:DeprecationWarning")
@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_event_streams(door, version):
    heard = [event async for event in runnable(guarded(door)).astream_events("q", version=version)]
    assert "HARM" not in repr(heard)
    assert "a fine one" in repr(heard)


@promise("isolated")
@pytest.mark.needs("callbacks")
@pytest.mark.filterwarnings("ignore:.*v3:langchain_core._api.LangChainBetaWarning")
async def test_event_streams_of_the_third_version(door):
    """They are there for chat models and graphs."""
    node = runnable(guarded(door)) | (lambda answer: {"messages": [answer]})
    graph = in_graph((lambda state: "q") | node)
    inputs = {"messages": [("user", "q")]}
    heard = list(graph.stream_events(inputs, version="v3"))
    heard += [event async for event in await graph.astream_events(inputs, version="v3")]
    assert "HARM" not in repr(heard)
    assert "a fine one" in repr(heard)


@pytest.mark.filterwarnings("ignore:.*v3:langchain_core._api.LangChainBetaWarning")
async def test_event_streams_of_a_ranked_chat_model():
    model = ScriptedChatModel(answers=["HARM one two", "a fine one"])
    ranked = SafetyRankedChatModel(model, scorer=SCORER, sampling=quick(2))
    heard = list(ranked.stream_events("q", version="v3"))
    heard += [event async for event in await ranked.astream_events("q", version="v3")]
    assert "HARM" not in repr(heard)
    assert "a fine one" in repr(heard)


@promise("isolated")
@pytest.mark.needs("callbacks")
@pytest.mark.filterwarnings("ignore:astream_log:DeprecationWarning")
async def test_log_streams(door):
    patches = [patch async for patch in runnable(guarded(door)).astream_log("q")]
    assert "HARM" not in repr(patches)


MODES = ["messages", "custom", "updates", "values", "tasks", "debug", "checkpoints"]


@promise("isolated")
@pytest.mark.needs("callbacks")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("subgraphs", [False, True])
async def test_streams_of_a_graph(door, mode, subgraphs):
    node = runnable(guarded(door)) | (lambda answer: {"messages": [answer]})
    graph = StateGraph(MessagesState).add_node("n", (lambda state: "q") | node)
    graph = graph.add_edge(START, "n").compile()
    inputs = {"messages": [("user", "q")]}
    parts = list(graph.stream(inputs, stream_mode=mode, subgraphs=subgraphs))
    parts += [p async for p in graph.astream(inputs, stream_mode=mode, subgraphs=subgraphs)]
    assert "HARM" not in repr(parts)


# ---- what a candidate itself can reach, in functions ----


def in_graph(function: Any, **compiled: Any) -> Any:
    graph = StateGraph(MessagesState).add_node("n", function).add_edge(START, "n")
    return graph.compile(**compiled)


def as_decorated(function: Any) -> Any:
    return srr_guard(scorer=SCORER, sampling=quick(3))(function)


def as_ranker(function: Any) -> Any:
    return SafetyRanker(function, scorer=SCORER, sampling=quick(3)).invoke


FUNCTIONS = pytest.mark.parametrize("wrap", [as_decorated, as_ranker])


@FUNCTIONS
def test_custom_stream_of_a_graph(wrap):
    @wrap
    def answer(question: str) -> str:
        for word in ("HARM", "one"):
            get_stream_writer()({"token": word})
        return "a fine one"

    graph = in_graph(lambda state: {"messages": [("ai", answer("q"))]})
    assert list(graph.stream({"messages": [("user", "q")]}, stream_mode="custom")) == []


def test_what_a_node_is_given():
    """Config, runtime and writer handed on to a guarded function lead nowhere."""
    from langchain_core.runnables import RunnableConfig
    from langgraph.runtime import Runtime
    from langgraph.types import StreamWriter

    model = ScriptedChatModel(answers=["HARM one", "a fine one"])

    @srr_guard(scorer=SCORER, sampling=quick(2))
    def answer(question, config, runtime, writer, again):
        runtime.stream_writer("HARM")
        writer("HARM")
        again("HARM")
        config["configurable"]["__pregel_runtime"].stream_writer("HARM")
        return model.invoke(question, config)

    def node(state, config: RunnableConfig, runtime: Runtime, writer: StreamWriter):
        writer("mine")
        said = answer("q", config, runtime=runtime, writer=writer, again=get_stream_writer())
        return {"messages": [said]}

    graph = in_graph(node)
    modes = ["messages", "custom", "updates"]
    parts = list(graph.stream({"messages": [("user", "q")]}, stream_mode=modes))
    assert "HARM" not in repr(parts)
    assert ("custom", "mine") in parts


@dataclass
class Deps:
    config: Any
    roads: tuple[Any, ...]


@pytest.mark.parametrize("put", ["dict", "dataclass"])
def test_what_a_node_is_given_inside_of_something(put):
    from langchain_core.runnables import RunnableConfig
    from langgraph.runtime import Runtime

    model, heard = ScriptedChatModel(answers=["HARM one", "a fine one"]), Recorder()

    @srr_guard(scorer=SCORER, sampling=quick(2))
    def answer(question, deps):
        config, (runtime, writer) = (
            (deps["config"], deps["roads"]) if put == "dict" else (deps.config, deps.roads)
        )
        runtime.stream_writer("HARM")
        writer("HARM")
        return model.invoke(question, config)

    def node(state, config: RunnableConfig, runtime: Runtime):
        deps = {"config": config, "roads": (runtime, runtime.stream_writer)}
        return {"messages": [answer("q", deps if put == "dict" else Deps(**deps))]}

    graph = in_graph(node)
    modes = ["messages", "custom", "updates"]
    asked = {"messages": [("user", "q")]}
    parts = list(graph.stream(asked, {"callbacks": [heard]}, stream_mode=modes))
    assert "HARM" not in repr(parts) + repr(heard.heard)


@pytest.mark.parametrize("made", ["callbacks", "config", "listener", "binding"])
def test_what_a_model_carries(made):
    heard = Recorder()
    model: Any = ScriptedChatModel(answers=["HARM one", "a fine one"])
    if made == "callbacks":
        model = model.model_copy(update={"callbacks": [heard]})
    elif made == "config":
        model = model.with_config(callbacks=[heard])
    elif made == "listener":
        model = model.with_listeners(on_end=lambda run: heard.heard.append(run.outputs))
    else:
        model = model.bind(stop=["x"]).with_config(callbacks=[heard]) | (lambda m: m.text)
    assert "fine" in repr(SafetyRanker(model, scorer=SCORER, sampling=quick(2)).invoke("q"))
    assert heard.heard == []
    shown = SafetyRanker(model, scorer=SCORER, sampling=quick(2), trace_candidates=True)
    shown.invoke("q")
    assert "HARM" in repr(heard.heard)


def test_what_an_agent_carries():
    from langchain.agents import create_agent

    heard = Recorder()
    agent = create_agent(ScriptedChatModel(answers=["HARM one", "a fine one"]))
    guarded_agent = SafetyRanker(
        agent.with_config(callbacks=[heard]), scorer=SCORER, sampling=quick(2)
    )
    answer = guarded_agent.invoke({"messages": [("user", "q")]})
    assert answer["messages"][-1].text == "a fine one"
    assert heard.heard == []


# ---- what asks a human, or keeps state ----


@FUNCTIONS
def test_interrupts_are_refused_before_anybody_is_asked(wrap):
    from langgraph.checkpoint.memory import InMemorySaver

    @wrap
    def answer(question: str) -> str:
        return "hello " + interrupt("who are you?")

    graph = in_graph(
        lambda state: {"messages": [("ai", answer("q"))]}, checkpointer=InMemorySaver()
    )
    thread = {"configurable": {"thread_id": "1"}}
    with pytest.raises(NotRepeatableError, match=r"interrupt\(\).*before or after"):
        graph.invoke({"messages": [("user", "q")]}, thread)
    assert not graph.get_state(thread).interrupts


@promise("repeatable")
def test_a_model_that_interrupts(door, ask):
    from langgraph.errors import GraphInterrupt

    asker = door(GraphInterrupt(()), scorer=SCORER, sampling=quick(3))
    with pytest.raises(NotRepeatableError, match="put the guard inside"):
        ask(asker)


@FUNCTIONS
def test_tasks_are_refused(wrap):
    from langgraph.func import entrypoint, task

    @task
    def look_up(question: str) -> str:
        return question

    @wrap
    def answer(question: str) -> str:
        return look_up(question).result()

    @entrypoint()
    def flow(question: str) -> str:
        return answer(question)

    with pytest.raises(NotRepeatableError, match="put @task outermost"):
        flow.invoke("q")


def test_graphs_that_stop_or_keep_state_are_refused_where_they_are_wrapped():
    from langgraph.checkpoint.memory import InMemorySaver

    def node(state):
        return {"messages": [("ai", "a fine one")]}

    with pytest.raises(ConfigurationError, match=r"has a checkpointer.*put the guard inside"):
        SafetyRanker(in_graph(node, checkpointer=InMemorySaver()))
    with pytest.raises(ConfigurationError, match="stops at nodes"):
        SafetyRanker(in_graph(node, interrupt_before=["n"]))
    plain = SafetyRanker(in_graph(node), scorer=SCORER, sampling=quick(2))
    assert plain.invoke({"messages": [("user", "q")]})["messages"][-1].text == "a fine one"


def test_a_graph_inside_that_asks_a_human():
    inner = in_graph(lambda state: {"messages": [("ai", interrupt("who?"))]})
    guarded_graph = SafetyRanker(inner, scorer=SCORER, sampling=quick(2))
    outer = in_graph(lambda state: guarded_graph.invoke(state))
    for graph in (guarded_graph, outer):
        with pytest.raises(NotRepeatableError, match="to ask a human"):
            graph.invoke({"messages": [("user", "q")]})


def test_an_inner_graph_writes_to_no_checkpoint_of_the_outer_one():
    from langgraph.checkpoint.memory import InMemorySaver

    inner = in_graph(lambda state: {"messages": [("ai", "HARM" if len(seen) % 2 else "fine")]})
    seen: list[int] = []
    guarded_graph = SafetyRanker(
        inner | (lambda state: seen.append(1) or state), scorer=SCORER, sampling=quick(2)
    )
    saver = InMemorySaver()
    outer = in_graph(lambda state: guarded_graph.invoke(state), checkpointer=saver)
    thread = {"configurable": {"thread_id": "1"}}
    outer.invoke({"messages": [("user", "q")]}, thread)
    assert {c.config["configurable"]["checkpoint_ns"] for c in saver.list(thread)} == {""}


@pytest.mark.parametrize("way", ["ranker", "function"])
@pytest.mark.parametrize("is_async", [False, True])
def test_each_candidate_may_run_graphs_of_its_own(way, is_async):
    """In a node, where LangGraph counts the graphs that are run inside it."""
    model = ScriptedChatModel(answers=[f"HARM {i}" for i in range(5)] + ["a fine one"])
    inner = in_graph(lambda state: {"messages": [model.invoke(state["messages"])]})

    def twice(state):
        inner.invoke(state)
        return inner.invoke(state)

    chain = inner if way == "ranker" else RunnableLambda(twice)
    guard = SafetyRanker(chain, scorer=SCORER, sampling=quick(3, attempts=1))
    decisions = []

    def node(state):
        decisions.append(guard.decide(state))
        return decisions[-1].output

    async def anode(state):
        decisions.append(await guard.adecide(state))
        return decisions[-1].output

    graph, asked = in_graph(anode if is_async else node), {"messages": [("user", "q")]}
    for _ in range(2):  # one of them has the answer
        with suppress(BelowThresholdError):
            asyncio.run(graph.ainvoke(asked)) if is_async else graph.invoke(asked)
    assert all(decision.failed == 0 for decision in decisions)
    assert any(decision.output for decision in decisions)


def test_a_stream_writer_kept_aside_is_refused_by_name():
    """The graph's own, by a road on which nothing could stand in for it."""

    def node(state):
        write = get_stream_writer()
        answer = srr_guard(scorer=SCORER, sampling=quick(2))(lambda q: write("HARM") or "fine")
        return {"messages": [("ai", answer("q"))]}

    with pytest.raises(NotRepeatableError, match="writes to its graph's stream"):
        list(in_graph(node).stream({"messages": [("user", "q")]}, stream_mode="custom"))


SESSION = {"configurable": {"session_id": "1"}}


@pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated")
class TestHistories:
    """Around the guard a history works; inside it is refused."""

    def parts(self):
        from langchain_core.chat_history import BaseChatMessageHistory
        from langchain_core.prompts import ChatPromptTemplate
        from langchain_core.runnables.history import RunnableWithMessageHistory

        class History(BaseChatMessageHistory):
            def __init__(self):
                self.messages = []

            def add_messages(self, messages):
                self.messages.extend(messages)

            def clear(self):
                self.messages = []

        store = History()
        model = ScriptedChatModel(answers=["HARM", "a fine one"])
        chain = (
            ChatPromptTemplate.from_messages([("placeholder", "{past}"), ("human", "{input}")])
            | model
        )

        def with_history(inner):
            return RunnableWithMessageHistory(
                inner, lambda _: store, input_messages_key="input", history_messages_key="past"
            )

        return chain, store, with_history

    def test_around(self):
        chain, store, with_history = self.parts()
        guarded_chain = SafetyRanker(chain, scorer=SCORER, sampling=quick(2))
        with_history(guarded_chain).invoke({"input": "q"}, SESSION)
        assert [m.text for m in store.messages] == ["q", "a fine one"]

    @pytest.mark.parametrize(
        "put",
        [
            lambda h: h,
            lambda h: h.with_config(tags=["t"]),
            lambda h: h | (lambda m: m.text),
            lambda h: h.with_retry(),
            lambda h: RunnableLambda(lambda _: h),
            lambda h: [ScriptedChatModel(answers=["a"]), h],
        ],
    )
    def test_inside(self, put):
        chain, _, with_history = self.parts()
        with pytest.raises(ConfigurationError, match=r"chat history.*put the guard inside"):
            SafetyRanker(put(with_history(chain)))

    @FUNCTIONS
    def test_inside_a_function(self, wrap):
        chain, store, with_history = self.parts()

        @wrap
        def answer(question: str) -> Any:
            return with_history(chain).invoke({"input": question}, SESSION)

        with pytest.raises(NotRepeatableError, match="keeps a chat history"):
            answer("q")
        assert store.messages == []

    def test_memories(self):
        class Memory:
            def save_context(self, *args):
                raise AssertionError

        chain = ScriptedChatModel(answers=["a"]) | (lambda m: m)
        object.__setattr__(chain, "memory", Memory())
        with pytest.raises(ConfigurationError, match="keeps a memory"):
            SafetyRanker(chain)


# ---- the operator's own road, which stays open ----


@pytest.mark.parametrize("trace", [False, "redacted"])
def test_handlers_hooked_into_every_manager_hear_everything(monkeypatch, trace):
    """docs/tracing.md says so in its first paragraph; this test tells when it is no longer true."""
    from langchain_core.callbacks import BaseCallbackManager

    heard = Recorder()
    made = BaseCallbackManager.__init__

    def hooked(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        if heard not in self.inheritable_handlers:
            self.add_handler(heard, inherit=True)

    monkeypatch.setattr(BaseCallbackManager, "__init__", hooked)
    model = ScriptedChatModel(answers=["HARM", "a fine one"])
    SafetyRanker(model, scorer=SCORER, sampling=quick(2), trace_candidates=trace).invoke("q")
    assert "HARM" in repr(heard.heard)
