"""SafetyRankerMiddleware in real agents: tools, structured answers, interrupts, a checkpointer."""

from __future__ import annotations

import asyncio
import doctest
import json
import subprocess
import sys
from dataclasses import dataclass

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ExtendedModelResponse,
    HumanInTheLoopMiddleware,
)
from langchain.agents.middleware.types import ModelResponse
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphInterrupt
from langgraph.types import Command
from pydantic import BaseModel, field_validator
from srr_guard_integrations import langchain as adapter
from srr_guard_integrations.langchain import SafetyRankerMiddleware
from typing_extensions import TypedDict

from srr_guard import DecisionPolicy, SafetyRankedChatModel, SamplingPolicy
from srr_guard.errors import BelowThresholdError, ConfigurationError, NotRepeatableError
from srr_guard.policy import DEFAULT_REFUSAL
from srr_guard.testing import FakeScorer, ScriptedChatModel

THREAD = {"configurable": {"thread_id": "1"}}
QUESTION = {"messages": [("user", "question")]}


def by_word(prompt: str, answer: str) -> float:
    return 0.9 if "good" in answer else 0.1


def guard(**kwargs) -> SafetyRankerMiddleware:
    return SafetyRankerMiddleware(
        scorer=FakeScorer(by_word), sampling=SamplingPolicy(n=2, backoff=0.0), **kwargs
    )


looked_up: list[str] = []


@tool
def search(query: str) -> str:
    """Look something up."""
    looked_up.append(query)
    return f"found {query}"


def calls(name: str = "search", text: str = "", **args: str) -> AIMessage:
    return AIMessage(text, tool_calls=[{"name": name, "args": args, "id": f"id-{name}"}])


def agent(*answers, middleware=(), **kwargs):
    model = ScriptedChatModel(answers=list(answers))
    return create_agent(model=model, tools=[search], middleware=list(middleware), **kwargs)


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """The final state, through both shells."""
    looked_up.clear()

    def run(agent, inputs=QUESTION, config=None):
        if request.param == "async":
            return asyncio.run(agent.ainvoke(inputs, config))
        return agent.invoke(inputs, config)

    return run


def test_tools(ask):
    loop = agent("REJECTED", calls(query="good tea"), "REJECTED", "good end", middleware=[guard()])
    messages = ask(loop)["messages"]
    assert [m.type for m in messages] == ["human", "ai", "tool", "ai"]
    assert messages[1].tool_calls[0]["args"] == {"query": "good tea"}
    assert messages[3].response_metadata["srr_guard"]["distinct"] == 2
    assert looked_up == ["good tea"]
    assert "REJECTED" not in repr(messages)


def test_rejected_tool_calls_are_not_made(ask):
    loop = agent(calls(query="bad"), "good end", middleware=[guard()])
    assert ask(loop)["messages"][-1].text == "good end"
    assert looked_up == []


def test_a_call_of_a_tool_that_does_not_exist_is_a_failed_candidate(ask):
    once = SafetyRankerMiddleware(
        scorer=FakeScorer(by_word), sampling=SamplingPolicy(n=2, attempts=1)
    )
    made_up, fits = calls("look_up", query="good"), calls(query="good")
    loop = agent(made_up, fits, "good", "good", middleware=[once])
    messages = ask(loop)["messages"]
    assert messages[1].tool_calls[0]["name"] == "search"
    assert messages[1].response_metadata["srr_guard"]["failed"] == 1


def test_refusal_ends_the_loop(ask):
    assert ask(agent("bad", middleware=[guard()]))["messages"][-1].text == DEFAULT_REFUSAL


def test_below_threshold_raises_where_the_policy_says_so(ask):
    strict = guard(decision=DecisionPolicy(below_threshold="raise"))
    with pytest.raises(BelowThresholdError):
        ask(agent("bad", middleware=[strict]))


@pytest.mark.parametrize("trace", [False, "redacted"])
async def test_streams_hold_no_rejected_token(trace):
    loop = agent("REJECTED one two", "good three", middleware=[guard(trace_candidates=trace)])
    messages = [p async for p in loop.astream(QUESTION, stream_mode="messages")]
    assert "".join(m.text for m, _ in messages) == "good three"
    both = await asyncio.to_thread(
        lambda: list(loop.stream(QUESTION, stream_mode=["messages", "updates", "values"]))
    )
    assert "REJECTED" not in repr(both)
    events = [e async for e in loop.astream_events(QUESTION, version="v2")]
    assert "REJECTED" not in repr(events)


def test_structured_response(ask):
    class Answer(BaseModel):
        good_text: str

    loop = agent(
        "REJECTED",
        calls("Answer", good_text="x"),
        middleware=[guard()],
        response_format=ToolStrategy(Answer),
    )
    assert ask(loop)["structured_response"] == Answer(good_text="x")


class Counting(AgentMiddleware):
    """Returns a Command next to the answer, which concurrent calls could not do."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def _answer(self, response):
        self.calls += 1
        return ExtendedModelResponse(model_response=response, command=Command(update={}))

    def wrap_model_call(self, request, handler):
        return self._answer(handler(request))

    async def awrap_model_call(self, request, handler):
        return self._answer(await handler(request))


@pytest.mark.parametrize("outside", [True, False])
def test_other_middleware_runs_once(ask, outside):
    counting = Counting()
    both = [counting, guard()] if outside else [guard(), counting]
    assert ask(agent("REJECTED", "good", middleware=both))["messages"][-1].text == "good"
    assert counting.calls == 1


class Swapping(AgentMiddleware):
    """Gives another model or another answer."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def _request(self, request):
        if self.what == "model":
            return request.override(model=ScriptedChatModel(answers=["unscored"]))
        return request

    def _response(self, response):
        if self.what == "answer":
            return ModelResponse(result=[AIMessage("unscored")])
        if self.what in ("text", "calls"):
            call = {"name": "look_up", "args": {}, "id": "1", "type": "tool_call"}
            edits = {"text": {"content": "unscored"}, "calls": {"tool_calls": [call]}}
            edited = response.result[0].model_copy(update=edits[self.what])
            return ModelResponse(result=[edited])
        return response

    def wrap_model_call(self, request, handler):
        return self._response(handler(self._request(request)))

    async def awrap_model_call(self, request, handler):
        return self._response(await handler(self._request(request)))


@pytest.mark.parametrize("what", ["model", "answer", "text", "calls"])
def test_what_is_swapped_inside_is_not_passed_on(ask, what):
    with pytest.raises(ConfigurationError, match="last in"):
        ask(agent("good", middleware=[guard(), Swapping(what)]))


def test_model_swapped_outside_is_guarded(ask):
    loop = agent("good", middleware=[Swapping("model"), guard()])
    assert ask(loop)["messages"][-1].text == DEFAULT_REFUSAL


def test_guarded_twice(ask):
    model = SafetyRankedChatModel(ScriptedChatModel(answers=["good"]), scorer=FakeScorer(by_word))
    with pytest.raises(ConfigurationError, match="guarded already"):
        ask(create_agent(model=model, tools=[], middleware=[guard()]))


def test_human_in_the_loop_with_a_checkpointer(ask):
    human = HumanInTheLoopMiddleware(interrupt_on={"search": True})
    loop = agent(
        "REJECTED",
        calls(query="good tea"),
        "REJECTED",
        "good end",
        middleware=[human, guard()],
        checkpointer=InMemorySaver(),
    )
    state = ask(loop, QUESTION, THREAD)
    assert state["__interrupt__"][0].value["action_requests"][0]["name"] == "search"
    assert looked_up == []
    resumed = ask(loop, Command(resume={"decisions": [{"type": "approve"}]}), THREAD)
    assert resumed["messages"][-1].text == "good end"
    assert looked_up == ["good tea"]
    assert "REJECTED" not in repr(loop.get_state(THREAD))


def test_interrupts_of_a_model_are_refused_by_name(ask):
    class Interrupting(ScriptedChatModel):
        def _generate(self, *args, **kwargs):
            raise GraphInterrupt(())

        async def _agenerate(self, *args, **kwargs):
            raise GraphInterrupt(())

    model = Interrupting(answers=["good"])
    loop = create_agent(
        model=model, tools=[search], middleware=[guard()], checkpointer=InMemorySaver()
    )
    with pytest.raises(NotRepeatableError, match="leaves its graph by GraphInterrupt"):
        ask(loop, QUESTION, THREAD)


def test_scorer_and_bypasses_are_shared(ask):
    lax = guard(decision=DecisionPolicy(below_threshold="pass"))
    loop = agent("bad", middleware=[lax])
    ask(loop)
    ask(loop)
    assert lax.bypasses == lax.totals.requests == 2


def test_wrong_arguments_raise_at_once():
    with pytest.raises(ConfigurationError, match="sampling=3"):
        SafetyRankerMiddleware(sampling=3)


def test_example():
    assert doctest.testmod(adapter).failed == 0


def test_without_langchain():
    code = (
        "import sys; sys.modules['langchain.agents.middleware'] = None\n"
        "import srr_guard_integrations.langchain"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert 'pip install "srr-guard[agents]"' in result.stderr


@pytest.mark.parametrize("door", ["middleware", "model"])
@pytest.mark.parametrize("provider", [True, False])
def test_response_format_of_a_plain_class(door, provider):
    """LangChain chooses between the provider's way and a tool, as without the guard."""

    class Answer(BaseModel):
        good_text: str

    class Structured(ScriptedChatModel):
        model_name: str = "gpt-5-mini" if provider else "some-model"

    tool_call = AIMessage(
        "", tool_calls=[{"name": "Answer", "args": {"good_text": "x"}, "id": "1"}]
    )
    model = Structured(answers=['{"good_text": "x"}' if provider else tool_call])
    options = {"scorer": FakeScorer(by_word), "n": 2}
    if door == "middleware":
        agent = create_agent(
            model, response_format=Answer, middleware=[SafetyRankerMiddleware(**options)]
        )
    else:
        agent = create_agent(SafetyRankedChatModel(model, **options), response_format=Answer)
    assert agent.invoke(QUESTION)["structured_response"] == Answer(good_text="x")


@pytest.mark.parametrize("put", [lambda m: m.with_config(tags=["t"]), lambda m: m.bind(stop=["x"])])
def test_a_guarded_model_below_a_binding_is_not_guarded_again(put):
    inside = ScriptedChatModel(answers=["good"])
    model = put(SafetyRankedChatModel(inside, scorer=FakeScorer(by_word)))
    agent = create_agent(model=model, tools=[], middleware=[guard()])
    with pytest.raises(ConfigurationError, match="guarded already"):
        agent.invoke(QUESTION)
    assert inside.calls == 0


# ---- structured answers as LangChain reads them ----


class Order(BaseModel):
    name: str
    people: int


class Few(Order):
    @field_validator("people")
    @classmethod
    def few(cls, people: int) -> int:
        assert people < 5, "too many"
        return people


@dataclass
class OrderData:
    name: str
    people: int


class OrderDict(TypedDict):
    name: str
    people: int


ORDER_SCHEMA = {**Order.model_json_schema(), "title": "Order"}


def in_order(form, strategy, *answers, door="middleware"):
    """An agent whose model gives these arguments, as calls or as text."""
    name = "Order" if form is ORDER_SCHEMA else form.__name__
    if strategy is ProviderStrategy:
        said = [AIMessage(json.dumps(args)) for args in answers]
    else:
        said = [AIMessage("", tool_calls=[{"name": name, "args": a, "id": "1"}]) for a in answers]
    model = ScriptedChatModel(answers=said)
    scorer = FakeScorer(lambda prompt, answer: 0.9)
    sampling = SamplingPolicy(n=len(answers), attempts=1)
    options = {"scorer": scorer, "sampling": sampling}
    if door == "middleware":
        shell = [SafetyRankerMiddleware(**options)]
        return create_agent(model, response_format=strategy(form), middleware=shell)
    return create_agent(SafetyRankedChatModel(model, **options), response_format=strategy(form))


@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy])
@pytest.mark.parametrize("form", [Order, Few, OrderData, OrderDict])
def test_what_langchain_converts_fits(ask, form, strategy):
    state = ask(in_order(form, strategy, {"name": "good", "people": "3"}))
    made = state["structured_response"]
    assert (made if isinstance(made, dict) else vars(made)) == {"name": "good", "people": 3}


def test_what_its_tools_convert_fits_a_guarded_model_in_an_agent(ask):
    loop = in_order(Order, ToolStrategy, {"name": "good", "people": "3"}, door="model")
    assert ask(loop)["structured_response"] == Order(name="good", people=3)


@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy])
@pytest.mark.parametrize(
    ("form", "bad"),
    [
        (Order, {"people": "many"}),
        (Few, {"people": 7}),
        (OrderData, {"people": "many"}),
        (OrderDict, {"people": "many"}),
        (ORDER_SCHEMA, {"people": "3"}),  # nobody converts
    ],
)
def test_what_it_would_not_is_a_failed_candidate(ask, form, bad, strategy):
    fine = {"name": "good", "people": 3}
    loop = in_order(form, strategy, {"name": "good", **bad}, fine)
    state = ask(loop)
    made = state["structured_response"]
    assert (made if isinstance(made, dict) else vars(made)) == fine
    answer = next(m for m in state["messages"] if isinstance(m, AIMessage))
    assert answer.response_metadata["srr_guard"]["failed"] == 1


def test_of_a_union_each_has_its_own_type(ask):
    loop = in_order(Order, lambda form: ToolStrategy(form | Few), {"name": "good", "people": 7})
    assert ask(loop)["structured_response"] == Order(name="good", people=7)
