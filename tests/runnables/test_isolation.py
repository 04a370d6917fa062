"""No token of a candidate reaches a stream, an event or an agent's caller."""

from __future__ import annotations

import asyncio

import pytest
import rankers
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START, MessagesState, StateGraph
from rankers import ranker, tool_called_search

from srr_guard.policy import DEFAULT_REFUSAL
from srr_guard.testing import ScriptedChatModel


def texts_in(value) -> str:
    return repr(value)


@pytest.fixture(params=[False, True], ids=["whole", "read_ahead"])
def each_way(request, monkeypatch):
    """Candidates come whole, or are streamed to be read ahead."""
    monkeypatch.setitem(rankers.QUICK, "read_ahead", request.param)


@pytest.mark.usefixtures("each_way")
class TestIsolation:
    """No token and no text of a rejected candidate reaches the caller's streams."""

    async def test_astream_events(self):
        async def outer(question, config):
            return await guard.ainvoke(question, config)

        guard = ranker("REJECTED one two", "good three")
        for top in (guard, RunnableLambda(outer), guard | StrOutputParser()):
            events = [e async for e in top.astream_events("question", version="v2")]
            assert "REJECTED" not in texts_in(events)
            assert not [e for e in events if "chat_model" in e["event"]]
            assert "good three" in texts_in(events)

    async def test_decide_inside_a_traced_run(self):
        guard = ranker("REJECTED", "good")

        async def outer(question):
            return (await guard.adecide(question)).output.content

        events = [e async for e in RunnableLambda(outer).astream_events("q", version="v2")]
        assert "REJECTED" not in texts_in(events)

    async def test_functions_that_call_models(self):
        model = ScriptedChatModel(answers=["REJECTED one two", "good three"])

        def inner(question):
            return model.invoke(question).content

        async def outer(question):
            return await ranker(model=inner).ainvoke(question)

        events = [e async for e in RunnableLambda(outer).astream_events("q", version="v2")]
        assert "REJECTED" not in texts_in(events)

    @pytest.mark.parametrize("mode", ["messages", "updates", "values"])
    @pytest.mark.parametrize("bound", [False, True])
    async def test_langgraph_streams(self, stream, mode, bound):
        guard = ranker("REJECTED one two", "good three")
        if bound:
            guard = guard.bind_tools([tool_called_search()])

        def sync_node(state: MessagesState):
            return {"messages": [guard.invoke(state["messages"])]}

        async def async_node(state: MessagesState):
            return {"messages": [await guard.ainvoke(state["messages"])]}

        builder = StateGraph(MessagesState)
        builder.add_node("node", RunnableLambda(sync_node, async_node))
        builder.add_edge(START, "node")
        builder.add_edge("node", END)
        inputs = {"messages": [("user", "question")]}
        parts = await stream(builder.compile(), inputs, stream_mode=mode)
        assert "REJECTED" not in texts_in(parts)
        assert "good three" in texts_in(parts)

    @pytest.mark.parametrize("wrap", ["bind", "with_config", "with_retry", "with_fallbacks"])
    async def test_wrapped_models(self, wrap):
        """Bindings merge the callbacks of their context into the config they are given."""
        model = ScriptedChatModel(answers=["REJECTED one two", "good three"])
        wrapped = {
            "bind": model.bind(x=1),
            "with_config": model.with_config(tags=["t"]),
            "with_retry": model.with_retry(),
            "with_fallbacks": model.with_fallbacks([model]),
        }[wrap]
        guard = ranker(model=wrapped)
        events = [e async for e in guard.astream_events("question", version="v2")]
        assert "REJECTED" not in texts_in(events)

    @pytest.mark.parametrize("bound", [False, True])
    async def test_tracing_is_opt_in(self, bound):
        guard = ranker("REJECTED", "good", trace_candidates=True)
        guard = guard.bind_tools([tool_called_search()]) if bound else guard
        events = [e async for e in guard.astream_events("question", version="v2")]
        ends = [e for e in events if e["event"] == "on_chat_model_end"]
        assert len(ends) == 2
        tags = {tag for e in ends for tag in e["tags"] if tag.startswith("srr:")}
        assert tags == {"srr:candidate:0", "srr:candidate:1"}


@pytest.fixture(params=["sync", "async"])
def stream(request):
    """Collect a stream, from a thread or on the loop."""

    async def collect(runnable, *args, **kwargs):
        if request.param == "sync":
            return await asyncio.to_thread(lambda: list(runnable.stream(*args, **kwargs)))
        return [part async for part in runnable.astream(*args, **kwargs)]

    return collect


class TestAgent:
    """`create_agent(model=SafetyRanker(...))` with tools, from end to end."""

    def agent(self, *answers, n=2):
        return create_agent(model=ranker(*answers, n=n), tools=[tool_called_search()])

    @pytest.mark.parametrize("run", ["invoke", "ainvoke"])
    def test_tool_loop(self, run):
        call = AIMessage(
            "good idea", tool_calls=[{"name": "search", "args": {"query": "tea"}, "id": "1"}]
        )
        agent = self.agent("REJECTED", call, "REJECTED", "good answer: tea")
        result = getattr(agent, run)({"messages": [("user", "look up tea")]})
        messages = (asyncio.run(result) if run == "ainvoke" else result)["messages"]
        assert [m.type for m in messages] == ["human", "ai", "tool", "ai"]
        assert messages[2].content == "found tea"
        assert messages[3].content == "good answer: tea"
        assert messages[3].response_metadata["srr_guard"]["distinct"] == 2

    async def test_streamed_messages_hold_no_rejected_token(self, stream):
        inputs = {"messages": [("user", "question")]}
        agent = self.agent("REJECTED one two", "good three")
        parts = await stream(agent, inputs, stream_mode="messages")
        assert "REJECTED" not in texts_in(parts)
        assert [m.content for m, _ in parts] == ["good three"]

    def test_refusal_ends_the_loop(self):
        result = self.agent("bad").invoke({"messages": [("user", "question")]})
        assert result["messages"][-1].content == DEFAULT_REFUSAL
