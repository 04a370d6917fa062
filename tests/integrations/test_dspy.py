"""DSPy programs on its dummy LM, guarded."""

from __future__ import annotations

import doctest
import logging
from typing import Any

import pytest
from adapters import REFUSAL, STRICT, Asked, guard_by_word

from srr_guard import BelowThresholdError
from srr_guard.errors import (
    AllCandidatesFailedError,
    ConfigurationError,
    ScorerError,
)
from srr_guard.policy import GatePolicy, SamplingPolicy
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


# ---- typed outputs ----


class Own(dspy.Module):
    """A module of the app's own, which promises a type and makes its prediction by itself."""

    signature = dspy.Signature("question -> people: int, note: str | None")

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        answer = self.ask(question=question).answer
        if answer == "nothing":
            return {"people": 3}
        if answer == "less":
            return dspy.Prediction(people=3)
        return dspy.Prediction(people=answer, note=None)


def typed(module: Any, *answers: dict[str, Any], attempts: int = 1, **settings: Any) -> Any:
    options = {"scorer": FakeScorer(lambda *_: 0.9)} | settings
    sampling = SamplingPolicy(n=len(answers), attempts=attempts, backoff=0)
    program = SafetyRankedModule(module, sampling=sampling, **options)
    with dspy.context(lm=DummyLM(list(answers))):
        return program(question="q")


@pytest.mark.parametrize("said", ["3", "3.0"])
def test_what_pydantic_converts_fits(said):
    assert typed(Own(), {"answer": said}).people == said
    assert typed(dspy.Predict("question -> people: int"), {"people": "3"}).people == 3


@pytest.mark.parametrize("bad", ["many", "less"])
def test_a_prediction_that_does_not_fit_is_a_failed_candidate(bad):
    chosen = typed(Own(), {"answer": bad}, {"answer": "3"})
    assert (chosen.people, chosen.srr_guard["failed"]) == ("3", 1)
    with pytest.raises(AllCandidatesFailedError, match="output field"):
        typed(Own(), {"answer": bad})


def test_what_dspy_cannot_parse_is_one_too():
    with pytest.raises(AllCandidatesFailedError, match="AdapterParseError"):
        typed(dspy.Predict("question -> people: int"), {"people": "many"})


def test_a_module_without_a_prediction_is_named():
    with pytest.raises(AllCandidatesFailedError, match=r"return a dspy\.Prediction"):
        typed(Own(), {"answer": "nothing"})


@pytest.mark.parametrize("kind", ["int", "Literal['a', 'b']", "list[str]"])
def test_a_refusal_stands_in_a_field_for_texts_only(kind):
    with pytest.raises(ConfigurationError, match="takes no refusal"):
        SafetyRankedModule(dspy.Predict(f"question -> answer: {kind}"), answer="answer")


@pytest.mark.parametrize("kind", ["str", "str | None", "int | str"])
def test_other_fields_take_it(kind):
    predict = dspy.Predict(f"question -> answer: {kind}, people: int")
    refused = typed(
        predict,
        {"answer": "bad", "people": "3"},
        scorer=FakeScorer(lambda *_: 0.1),
        answer="answer",
    )
    assert refused.answer == REFUSAL
    assert refused.people is None
