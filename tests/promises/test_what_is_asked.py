"""The scorer sees all that the model was asked."""

from __future__ import annotations

from typing import Any

import pytest
from doors import Answer, quick
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.runnables import ConfigurableField, RunnablePassthrough
from promises import promise

from srr_guard import Conversation, SafetyRankedChatModel, SafetyRanker, srr_guard
from srr_guard.errors import ConfigurationError
from srr_guard.testing import FakeScorer, ScriptedChatModel

FINE = Answer("a fine one")


class Listening(FakeScorer):
    """Keeps the conversations it is asked about."""

    def __init__(self) -> None:
        super().__init__(lambda prompt, text: 0.9)
        self.asked: list[Conversation] = []

    def _rank(self, conversation, candidates):
        self.asked.append(Conversation.of(conversation))
        return super()._rank(conversation, candidates)

    @property
    def turns(self) -> list[tuple[str, str]]:
        return [(turn.role, turn.text) for turn in self.asked[-1].turns]


TALK = [("system", "Be brief."), ("user", "one"), ("assistant", "two"), ("user", "three")]


@promise("asked")
def test_the_whole_conversation(door, ask):
    scorer = Listening()
    ask(door(FINE, scorer=scorer, sampling=quick(1)), TALK)
    assert scorer.turns == TALK


MODEL = ScriptedChatModel(answers=["a fine one"])
HISTORY = [("user", "one"), ("assistant", "two")]
WITH_HISTORY = ChatPromptTemplate.from_messages(
    [("system", "Be brief."), MessagesPlaceholder("chat_history"), ("human", "{input}")]
)


class TestChains:
    """What a chain is given is read as its own template prints it, else all of it."""

    def asked(self, chain, value, **options):
        scorer = Listening()
        SafetyRanker(chain, scorer=scorer, sampling=quick(1), **options).invoke(value)
        return scorer.turns

    def test_history_and_question(self):
        value = {"input": "three", "chat_history": HISTORY}
        assert self.asked(WITH_HISTORY | MODEL, value) == TALK
        assert self.asked((WITH_HISTORY | MODEL).with_config(tags=["t"]), value) == TALK
        assert self.asked((WITH_HISTORY | MODEL).with_retry(), value) == TALK
        assert self.asked((WITH_HISTORY | MODEL).with_fallbacks([MODEL]), value)[-1] == TALK[-1]

    def test_what_earlier_steps_add_is_left_blank(self):
        prompt = ChatPromptTemplate.from_messages(
            [
                ("system", "Context: {context}"),
                ("placeholder", "{chat_history}"),
                ("human", "{question}"),
            ]
        )
        chain = RunnablePassthrough.assign(context=lambda d: "found") | prompt | MODEL
        value = {"question": "three", "chat_history": HISTORY, "user": "Ada"}
        assert self.asked(chain, value) == [
            ("user", "Ada"),
            ("system", "Context: "),
            *HISTORY,
            ("user", "three"),
        ]

    def test_a_single_key_is_read_as_it_is_printed(self):
        prompt = ChatPromptTemplate.from_template("Tell me about {topic}.")
        assert self.asked(prompt | MODEL, {"topic": "tea"}) == [("user", "Tell me about tea.")]
        assert self.asked(prompt | MODEL, "tea") == [("user", "Tell me about tea.")]
        plain = PromptTemplate.from_template("{a}, then {b}") | (lambda p: p.to_string())
        assert self.asked(plain, {"b": "y", "a": "x"}) == [("user", "x, then y")]

    def test_what_a_template_does_not_print_reaches_no_model(self):
        value = {"input": "three", "chat_history": HISTORY, "trace_id": object()}
        assert self.asked(WITH_HISTORY | MODEL, value) == TALK

    def test_without_a_template_all_of_it_is_read(self):
        value = {"chat_history": HISTORY, "input": "three", "style": "brief", "k": 3, "no": None}
        assert self.asked(lambda value: "fine", value) == [
            *HISTORY,
            ("user", "style: brief\nk: 3"),
            ("user", "three"),
        ]

    @pytest.mark.parametrize("history", [HISTORY, [{"role": "user", "content": "one"}]])
    def test_histories_of_every_form(self, history):
        assert self.asked(lambda v: "fine", {"input": "q", "past": history})[0] == ("user", "one")

    def test_messages_and_more(self):
        value = {"messages": TALK, "documents": ["d1", "d2"]}
        assert self.asked(lambda v: "fine", value) == [("user", 'documents: ["d1", "d2"]'), *TALK]

    def test_parts_that_cannot_be_read_ask_for_prompt(self):
        value = {"input": "three", "session": object()}
        with pytest.raises(ConfigurationError, match=r"'session' of type 'object'.*prompt="):
            self.asked(lambda v: "fine", value)
        assert self.asked(lambda v: "fine", value, prompt=lambda v: v["input"]) == [TALK[-1]]

    def test_templates_that_differ_do_not_count(self):
        other = ChatPromptTemplate.from_template("{a}") | MODEL
        parallel = {"one": WITH_HISTORY | MODEL, "two": other}
        chain = RunnablePassthrough() | parallel | (lambda made: made["two"])
        value = {"a": "x", "input": "three", "chat_history": HISTORY}
        assert self.asked(chain, value) == [*HISTORY, ("user", "a: x"), ("user", "three")]


def test_histories_beside_a_functions_prompt():
    scorer = Listening()

    @srr_guard(scorer=scorer, sampling=quick(1))
    def answer(question: str, past: Any, k: int = 3) -> str:
        return "fine"

    answer("three", HISTORY)
    assert scorer.turns == [*HISTORY, ("user", "three")]
    answer({"question": "three", "past": HISTORY}, None)
    assert scorer.turns == [*HISTORY, ("user", "three")]


UNSEEN = [
    {"previous_response_id": "resp_1"},
    {"conversation": "conv_1"},
    {"extra_body": {"conversation": {"id": "conv_1"}}},
]


@pytest.mark.parametrize("given", UNSEEN, ids=str)
@pytest.mark.parametrize("guard", [SafetyRanker, SafetyRankedChatModel])
def test_turns_that_only_the_provider_knows_are_refused(guard, given):
    model = ScriptedChatModel(answers=["a fine one"])
    with pytest.raises(ConfigurationError, match="give the whole conversation"):
        guard(model.bind(**given))
    with pytest.raises(ConfigurationError, match="give the whole conversation"):
        guard(model, scorer=Listening()).invoke("and then?", **given)
    assert model.calls == 0


def test_turns_that_a_model_leaves_to_the_provider_are_refused():
    openai = pytest.importorskip("langchain_openai")
    model = openai.ChatOpenAI(api_key="x", model_kwargs={"previous_response_id": "resp_1"})
    with pytest.raises(ConfigurationError, match="give the whole conversation"):
        SafetyRanker(PromptTemplate.from_template("{q}") | model)


PLAIN = ChatPromptTemplate.from_template("plain {input}")
CHANGED = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{input}")])
FIELD = ConfigurableField(id="which")
CONFIGURABLE = {
    "alternatives": (PLAIN.configurable_alternatives(FIELD, changed=CHANGED) | MODEL, "changed"),
    "whole chain": (
        (PLAIN | MODEL).configurable_alternatives(FIELD, changed=CHANGED | MODEL),
        "changed",
    ),
    "made on demand": (
        PLAIN.configurable_alternatives(FIELD, changed=lambda: CHANGED) | MODEL,
        "changed",
    ),
    "fields": (
        PromptTemplate.from_template("plain {input}").configurable_fields(template=FIELD) | MODEL,
        "Be brief. {input}",
    ),
}


@pytest.mark.parametrize("name", CONFIGURABLE)
@pytest.mark.parametrize("bound", [False, True])
def test_a_template_that_the_config_chooses(name, bound):
    chain, which = CONFIGURABLE[name]
    config: Any = {"configurable": {"which": which}}
    scorer = Listening()
    inner = chain.with_config(config) if bound else chain
    guard = SafetyRanker(inner, scorer=scorer, sampling=quick(1))
    guard.invoke({"input": "q"}, {} if bound else config)
    assert "Be brief." in repr(scorer.turns)
    if not bound:
        guard.invoke({"input": "q"})
        assert scorer.turns == [("user", "plain q")]
