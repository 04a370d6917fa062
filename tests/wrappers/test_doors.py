"""What every door takes: n, threshold, a guard to share; and what it does with them."""

from __future__ import annotations

import copy
from types import SimpleNamespace as Thing

import pytest
from langchain.agents import create_agent
from langchain_core.runnables import ConfigurableField
from srr_guard_integrations.langchain import SafetyRankerMiddleware
from srr_guard_integrations.openai_client import guard_chat_completions

from srr_guard import (
    DecisionPolicy,
    Guard,
    SafetyRankedChatModel,
    SafetyRanker,
    SamplingPolicy,
    srr_guard,
)
from srr_guard.errors import ConfigurationError
from srr_guard.policy import DEFAULT_REFUSAL
from srr_guard.testing import FakeScorer, ScriptedChatModel


class Model:
    """Counts its calls, whichever door it is behind."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.calls = 0

    def say(self, question: str) -> str:
        self.calls += 1
        return self.text


def ranker(model, **options):
    return SafetyRanker(model.say, **options).invoke


def chat_model(model, **options):
    inner = ScriptedChatModel(answers=[model.text])

    def ask(question):
        answer = SafetyRankedChatModel(inner, **options).invoke(question).text
        model.calls = inner.calls
        return answer

    return ask


def decorated(model, **options):
    return srr_guard(**options)(model.say)


def middleware(model, **options):
    inner = ScriptedChatModel(answers=[model.text])
    guard = SafetyRankerMiddleware(**options)

    def ask(question):
        agent = create_agent(model=inner, tools=[], middleware=[guard])
        answer = agent.invoke({"messages": [("user", question)]})["messages"][-1].text
        model.calls = inner.calls
        return answer

    return ask


def openai_client(model, **options):
    def create(**kwargs):
        message = Thing(role="assistant", content=model.say(""))
        return Thing(choices=[Thing(message=message, finish_reason="stop")])

    client = guard_chat_completions(Thing(chat=Thing(completions=Thing(create=create))), **options)

    def ask(question):
        asked = [{"role": "user", "content": question}]
        return client.chat.completions.create(messages=asked).choices[0].message.content

    return ask


def guard_itself(model, *, guard=None, **options):
    made = guard or Guard(**options)
    return lambda question: made.decide(question, lambda _: model.say(question)).output


DOORS = [ranker, chat_model, decorated, middleware, openai_client, guard_itself]
SHARING = DOORS[:-1]
SCORER = FakeScorer(lambda prompt, answer: 0.6)


@pytest.fixture(params=DOORS, ids=lambda door: door.__name__)
def door(request):
    return request.param


def test_n(door):
    model = Model("fine")
    assert door(model, scorer=SCORER, n=3)("q") == "fine"
    assert model.calls == 3


def test_threshold(door):
    assert door(Model("fine"), scorer=SCORER, threshold=0.7)("q") == DEFAULT_REFUSAL
    assert door(Model("fine"), scorer=SCORER, threshold=0.5)("q") == "fine"


@pytest.mark.parametrize(
    "both",
    [{"n": 2, "sampling": SamplingPolicy()}, {"threshold": 0.1, "decision": DecisionPolicy()}],
)
def test_short_form_beside_a_policy(door, both):
    with pytest.raises(ConfigurationError, match="give one of them"):
        door(Model("fine"), **both)("q")


@pytest.mark.parametrize("share", SHARING, ids=lambda door: door.__name__)
class TestSharedGuard:
    def test_settings_scorer_and_totals(self, share):
        guard = Guard(scorer=SCORER, n=2, threshold=0.7)
        model = Model("fine")
        assert share(model, guard=guard)("q") == DEFAULT_REFUSAL
        assert model.calls == 2
        assert (guard.totals.requests, guard.totals.candidates) == (1, 2)

    @pytest.mark.parametrize("option", [{"n": 2}, {"threshold": 0.1}, {"scorer": SCORER}])
    def test_not_beside_its_parts(self, share, option):
        with pytest.raises(ConfigurationError, match="a guard brings its own"):
            share(Model("fine"), guard=Guard(scorer=SCORER), **option)("q")

    @pytest.mark.parametrize("wrong", ["guard", 7, SafetyRanker(lambda q: "x")])
    def test_no_guard(self, share, wrong):
        with pytest.raises(ConfigurationError, match="give a Guard"):
            share(Model("fine"), guard=wrong)("q")


def test_one_guard_behind_all_doors():
    guard = Guard(scorer=SCORER, n=1)
    for share in SHARING:
        assert share(Model("fine"), guard=guard)("q") == "fine"
    assert guard.totals.requests == len(SHARING)
    assert SafetyRanker(lambda q: "fine", guard=guard).guard is guard


class TestCopies:
    def rankers(self):
        model = ScriptedChatModel(answers=["fine"])
        return [
            SafetyRanker(model, scorer=SCORER, n=2),
            SafetyRankedChatModel(model, scorer=SCORER, n=2),
        ]

    @pytest.mark.parametrize("which", range(2))
    def test_deepcopy(self, which):
        ranker = self.rankers()[which]
        for twin in (copy.deepcopy(ranker), ranker.model_copy(deep=True)):
            assert twin.invoke("q").text == "fine"
            assert (twin.totals.requests, ranker.totals.requests) == (1, 0)
            assert twin.sampling == ranker.sampling

    @pytest.mark.parametrize("which", range(2))
    def test_changed_copies_act_on_the_change(self, which):
        ranker = self.rankers()[which]
        strict = ranker.model_copy(update={"decision": DecisionPolicy(threshold=0.9)})
        assert strict.invoke("q").text == DEFAULT_REFUSAL
        other = ranker.model_copy(update={"model": ScriptedChatModel(answers=["other"])})
        assert other.invoke("q").text == "other"
        assert other.guard is ranker.guard
        assert ranker.invoke("q").text == "fine"

    def test_middleware(self):
        twin = copy.deepcopy(SafetyRankerMiddleware(scorer=SCORER, n=2))
        agent = create_agent(ScriptedChatModel(answers=["fine"]), middleware=[twin])
        assert agent.invoke({"messages": [("user", "q")]})["messages"][-1].text == "fine"
        assert twin.totals.requests == 1

    @pytest.mark.parametrize("which", range(2))
    def test_configurable_fields(self, which):
        ranker = self.rankers()[which].configurable_fields(decision=ConfigurableField(id="d"))
        strict = ranker.with_config(configurable={"d": DecisionPolicy(threshold=0.9)})
        assert strict.invoke("q").text == DEFAULT_REFUSAL
        assert ranker.invoke("q").text == "fine"

    def test_name(self):
        assert SafetyRanker(lambda q: "x", name="mine").get_name() == "mine"
