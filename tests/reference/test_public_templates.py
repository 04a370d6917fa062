"""Prompts equal `apply_chat_template`, for templates in the shape of public ones."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import chat_templates
import pytest
from chat_templates import PARTS, REFUSED, TEMPLATES
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError
from tiny import save_tiny_lm
from transformers.utils import chat_template_utils

from srr_guard.conversation import Conversation, Turn
from srr_guard.errors import ReferenceLoadError
from srr_guard.local.chat_model import LocalChatModel
from srr_guard.reference.rendering import Renderer
from srr_guard.reference.template import PromptTemplate

PAGE = Path(__file__).parents[2] / "docs" / "templates.md"
USABLE = sorted(TEMPLATES.keys() - REFUSED)

BLANKS = "\n \t around \n\n\n two\r\n\r\nlines  \n"
CONVERSATIONS = {
    "user": [("user", "Why?")],
    "system": [("system", "Be brief."), ("user", "Why?")],
    "several turns": [
        ("system", "Be brief."),
        ("user", "Hi there"),
        ("assistant", "Hello: how are you?"),
        ("user", "Fine. And you?"),
        ("assistant", "Fine."),
        ("user", "Why?"),
    ],
    "two users in a row": [("user", "One"), ("user", "Two"), ("assistant", "Three"), ("user", "4")],
    "tool": [("user", "Add"), ("assistant", "[tool call] add"), ("tool", "3"), ("user", "So?")],
    "latest is the assistant's": [("system", "Be brief."), ("user", "Hi"), ("assistant", "\nWell")],
    "first is the assistant's": [("assistant", "Hello."), ("user", "Hi")],
    "late system": [("user", "Hi"), ("assistant", "Ho"), ("system", "Be rude."), ("user", "Why?")],
    "two systems": [("system", "Be brief."), ("system", "Be kind."), ("user", "Why?")],
    "the same words": [("system", "S"), ("user", "Go on"), ("assistant", "A"), ("user", "Go on")],
    "blanks": [
        ("system", f"{BLANKS}SYSTEM"),
        ("user", f"FIRST{BLANKS}"),
        ("assistant", f"{BLANKS}ANSWER{BLANKS}"),
        ("user", BLANKS),
    ],
    "blank turns": [("system", ""), ("user", " \n"), ("assistant", ""), ("user", "Why?")],
    "blank latest": [("system", " "), ("user", "Hi"), ("assistant", "Ho"), ("user", "\n")],
    "blank answer": [("user", "Hi"), ("assistant", " "), ("user", "Why?"), ("assistant", "")],
    "odd letters": [("user", "naïve 日本 👩‍👩‍👧 \u202e \x00"), ("assistant", "\ue0000\ue001 {0}")],
}

WORDS = ["a", "the", "Hi", "?", ":", "]", "[", "é", "👩‍👧", "\ue0000\ue001", "{0}", "\\n", "<b>"]
TEXTS = st.lists(st.sampled_from([*WORDS, " ", "  ", "\n", "\n\n", "\r\n", "\t"]), max_size=8)
TURNS = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), TEXTS.map("".join)),
    min_size=1,
    max_size=6,
).filter(lambda turns: any(text.strip() for _, text in turns))


class Clock(datetime):
    """A clock that stands still."""

    day = 1

    @classmethod
    def now(cls, tz=None):
        return cls(2025, 3, cls.day, 12, 0, 0)


@pytest.fixture(autouse=True, scope="module")
def clock():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_template_utils, "datetime", Clock)
        yield


def merged(turns):
    sides = []
    for role, text in turns:
        side = "assistant" if role == "assistant" else "user"
        if sides and sides[-1][0] == side:
            sides[-1] = (side, sides[-1][1] + "\n\n" + text)
        else:
            sides.append((side, text))
    return sides if sides[0][0] == "user" else [("user", ""), *sides]


def form(name, turns):
    return (
        Renderer(chat_templates.tokenizer(name), chat_templates.template(name)).render(turns).form
    )


def transformers_gives(name, turns, *, tokenize=True):
    messages = [
        {
            "role": "user" if role == "tool" else role,
            "content": [{"type": "text", "text": text}] if name in PARTS else text,
        }
        for role, text in turns
    ]
    return chat_templates.tokenizer(name).apply_chat_template(
        messages,
        chat_template=chat_templates.template(name),
        tokenize=tokenize,
        add_generation_prompt=True,
        return_dict=False,
    )


def expected(name, turns):
    """Ids of transformers for the turns, or for alternating turns where the template wants them."""
    return transformers_gives(name, merged(turns) if form(name, turns) == "alternating" else turns)


def holds_all(text, turns):
    return all(word in text for _, turn in turns for word in turn.split())


def prompt(name, turns):
    conversation = Conversation(turns=tuple(Turn(role=role, text=text) for role, text in turns))
    return PromptTemplate(chat_templates.tokenizer(name)).prompt(conversation, limit=100_000)


@pytest.mark.parametrize("name", USABLE)
def test_ids_are_those_of_transformers(name):
    decode = chat_templates.tokenizer(name).decode
    for label, turns in CONVERSATIONS.items():
        found = prompt(name, turns)
        assert found.ids == expected(name, turns), label
        assert holds_all(decode(found.ids), turns), label
        latest = decode(found.ids[found.request.start : found.request.stop])
        assert holds_all(latest, turns[-1:]), label


@pytest.mark.parametrize("name", USABLE)
def test_turns_are_joined_only_where_the_template_refuses_or_drops_them(name):
    for label, turns in CONVERSATIONS.items():
        try:
            whole = holds_all(transformers_gives(name, turns, tokenize=False), turns)
        except TemplateError:
            whole = False
        assert form(name, turns) == ("exact" if whole else "alternating"), label


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(USABLE), turns=TURNS)
def test_any_conversation_is_exact(name, turns):
    found = prompt(name, turns)
    assert found.ids == expected(name, turns)
    assert 0 <= found.request.start < found.request.stop <= len(found.ids)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_lossy_templates_are_refused(name):
    with pytest.raises(ReferenceLoadError, match="chat template") as error:
        prompt(name, CONVERSATIONS["several turns"])
    assert "`tokenizer.chat_template`" in str(error.value)


def test_many_templates_are_known():
    files = {file.stem for file in chat_templates.FOLDER.glob("*.jinja")}
    assert files == set(TEMPLATES)
    assert len(USABLE) >= 25


def test_the_page_is_up_to_date():
    table = chat_templates.table()
    assert table in PAGE.read_text(), f"the table in {PAGE.name} is stale; it is now:\n\n{table}"


def test_the_date_is_todays(monkeypatch):
    first = prompt("llama3_1", CONVERSATIONS["user"])
    monkeypatch.setattr(Clock, "day", 2)
    assert prompt("llama3_1", CONVERSATIONS["user"]) != first
    assert prompt("llama3_1", CONVERSATIONS["user"]).ids == expected(
        "llama3_1", CONVERSATIONS["user"]
    )


def test_midnight_does_not_disturb(monkeypatch):
    days = iter([1, *[2] * 20])

    class Midnight(Clock):
        @classmethod
        def now(cls, tz=None):
            return cls(2025, 3, next(days))

    monkeypatch.setattr(chat_template_utils, "datetime", Midnight)
    assert prompt("granite", CONVERSATIONS["user"]).ids


def test_the_system_text_may_stand_before_the_latest_turn():
    turns = [("system", "SYSTEM"), ("user", "FIRST"), ("assistant", "ANSWER"), ("user", "LATEST")]
    found = prompt("mistral_system_last", turns)
    tokenizer = chat_templates.tokenizer("mistral_system_last")
    text = "<s>[INST] FIRST[/INST] ANSWER</s>[INST] SYSTEM\n\nLATEST[/INST]"
    assert tokenizer.decode(found.ids) == text
    assert tokenizer.decode(found.ids[found.request.start : found.request.stop]) == "LATEST"


def test_a_local_model_gets_the_whole_prompt(tmp_path):
    text = chat_templates.template("mistral_system_last")
    folder = save_tiny_lm(tmp_path, chat_template=text)
    turns = [("system", "SYSTEM"), ("user", "FIRST"), ("assistant", "ANSWER"), ("user", "LATEST")]
    answer = LocalChatModel(model=folder, device="cpu", max_new_tokens=2).invoke(turns)
    rendered = "<|im_start|>[INST] FIRST[/INST] ANSWER<|im_end|>[INST] SYSTEM\n\nLATEST[/INST]"
    controls = "<|im_start|><|im_end|>"
    assert answer.usage_metadata["input_tokens"] == len(rendered) - len(controls) + 2
