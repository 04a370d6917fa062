"""DSPy programs on its dummy LM, guarded."""

from __future__ import annotations

import doctest
import logging
from typing import Any

import pytest
from adapters import REFUSAL, STRICT, Asked, guard_by_word

from srr_guard import BelowThresholdError
from srr_guard.errors import AllCandidatesFailedError, ConfigurationError, ScorerError
from srr_guard.policy import GatePolicy
from srr_guard.testing import FakeGate, FakeScorer

pytest.importorskip("dspy")

import dspy
import srr_guard_integrations.dspy as adapter
from dspy.utils import DummyLM
from srr_guard_integrations.dspy import SafetyRankedModule, SafetyReward

pytestmark = pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning")
QA = dspy.Predict("question -> answer")


def lm(*answers: str) -> DummyLM:
    return DummyLM([{"answer": answer} for answer in answers])


def guarded(module: Any = QA, *, answer: str | None = None, **settings: Any) -> SafetyRankedModule:
    return SafetyRankedModule(module, answer=answer, guard=guard_by_word(**settings))


class TestModule:
    def test_sync(self):
        with dspy.context(lm=lm("bad", "good")):
            made = guarded()(question="why")
        assert made.answer == "good"
        assert made.srr_guard["reason"] == "best_of_n"

    async def test_async(self):
        with dspy.context(lm=lm("bad", "good")):
            made = await guarded().acall(question="why")
        assert made.answer == "good"

    def test_inside_a_program_only_the_chosen_trace_counts(self):
        class Program(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.qa = guarded()

            def forward(self, question: str) -> Any:
                return self.qa(question=question)

        with dspy.context(lm=lm("bad", "good"), trace=[]):
            assert Program()(question="why").answer == "good"
            assert [step[2].answer for step in dspy.settings.trace] == ["good"]

    def test_candidates_differ_past_the_cache(self):
        seen: list[Any] = []

        class Recording(DummyLM):
            def copy(self, **kwargs: Any) -> Any:
                seen.append((kwargs["rollout_id"], kwargs["temperature"]))
                return super().copy(**kwargs)

        with dspy.context(lm=Recording([{"answer": "good"}] * 2)):
            guarded()(question="why")
        assert sorted(seen) == [(0, 1.0), (1, 1.0)]

    def test_all_fields_are_scored(self):
        scorer = Asked()
        model = DummyLM([{"reasoning": "good", "answer": "a"}, {"reasoning": "bad", "answer": "b"}])
        program = guarded(dspy.ChainOfThought("context, question -> answer"), scorer=scorer)
        with dspy.context(lm=model):
            assert program(context=["facts"], question="why").answer == "a"
        assert sorted(scorer.calls[0]) == ["bad\nb", "good\na"]
        assert scorer.turns[-1] == ("user", "why")
        assert "facts" in scorer.turns[0][1]

    def test_a_refusal_in_a_field(self):
        with dspy.context(lm=lm("bad", "bad")):
            made = guarded(answer="answer")(question="why")
        assert made.answer == REFUSAL
        with dspy.context(lm=lm("bad", "bad")), pytest.raises(ConfigurationError, match="reply"):
            guarded(answer="reply")(question="why")

    @pytest.mark.parametrize("settings", [{}, {"decision": STRICT, "answer": "answer"}])
    def test_without_a_field_it_raises(self, settings):
        with dspy.context(lm=lm("bad", "bad")), pytest.raises(BelowThresholdError):
            guarded(**settings)(question="why")

    def test_a_scorer_that_fails_lets_nothing_pass(self):
        broken = FakeScorer(lambda *_: 0.9, error=RuntimeError("broken"))
        with dspy.context(lm=lm("good", "good")), pytest.raises(ScorerError):
            guarded(scorer=broken)(question="why")

    def test_errors(self):
        class Fails(dspy.Module):
            def forward(self, **_: Any) -> Any:
                raise TimeoutError("x")

        with dspy.context(lm=lm("good")), pytest.raises(AllCandidatesFailedError) as caught:
            guarded(Fails())(question="why")
        assert isinstance(caught.value, TimeoutError)
        with pytest.raises(ConfigurationError, match=r"dspy\.Module"):
            SafetyRankedModule(print)
        with pytest.raises(ConfigurationError, match="no LM"), dspy.context(lm=None):
            guarded()(question="why")

    async def test_streams_emit_the_chosen_prediction_only(self):
        listener = dspy.streaming.StreamListener(signature_field_name="answer")
        stream = dspy.streamify(guarded(), stream_listeners=[listener])
        with dspy.context(lm=lm("wicked", "good")):
            seen = [piece async for piece in stream(question="why")]
        assert "wicked" not in repr(seen)
        assert seen[-1].answer == "good"

    def test_unguarded(self, caplog):
        program = guarded()
        with caplog.at_level(logging.WARNING, logger="srr_guard"), dspy.context(lm=lm("bad")):
            assert program.unguarded()(question="why").answer == "bad"
        assert program.guard.bypasses == 1

    def test_copies(self):
        with dspy.context(lm=lm("bad", "good")):
            assert guarded().deepcopy()(question="why").answer == "good"


class TestReward:
    def test_best_of_n(self):
        reward = SafetyReward(guard=guard_by_word())
        program = dspy.BestOfN(QA, N=2, reward_fn=reward, threshold=reward.threshold)
        with dspy.context(lm=lm("bad", "good")):
            assert program(question="why").answer == "good"

    def test_refine_reads_its_source(self):
        reward = SafetyReward(guard=guard_by_word())
        program = dspy.Refine(QA, N=2, reward_fn=reward, threshold=reward.threshold)
        with dspy.context(lm=lm("good")):
            assert program(question="why").answer == "good"

    def test_values(self):
        for decision in (None, STRICT):
            reward = SafetyReward(guard=guard_by_word(decision=decision))
            assert reward({"question": "why"}, dspy.Prediction(answer="bad")) == 0.1
            assert reward({"question": "why"}, dspy.Prediction(answer="good")) == 0.9

    def test_a_prompt_that_the_gate_refuses(self):
        guard = guard_by_word(
            decision=STRICT, gate=FakeGate(lambda _: 0.9), gating=GatePolicy(refuse_above=0.8)
        )
        reward = SafetyReward(guard=guard)
        assert reward({"question": "why"}, dspy.Prediction(answer="bad")) < reward.threshold

    def test_a_scorer_that_fails(self):
        broken = FakeScorer(lambda *_: 0.9, error=RuntimeError("broken"))
        with pytest.raises(ScorerError):
            SafetyReward(scorer=broken)({"question": "why"}, dspy.Prediction(answer="good"))


def test_docstring():
    assert doctest.testmod(adapter).failed == 0
