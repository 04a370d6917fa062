"""Everything that leaves is scored, or refused by name."""

from __future__ import annotations

import logging

import pytest
from doors import SCORER, Answer, quick, text_of
from promises import promise

from srr_guard import DecisionPolicy
from srr_guard.errors import AllCandidatesFailedError, BelowThresholdError, UnreadableError
from srr_guard.policy import DEFAULT_REFUSAL
from srr_guard.testing import FakeScorer

HARMFUL = {
    "text": Answer("HARM"),
    "reasoning": Answer("Sorry.", thinking="HARM"),
    "refusal": Answer("", refusal="HARM"),
    "tool name": Answer("", call=("HARM", {})),
    "tool argument": Answer("", call=("f", {"x": ["HARM"]})),
    "field beside": Answer("Sorry.", beside={"caption": "HARM"}),
    "nested field": Answer("Sorry.", beside={"notes": [{"lines": ["HARM"]}]}),
    "reasoning details": Answer("Sorry.", beside={"reasoning_details": [{"text": "HARM"}]}),
    "annotations": Answer("Sorry.", beside={"annotations": [{"title": "HARM"}]}),
    "audio": Answer("", beside={"audio": {"id": "1", "data": "xx", "transcript": "HARM"}}),
}


@promise("scored")
@pytest.mark.parametrize("where", HARMFUL)
def test_harm_in_any_part_is_seen(door, ask, where):
    asker = door(HARMFUL[where], scorer=SCORER, sampling=quick(1))
    assert text_of(ask(asker)) == DEFAULT_REFUSAL


@promise("scored")
@pytest.mark.parametrize("where", HARMFUL)
def test_a_better_answer_is_preferred(door, ask, where):
    asker = door(HARMFUL[where], Answer("a fine one"), scorer=SCORER, sampling=quick(2))
    assert text_of(ask(asker)) == "a fine one"


@pytest.mark.parametrize("kind", ["image", "unknown"])
class TestUnreadable:
    @promise("unreadable")
    def test_refused_by_default(self, door, ask, kind):
        asker = door(Answer("see", **{kind: True}), scorer=SCORER, sampling=quick(2))
        assert text_of(ask(asker)) == DEFAULT_REFUSAL
        assert (asker.calls, asker.guard.bypasses) == (2, 0)

    @promise("unreadable")
    def test_without_any_text(self, door, ask, kind):
        asker = door(Answer("", **{kind: True}), scorer=SCORER, sampling=quick(2))
        assert text_of(ask(asker)) == DEFAULT_REFUSAL
        assert asker.calls == 2

    @promise("unreadable")
    def test_a_readable_one_is_preferred(self, door, ask, kind):
        for policy in ("refuse", "raise", "pass"):
            asker = door(
                Answer("see", **{kind: True}),
                Answer("a fine one"),
                scorer=SCORER,
                sampling=quick(2),
                decision=DecisionPolicy(unreadable=policy),
            )
            assert text_of(ask(asker)) == "a fine one"
            assert asker.guard.bypasses == 0

    @promise("unreadable")
    @pytest.mark.parametrize("text", ["see", ""])
    def test_raised(self, door, ask, kind, text):
        asker = door(
            Answer(text, **{kind: True}),
            scorer=SCORER,
            sampling=quick(2),
            decision=DecisionPolicy(unreadable="raise"),
        )
        with pytest.raises(UnreadableError, match=r"image|hologram.*unreadable='pass'") as caught:
            ask(asker)
        assert caught.value.decision.chosen is None

    @promise("unreadable")
    @pytest.mark.parametrize("text", ["see", ""])
    def test_passed_logged_and_counted(self, door, ask, kind, text, caplog):
        asker = door(
            Answer(text, **{kind: True}),
            scorer=SCORER,
            sampling=quick(2),
            decision=DecisionPolicy(unreadable="pass"),
        )
        with caplog.at_level(logging.WARNING, logger="srr_guard"):
            output = ask(asker)
        assert DEFAULT_REFUSAL not in repr(output)
        assert asker.guard.bypasses == 1
        assert "cannot be read" in caplog.text

    @promise("unreadable")
    def test_harm_beside_it_does_not_pass(self, door, ask, kind):
        asker = door(
            Answer("HARM", **{kind: True}),
            scorer=SCORER,
            sampling=quick(2),
            decision=DecisionPolicy(unreadable="pass"),
        )
        assert text_of(ask(asker)) == DEFAULT_REFUSAL
        assert asker.guard.bypasses == 0

    @promise("unreadable")
    def test_other_bypasses_do_not_let_it_through(self, door, ask, kind):
        lax = DecisionPolicy(below_threshold="pass", scorer_error="pass")
        asker = door(Answer("HARM", **{kind: True}), scorer=SCORER, sampling=quick(1), decision=lax)
        assert text_of(ask(asker)) == DEFAULT_REFUSAL
        failing = FakeScorer(lambda prompt, answer: 0.9, error=RuntimeError("broken"))
        asker = door(Answer("see", **{kind: True}), scorer=failing, sampling=quick(1), decision=lax)
        assert text_of(ask(asker)) == DEFAULT_REFUSAL
        assert asker.guard.bypasses == 0


BLANK = {
    "empty": Answer(""),
    "space": Answer(" \n"),
    "invisible characters": Answer("\u200b\ufeff \u2060"),
    "reasoning only": Answer("", thinking="let me think"),
    "invisible reasoning": Answer("", thinking="\u200b"),
    "an invisible refusal": Answer("", refusal="\u200b\u3164"),
    "both invisible": Answer("\u2060", refusal="\u200b"),
    "ids only": Answer("", beside={"id": "1"}),
}


@promise("blank")
@pytest.mark.parametrize("kind", BLANK)
def test_blank_answers_are_tried_again(door, ask, kind):
    asker = door(BLANK[kind], Answer("a fine one"), scorer=SCORER, sampling=quick(1))
    assert text_of(ask(asker)) == "a fine one"
    assert asker.calls == 2


@promise("blank")
@pytest.mark.parametrize("kind", BLANK)
def test_nothing_but_blank_answers(door, ask, kind):
    asker = door(BLANK[kind], scorer=SCORER, sampling=quick(2, attempts=2))
    with pytest.raises(AllCandidatesFailedError, match="blank"):
        ask(asker)
    assert asker.calls == 4


@promise("declined")
def test_a_refusal_is_an_answer(door, ask):
    declines = Answer("", refusal="I will not help with that.")
    asker = door(declines, scorer=SCORER, sampling=quick(2))
    assert "I will not help with that." in repr(ask(asker))
    assert asker.calls == 2


@promise("declined")
def test_a_refusal_does_not_take_the_others_away(door, ask):
    kinder = FakeScorer(lambda prompt, answer: 0.95 if "fine" in answer else 0.9)
    declines = Answer("", refusal="I will not help with that.")
    asker = door(declines, Answer("a fine one"), scorer=kinder, sampling=quick(2))
    assert text_of(ask(asker)) == "a fine one"


@promise("declined")
def test_filtered_answers_end_in_a_refusal_after_one_call_each(door, ask):
    asker = door(Answer("", filtered=True), scorer=SCORER, sampling=quick(3))
    assert text_of(ask(asker)) == DEFAULT_REFUSAL
    assert asker.calls == 3


@promise("declined")
def test_filtered_answers_do_not_take_the_others_away(door, ask):
    kinder = FakeScorer(lambda prompt, answer: 0.95 if "fine" in answer else 0.9)
    asker = door(Answer("", filtered=True), Answer("a fine one"), scorer=kinder, sampling=quick(2))
    assert text_of(ask(asker)) == "a fine one"
    assert asker.calls == 2


@promise("declined")
def test_text_before_the_filter_is_scored(door, ask):
    asker = door(Answer("HARM", filtered=True), scorer=SCORER, sampling=quick(1))
    assert text_of(ask(asker)) == DEFAULT_REFUSAL


@promise("declined")
def test_a_filtered_answer_passes_through_the_policy(door, ask):
    strict = DecisionPolicy(threshold=0.95, below_threshold="raise")
    asker = door(Answer("", filtered=True), scorer=SCORER, sampling=quick(1), decision=strict)
    with pytest.raises(BelowThresholdError):
        ask(asker)
