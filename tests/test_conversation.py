"""Any input becomes turns, anything else is a clear error."""

from __future__ import annotations

import pytest
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.prompts import ChatPromptTemplate

from srr_guard import Conversation, InvalidInputError, Turn
from srr_guard.errors import ConfigurationError

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
        "\u200b",
        [("system", "\ufeff"), ("user", "\u2060 \u3164")],
        None,
        7,
        b"bytes",
        {"question": ""},
        {"question": None},
        {},
        [object()],
        [("nonsense role", "x")],
        [{"content": "no role"}],
        Conversation(turns=()),
        Conversation(turns=(Turn(role="user", text=" \u200b"),)),
    ],
)
def test_bad_prompts(value):
    with pytest.raises(InvalidInputError):
        Conversation.of(value)


def test_long_text_is_kept_whole():
    assert len(Conversation.of("x" * 200_000).prompt) == 200_000


def test_reasoning_of_earlier_turns_is_not_the_prompt():
    thinking = {"type": "thinking", "thinking": "how to do harm", "signature": "x"}
    talk = Conversation.of(
        [HumanMessage("hi"), AIMessage([thinking, {"type": "text", "text": "no"}])]
    )
    assert talk.turns[1].text == "no"


def test_parts_of_a_prompt_that_cannot_be_read_are_named():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,xx"}}
    assert Conversation.of([HumanMessage([image])]).prompt == "[image_url]"
    talk = Conversation.of([HumanMessage([{"type": "text", "text": "see"}, image])])
    assert talk.prompt == "see\n[image_url]"


@pytest.mark.parametrize("part", [object(), [object()], {"of": iter("ab")}, b"\xff"])
def test_parts_of_a_dict_that_have_no_text_are_refused_by_name(part):
    with pytest.raises(ConfigurationError, match=r"part 'notes'.*give `prompt=`"):
        Conversation.of({"question": "q", "notes": part})


def test_turns_are_valid_unicode():
    assert Turn(role="user", text="q\ud800").text == "q\ufffd"
    assert Conversation.of("q\ud800").turns == (Turn(role="user", text="q\ufffd"),)


def test_pairs_that_are_no_messages_are_facts():
    talk = Conversation.of({"question": "q", "points": [([1, 2], 3), ({}, "x")]})
    assert [turn.text for turn in talk.turns] == ['points: [[[1, 2], 3], [{}, "x"]]', "q"]


def test_images_inside_a_dict_are_named():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,xx"}}
    talk = Conversation.of({"question": "q", "notes": {"of": HumanMessage([image])}})
    assert talk.turns[0].text.endswith("[image_url]")
