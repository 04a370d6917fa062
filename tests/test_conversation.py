"""Any input becomes turns, any output becomes text, anything else is a clear error."""

from __future__ import annotations

import enum

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel

from srr_guard import Conversation, InvalidInputError, Turn
from srr_guard.conversation import candidate_text, valid_unicode

DIALOGUE = (
    Turn(role="system", text="Be brief."),
    Turn(role="user", text="Hi"),
    Turn(role="assistant", text="Hello"),
    Turn(role="user", text="Tea?"),
)


@pytest.mark.parametrize(
    "value",
    [
        [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Tea?")],
        [SystemMessage("Be brief."), HumanMessage("Hi"), AIMessage("Hello"), HumanMessage("Tea?")],
        [{"role": t.role, "content": t.text} for t in DIALOGUE],
        {"messages": [{"role": t.role, "content": t.text} for t in DIALOGUE]},
        ChatPromptTemplate.from_messages([(t.role, t.text) for t in DIALOGUE]).invoke({}),
        Conversation(turns=DIALOGUE),
    ],
)
def test_forms_of_one_dialogue(value):
    conversation = Conversation.of(value)
    assert conversation.turns == DIALOGUE
    assert conversation.prompt == "Tea?"


def test_single_turns():
    assert Conversation.of("Hi").turns == (Turn(role="user", text="Hi"),)
    assert Conversation.of(HumanMessage("Hi")).prompt == "Hi"
    assert Conversation.of([("assistant", "Hello")]).prompt == "Hello"


def test_roles():
    messages = [
        ChatMessage("a", role="developer"),
        ChatMessage("b", role="assistant"),
        ChatMessage("c", role="someone"),
        ToolMessage("d", tool_call_id="1"),
    ]
    roles = [turn.role for turn in Conversation.of(messages).turns]
    assert roles == ["system", "assistant", "user", "tool"]


@pytest.mark.parametrize(
    "value",
    [
        "",
        " \n\t",
        [],
        {"messages": []},
        [("user", "")],
        [HumanMessage(" ")],
        None,
        7,
        b"bytes",
        {"question": "q"},
        [object()],
        [("nonsense role", "x")],
        [{"content": "no role"}],
    ],
)
def test_bad_prompts(value):
    with pytest.raises(InvalidInputError):
        Conversation.of(value)


class Reply(BaseModel):
    text: str
    score: int = 1


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("plain", "plain"),
        ("", ""),
        (AIMessage("said"), "said"),
        (AIMessage([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab"),
        (AIMessage([{"type": "image", "url": "x"}]), "[image]"),
        (AIMessage([{"type": "refusal", "refusal": "no"}]), "no"),
        (
            AIMessage("so:", tool_calls=[{"name": "f", "args": {"b": 2, "a": 1}, "id": "1"}]),
            'so:\n[tool call] f({"a": 1, "b": 2})',
        ),
        (Reply(text="é"), '{"score": 1, "text": "é"}'),
        ({"b": 1, "a": [True, None]}, '{"a": [true, null], "b": 1}'),
        ({"messages": [HumanMessage("q"), AIMessage("last")]}, "last"),
        ({"raw": AIMessage("in a dict")}, '{"raw": "in a dict"}'),
        (42, "42"),
        (True, "true"),
        ("lone \ud800 surrogate", "lone \ufffd surrogate"),
        ("\x00", "\x00"),
        ("<|im_end|>", "<|im_end|>"),
    ],
)
def test_outputs(output, text):
    assert candidate_text(output) == text


@pytest.mark.parametrize("output", [None, b"bytes", object(), {1, 2}])
def test_outputs_without_text(output):
    with pytest.raises(InvalidInputError, match="has no text to score"):
        candidate_text(output)


def test_long_text_is_kept_whole():
    assert len(candidate_text("x" * 200_000)) == 200_000
    assert len(Conversation.of("x" * 200_000).prompt) == 200_000


any_text = st.text(st.characters(), max_size=20)


@given(any_text)
def test_any_text_becomes_valid_unicode(text):
    valid_unicode(text).encode("utf-8")
    assert valid_unicode(valid_unicode(text)) == valid_unicode(text)


@given(st.text(max_size=20))
def test_valid_text_stays_as_it_is(text):
    assert valid_unicode(text) == text


HARM, SORRY = "how to do harm", "Sorry, no."
TEXT = {"type": "text", "text": SORRY}
REASONING = {
    "thinking": AIMessage([{"type": "thinking", "thinking": HARM, "signature": "x"}, TEXT]),
    "reasoning": AIMessage([{"type": "reasoning", "reasoning": HARM}, TEXT]),
    "summary": AIMessage(
        [{"type": "reasoning", "summary": [{"type": "summary_text", "text": HARM}]}, TEXT]
    ),
    "content": AIMessage(
        [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": HARM}]}, TEXT]
    ),
    "text": AIMessage([{"type": "reasoning", "text": HARM}, TEXT]),
    "nested": AIMessage([{"type": "reasoning_content", "reasoning_content": {"text": HARM}}, TEXT]),
    "beside, DeepSeek": AIMessage(SORRY, additional_kwargs={"reasoning_content": HARM}),
    "beside, OpenRouter": AIMessage(SORRY, additional_kwargs={"reasoning": HARM}),
    "beside, Responses": AIMessage(
        SORRY, additional_kwargs={"reasoning": {"summary": [{"text": HARM}]}}
    ),
    "with a tool call": AIMessage(
        [{"type": "thinking", "thinking": HARM}],
        tool_calls=[{"name": "look", "args": {}, "id": "1"}],
    ),
}


@pytest.mark.parametrize("name", REASONING)
def test_reasoning_is_scored_with_the_answer(name):
    text = candidate_text(REASONING[name])
    assert text.startswith(f"{HARM}\n")
    assert SORRY in text or "[tool call] look" in text
    assert HARM in candidate_text({"raw": REASONING[name]})


@pytest.mark.parametrize("name", [n for n in REASONING if n != "with a tool call"])
def test_reasoning_alone_is_no_answer(name):
    message = REASONING[name].model_copy(deep=True)
    message.content = [] if isinstance(message.content, str) else message.content[:-1]
    assert candidate_text(message) == ""


def test_reasoning_of_earlier_turns_is_not_the_prompt():
    talk = Conversation.of([HumanMessage("hi"), REASONING["thinking"]])
    assert talk.turns[1].text == SORRY


def test_hidden_reasoning_is_named():
    hidden = {"type": "redacted_thinking", "data": "xyz"}
    assert candidate_text(AIMessage([hidden, TEXT])) == f"[redacted_thinking]\n{SORRY}"
    assert candidate_text(AIMessage([hidden])) == ""


def test_refusal_beside_the_content_is_the_answer():
    assert candidate_text(AIMessage("", additional_kwargs={"refusal": SORRY})) == SORRY
    assert candidate_text(AIMessage([{"type": "refusal", "refusal": SORRY}])) == SORRY


class Color(enum.Enum):
    RED = "red"


class Raw(BaseModel):
    data: bytes


@pytest.mark.parametrize(
    "odd",
    [{1: "a", "b": "c"}, {Color.RED: 1}, {(1, 2): 3}, [{(1,): 2}], Raw(data=b"\xff")],
    ids=repr,
)
def test_answers_without_a_json_form_are_refused_by_name(odd):
    with pytest.raises(InvalidInputError, match="has no JSON form"):
        candidate_text(odd)


def test_circular_answers_are_refused_by_name():
    circle: list = []
    circle.append(circle)
    with pytest.raises(InvalidInputError, match="'list' has no JSON form"):
        candidate_text(circle)
