"""Disguises are seen through; ordinary text of any language stays as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srr_guard.characters import plain_characters

DISGUISED = {
    "zero width": "h\u200ba\u200cr\u200dm\ufeff",
    "soft hyphens": "h\xada\xadr\xadm",
    "bidirectional controls": "\u202eh\u2066arm\u2069",
    "tags": "h\U000e0061arm",
    "variation selectors": "h\ufe0fa\U000e0101rm",
    "fillers": "h\u3164a\u2800rm",
    "full width": "\uff48\uff41\uff52\uff4d",
    "mathematical": "\U0001d421\U0001d41a\U0001d42b\U0001d426",
    "script": "\U0001d4bdarm",
    "circled": "\u24d7\u24d0\u24e1\u24dc",
    "Cyrillic": "h\u0430\u0440m",
    "Greek": "h\u03b1\u03c1m",
}


@pytest.mark.parametrize("name", DISGUISED)
def test_disguises(name: str) -> None:
    assert plain_characters(f"This does {DISGUISED[name]} to you.") in {
        "This does harm to you.",
        "This does hapm to you.",  # the letters that look like r are p's in both alphabets
    }


def test_a_whole_word_of_look_alikes() -> None:
    assert plain_characters("You \u0430\u0441\u0435 it and go on.") == "You ace it and go on."


def test_stacked_marks() -> None:
    assert len(plain_characters("h" + "\u0301\u0302\u0303\u0304" * 9)) == 3


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "Привет, как дела?",
        "Καλημέρα κόσμε",
        "Hello Наташа, how are you?",
        "Здравствуйте, I am here",
        "naïve café, ½ of 5 m² — “quoted”… №5 ™",
        "日本語のテキスト、カタカナ",
        "नमस्ते दुनिया",
        "مرحبا بالعالم",
        "tiếng Việt đẹp",
        "let x be α and y be β in what follows",
        "😀 ok",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert plain_characters(text) == text


@given(st.text(max_size=40))
def test_plain_text_stays_plain(text: str) -> None:
    once = plain_characters(text)
    assert plain_characters(once) == once


@given(st.text(st.characters(max_codepoint=127), max_size=40))
def test_ascii_stays(text: str) -> None:
    assert plain_characters(text) is text
