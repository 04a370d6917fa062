"""Requests that are nearly the same are found, in any script; others are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srr_guard.training.data import LabelledResponse
from srr_guard.training.data.near import NearPrompts, without_near

KNOWN = "How do I get the stain of red wine out of a white shirt?"


def row(prompt: str, source: str = "ours") -> LabelledResponse:
    return LabelledResponse(prompt=prompt, response="Yes.", label="safe", source=source)


@pytest.mark.parametrize(
    ("prompt", "near"),
    [
        (KNOWN, True),
        (KNOWN.upper() + "!!", True),
        ("How do I get the stain of red wine out of a white dress?", True),
        ("How do I get a dog out of a bad mood?", False),
        ("Which wine goes with fish?", False),
        ("", False),
    ],
)
def test_small_changes_are_near_and_other_requests_are_not(prompt: str, near: bool) -> None:
    assert NearPrompts([KNOWN]).holds(prompt) is near


@pytest.mark.parametrize(
    ("known", "same", "other"),
    [
        ("如何洗掉白衬衫上的红酒渍", "如何洗掉白衬衫上的红酒印", "今天北京的天气怎么样"),
        (
            "赤ワインのしみを白いシャツから落とす方法",
            "赤ワインのしみを白いシャツから落とすには",
            "明日の東京の天気を教えて",
        ),
        (
            "Wie bekomme ich Rotwein aus einem weißen Hemd?",
            "wie bekomme ich rotwein aus einem weißen hemd",
            "Wie wird das Wetter?",
        ),
    ],
)
def test_scripts_without_spaces_are_compared_by_characters(
    known: str, same: str, other: str
) -> None:
    prompts = NearPrompts([known])
    assert prompts.holds(same)
    assert not prompts.holds(other)


def test_short_requests_are_near_only_to_themselves() -> None:
    prompts = NearPrompts(["Hello there", ""])
    assert prompts.holds("hello THERE")
    assert prompts.holds("")
    assert not prompts.holds("hello")


@given(st.lists(st.text(max_size=60), max_size=6), st.text(max_size=60))
def test_order_and_repeats_do_not_matter_and_each_holds_itself(
    prompts: list[str], asked: str
) -> None:
    forward, backward = NearPrompts(prompts), NearPrompts([*reversed(prompts), *prompts])
    assert forward.holds(asked) == backward.holds(asked)
    assert all(forward.holds(prompt) for prompt in prompts)


@given(st.text(max_size=60), st.text(max_size=60))
def test_it_is_the_jaccard_index_and_so_the_same_both_ways(one: str, other: str) -> None:
    assert NearPrompts([one]).holds(other) == NearPrompts([other]).holds(one)


def test_rows_are_left_out_and_counted_by_source() -> None:
    rows = [row(KNOWN, "a"), row("Name a lake.", "a"), row(KNOWN + " Please.", "b")]
    kept, left_out = without_near(rows, [row(KNOWN, "test")])
    assert [r.prompt for r in kept] == ["Name a lake."]
    assert left_out == {"a": 1, "b": 1}
