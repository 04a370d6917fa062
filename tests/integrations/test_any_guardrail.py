"""The scorer as a guardrail of any-guardrail."""

from __future__ import annotations

import doctest

import pytest

pytest.importorskip("any_guardrail", reason="run by `make adapters`")

import srr_guard_integrations.any_guardrail as module
from adapters import by_word
from any_guardrail.base import Guardrail, GuardrailOutput

from srr_guard import DecisionPolicy
from srr_guard.errors import InvalidInputError, ScoringError
from srr_guard.testing import FakeScorer

GUARDRAIL = module.SafetyRankingGuardrail(scorer=FakeScorer(by_word))


@pytest.mark.parametrize(("answer", "valid", "score"), [("good", True, 0.1), ("bad", False, 0.9)])
def test_an_answer_is_judged(answer, valid, score):
    found = GUARDRAIL.validate([{"role": "user", "content": "q"}], answer)
    assert isinstance(GUARDRAIL, Guardrail)
    assert isinstance(found, GuardrailOutput)
    assert (found.valid, found.score) == (valid, score)
    assert found.action == ("allow" if valid else "block")
    assert found.extra["reason"] == found.explanation


@pytest.mark.parametrize("answer", [None, 7, ["good"]])
def test_without_an_answer_it_says_so(answer):
    with pytest.raises(InvalidInputError, match="give both"):
        GUARDRAIL.validate("q", answer)


def test_a_scorer_that_fails():
    scorer = FakeScorer(by_word, error=ScoringError("down"))
    with pytest.raises(ScoringError):
        module.SafetyRankingGuardrail(scorer=scorer).validate("q", "good")
    policy = DecisionPolicy(scorer_error="refuse")
    found = module.SafetyRankingGuardrail(scorer=scorer, decision=policy).validate("q", "good")
    assert (found.valid, found.score) == (False, None)


def test_a_policy_that_raises_still_gives_a_verdict():
    policy = DecisionPolicy(below_threshold="raise")
    guardrail = module.SafetyRankingGuardrail(scorer=FakeScorer(by_word), decision=policy)
    found = guardrail.validate("q", "bad")
    assert (found.valid, found.score, found.action) == (False, 0.9, "block")


def test_the_example_runs():
    assert doctest.testmod(module).failed == 0
