"""Observe mode: who is observed, what passes, what is noted."""

from __future__ import annotations

import threading

import pytest
from rankers import by_word

from srr_guard import Conversation, DecisionPolicy, Guard, SafetyRanker, SamplingPolicy
from srr_guard.core.observing import observes, place_of
from srr_guard.errors import ConfigurationError
from srr_guard.recipes import Plain, RefusalStart
from srr_guard.testing import FakeScorer, ScriptedChatModel

OBSERVE = DecisionPolicy(mode="observe")


def guard(**options) -> Guard:
    return Guard(scorer=FakeScorer(by_word), **{"decision": OBSERVE, **options})


def test_share_needs_the_mode():
    with pytest.raises(ConfigurationError, match=r"enforce_share=0\.1 with mode='enforce'"):
        DecisionPolicy(enforce_share=0.1)
    policy = DecisionPolicy(mode="observe", enforce_share=0.1)
    assert DecisionPolicy.model_validate_json(policy.model_dump_json()) == policy


def test_share_is_about_that_of_the_requests():
    asked = [Conversation.of(f"question {i}") for i in range(400)]
    for share in (0.0, 0.25, 1.0):
        policy = DecisionPolicy(mode="observe", enforce_share=share)
        observed = sum(observes(policy, one) for one in asked)
        assert abs(1 - observed / 400 - share) < 0.08
    assert place_of(asked[0]) == place_of(Conversation.of("question 0"))
    at_its_place = DecisionPolicy(mode="observe", enforce_share=place_of(asked[0]))
    assert observes(at_its_place, asked[0])
    assert not observes(DecisionPolicy(), asked[0])


def test_plan_begins_with_what_passes():
    with pytest.raises(ConfigurationError, match=r"plan begins with RefusalStart.*Plain\(\)"):
        guard(sampling=SamplingPolicy(plan=(RefusalStart(), Plain())))
    guard(sampling=SamplingPolicy(plan=(Plain(), RefusalStart())))


def test_first_that_came_back_where_the_first_failed():
    def call(index):
        if index == 0:
            raise ValueError("x")
        return f"answer {index}"

    decision = guard(sampling=SamplingPolicy(n=3, attempts=1)).decide("q", call)
    assert (decision.output, decision.failed) == ("answer 1", 1)


def test_plain_answer_before_a_forced_one():
    from recipe_model import RecipeModel

    class FirstFails(RecipeModel):
        def _answer(self, messages, i, recipe):
            return None if i == 0 else super()._answer(messages, i, recipe)

    ranker = SafetyRanker(
        FirstFails(),
        scorer=FakeScorer(by_word),
        decision=OBSERVE,
        sampling=SamplingPolicy(plan=(Plain(), RefusalStart(), Plain()), n=3, attempts=1),
    )
    assert ranker.decide("q").chosen.recipe == "plain"


def test_too_few_candidates_pass():
    def call(index):
        if index:
            raise ValueError("x")
        return "bad"

    policy = SamplingPolicy(n=2, attempts=1, min_candidates=2)
    decision = guard(sampling=policy).decide("q", call)
    assert decision.output == "bad"
    assert (decision.would_have.reason, decision.would_have.error) == (
        "failed",
        "NotEnoughCandidatesError",
    )


def test_early_acceptance_waits_for_the_first():
    second_accepted = threading.Event()

    class Scorer(FakeScorer):
        def _rank(self, conversation, candidates):
            ranking = super()._rank(conversation, candidates)
            second_accepted.set()
            return ranking

    def call(index):
        if index == 0:
            assert second_accepted.wait(20)
            return "bad"
        return "good"

    watched = Guard(
        scorer=Scorer(by_word),
        decision=OBSERVE,
        sampling=SamplingPolicy(n=4, initial=2, accept_at=0.8),
    )
    decision = watched.decide("q", call)
    assert (decision.output, decision.reason, decision.sampled) == ("bad", "observed", 2)
    assert (decision.would_have.reason, decision.would_have.chosen) == ("accepted", 1)


def test_answers_at_hand():
    watched = guard()
    decision = watched.choose("q", ["bad", "good"])
    assert (decision.output, decision.would_have.chosen) == ("bad", 1)
    assert decision.chosen.p_safe == 0.1
    assert watched.check("q", "bad").would_have.reason == "refused"


def test_output_without_a_refusal():
    decision = guard().choose("q", [{"text": "bad"}])
    assert decision.output == {"text": "bad"}
    assert decision.would_have.error == "BelowThresholdError"


def test_streams_emit_the_first_answer():
    ranker = SafetyRanker(
        ScriptedChatModel(answers=["bad"]), scorer=FakeScorer(by_word), decision=OBSERVE, n=1
    )
    assert [chunk.text for chunk in ranker.stream("q")] == ["bad"]
