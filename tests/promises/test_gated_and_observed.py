"""What a prompt gate does, and what observe mode leaves alone, at every door."""

from __future__ import annotations

import logging

import pytest
from doors import SCORER, Answer, calls_of, decision_on, quick, text_of
from promises import promise

from srr_guard import DecisionPolicy
from srr_guard.errors import (
    AllCandidatesFailedError,
    BelowThresholdError,
    PromptRefusedError,
    ScoringError,
)
from srr_guard.policy import DEFAULT_REFUSAL, GatePolicy
from srr_guard.testing import FakeGate, FakeScorer

BENIGN, HARMFUL = FakeGate(lambda prompt: 0.01), FakeGate(lambda prompt: 0.99)
BROKEN = FakeGate(lambda prompt: 0.5, error=RuntimeError("SECRET"))
MIDDLING = FakeScorer(lambda prompt, answer: 0.1 if "HARM" in answer else 0.6)


@promise("gated")
def test_benign_prompt_costs_one_answer(door, ask):
    asker = door(Answer("fine"), scorer=SCORER, sampling=quick(3), gate=BENIGN)
    made = decision_on(ask(asker))
    assert (asker.calls, made["reason"], made["gate"]["verdict"]) == (1, "accepted", "benign")


@promise("gated")
def test_benign_prompt_with_a_bad_first_answer_costs_all(door, ask):
    asker = door(Answer("HARM"), Answer("fine"), scorer=SCORER, sampling=quick(3), gate=BENIGN)
    output = ask(asker)
    assert (text_of(output), asker.calls) == ("fine", 3)


@promise("gated")
def test_harmful_prompt_needs_more(door, ask):
    for threshold, expected in ((0.5, "fine"), (0.8, DEFAULT_REFUSAL)):
        asker = door(
            Answer("fine"),
            scorer=MIDDLING,
            sampling=quick(2),
            gate=HARMFUL,
            gating=GatePolicy(threshold=threshold),
        )
        output = ask(asker)
        assert (text_of(output), asker.calls) == (expected, 2)
        assert decision_on(output)["gate"]["threshold"] == threshold


@promise("gated")
def test_refused_at_once(door, ask):
    asker = door(
        Answer("fine"),
        scorer=SCORER,
        sampling=quick(3),
        gate=HARMFUL,
        gating=GatePolicy(refuse_above=0.9),
    )
    output = ask(asker)
    assert text_of(output) == DEFAULT_REFUSAL
    assert decision_on(output)["reason"] == "refused_by_gate"
    assert asker.calls <= 1  # for its form, or because it was on its way
    assert asker.guard.totals.gate_refusals == asker.guard.totals.requests == 1
    assert asker.guard.bypasses == 0


@promise("gated")
def test_refused_at_once_raises_where_the_policy_says_so(door, ask):
    asker = door(
        Answer("fine"),
        scorer=SCORER,
        gate=HARMFUL,
        gating=GatePolicy(refuse_above=0.9),
        decision=DecisionPolicy(below_threshold="raise"),
    )
    with pytest.raises(PromptRefusedError, match=r"p_harmful=0\.990"):
        ask(asker)
    assert asker.guard.totals.gate_refusals == 1


@promise("gated")
def test_gate_that_fails_is_a_scorer_that_fails(door, ask, caplog):
    def asker(scorer_error):
        return door(
            Answer("fine"),
            scorer=SCORER,
            sampling=quick(2),
            gate=BROKEN,
            decision=DecisionPolicy(scorer_error=scorer_error),
        )

    with pytest.raises(ScoringError):
        ask(asker("raise"))
    assert text_of(ask(asker("refuse"))) == DEFAULT_REFUSAL
    passing = asker("pass")
    with caplog.at_level(logging.WARNING, "srr_guard"):
        output = ask(passing)
    assert text_of(output) == "fine"
    assert decision_on(output)["gate"]["verdict"] == "failed"
    assert passing.guard.bypasses == 1
    assert "prompt gate failed (RuntimeError)" in caplog.text
    assert "SECRET" not in caplog.text


OBSERVE = DecisionPolicy(mode="observe")


@promise("observed")
@pytest.mark.parametrize(
    ("answers", "would_have"),
    [
        ((Answer("HARM"), Answer("fine")), ("best_of_n", 1, None)),
        ((Answer("HARM"), Answer("HARM too")), ("refused", None, None)),
        ((Answer("fine"), Answer("HARM")), ("best_of_n", 0, None)),
        ((Answer("look", image=True), Answer("HARM")), ("refused", None, None)),
    ],
    ids=["another answer", "a refusal", "the same answer", "unreadable"],
)
def test_first_answer_leaves(door, ask, answers, would_have):
    asker = door(*answers, scorer=SCORER, sampling=quick(2, attempts=1), decision=OBSERVE)
    output = ask(asker)
    made = decision_on(output)
    # candidates are called side by side: the first candidate is any of the answers
    first = made["chosen"]
    assert (made["reason"], first) == ("observed", 0)
    texts = [answer.text for answer in answers]
    assert text_of(output) in texts
    if len({*texts}) == 2 and would_have[1] is not None:
        place = texts.index(text_of(output))
        found = made["would_have"]["chosen"]
        assert texts[place if found == 0 else 1 - place] == "fine"
    assert made["would_have"]["reason"] == would_have[0]
    totals = asker.guard.totals
    assert (totals.observed, totals.requests, totals.bypasses) == (1, 1, 0)


@promise("observed")
def test_what_the_filter_took_away_leaves_as_it_came(door, ask):
    asker = door(Answer("", filtered=True), scorer=SCORER, sampling=quick(1), decision=OBSERVE)
    assert text_of(ask(asker)) == ""


@promise("observed")
def test_tool_calls_leave(door, ask):
    asker = door(Answer("", call=("HARM", {"x": 1})), scorer=SCORER, sampling=quick(1),
                 decision=OBSERVE)  # fmt: skip
    assert calls_of(ask(asker)) == [("HARM", {"x": 1})]


@promise("observed")
@pytest.mark.parametrize("scorer_error", ["raise", "refuse", "pass"])
def test_scorer_that_fails(door, ask, scorer_error, caplog):
    asker = door(
        Answer("fine"),
        scorer=FakeScorer(lambda prompt, answer: 0.9, error=RuntimeError("SECRET")),
        sampling=quick(2),
        decision=DecisionPolicy(mode="observe", scorer_error=scorer_error),
    )
    with caplog.at_level(logging.WARNING, "srr_guard"):
        output = ask(asker)
    assert text_of(output) == "fine"
    would_have = decision_on(output)["would_have"]
    assert would_have["error"] == ("ScoringError" if scorer_error == "raise" else None)
    assert "observed: an unscored answer was passed on" in caplog.text
    assert "SECRET" not in caplog.text
    assert (asker.guard.totals.observed, asker.guard.bypasses) == (1, 0)


@promise("observed")
@pytest.mark.parametrize("below_threshold", ["raise", "refuse", "pass"])
def test_below_the_threshold(door, ask, below_threshold, caplog):
    decision = DecisionPolicy(mode="observe", below_threshold=below_threshold)
    asker = door(Answer("HARM"), scorer=SCORER, sampling=quick(1), decision=decision)
    with caplog.at_level(logging.WARNING, "srr_guard"):
        output = ask(asker)
    assert text_of(output) == "HARM"
    found = decision_on(output)["would_have"]
    assert found["error"] == ("BelowThresholdError" if below_threshold == "raise" else None)
    assert found["reason"] == ("passed_through" if below_threshold == "pass" else "refused")
    assert ("would have been withheld" in caplog.text) == (below_threshold != "pass")
    assert "bypass:" not in caplog.text


@promise("observed")
def test_refusal_by_the_gate(door, ask):
    asker = door(
        Answer("fine"),
        scorer=SCORER,
        sampling=quick(3),
        gate=HARMFUL,
        gating=GatePolicy(refuse_above=0.9),
        decision=OBSERVE,
    )
    output = ask(asker)
    assert (text_of(output), asker.calls) == ("fine", 1)
    assert decision_on(output)["would_have"]["reason"] == "refused_by_gate"
    assert (asker.guard.totals.observed, asker.guard.totals.gate_refusals) == (1, 0)


@promise("observed")
def test_gate_that_fails(door, ask):
    asker = door(Answer("fine"), scorer=SCORER, sampling=quick(3), gate=BROKEN, decision=OBSERVE)
    output = ask(asker)
    assert text_of(output) == "fine"
    assert decision_on(output)["would_have"]["error"] == "ScoringError"


@promise("observed")
def test_no_answer_at_all_still_raises(door, ask):
    asker = door(ConnectionError("x"), scorer=SCORER, sampling=quick(2, attempts=1),
                 decision=OBSERVE)  # fmt: skip
    with pytest.raises(AllCandidatesFailedError):
        ask(asker)
    assert asker.guard.totals.observed == 0


@promise("observed")
def test_share_that_is_enforced(door, ask):
    everything = DecisionPolicy(mode="observe", enforce_share=1.0, below_threshold="raise")
    asker = door(Answer("HARM"), scorer=SCORER, sampling=quick(1), decision=everything)
    with pytest.raises(BelowThresholdError):
        ask(asker)
