"""The prompt gate: what it is waited for, what it changes, what it costs."""

from __future__ import annotations

import asyncio
import threading

import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel
from rankers import by_word
from recipe_model import RecipeModel

from srr_guard import (
    DecisionPolicy,
    Guard,
    SafetyRankedChatModel,
    SafetyRanker,
    SamplingPolicy,
    srr_guard,
)
from srr_guard.decision import PromptAssessment
from srr_guard.errors import AllCandidatesFailedError, ConfigurationError, PromptRefusedError
from srr_guard.gates.rulings import rule, verdict_on
from srr_guard.policy import DEFAULT_REFUSAL, GatePolicy, Policies
from srr_guard.recipes import Plain, RefusalStart, Steered
from srr_guard.testing import FakeGate, FakeScorer, ScriptedChatModel

SCORER = FakeScorer(by_word)
REFUSING = GatePolicy(refuse_above=0.9)


def gate(p_harmful, **options) -> FakeGate:
    return FakeGate(lambda prompt: p_harmful, **options)


def sampling(n=3, **options) -> SamplingPolicy:
    return SamplingPolicy(n=n, backoff=0.0, attempts=1, **options)


@pytest.fixture(params=["sync", "async"])
def decide(request):
    def decide(guard, prompt="q", **kwargs):
        if request.param == "sync":
            return guard.decide(prompt, **kwargs)
        return asyncio.run(guard.adecide(prompt, **kwargs))

    return decide


class TestVerdicts:
    @pytest.mark.parametrize(
        ("p_harmful", "familiarity", "verdict"),
        [
            (0.19, 0.5, "benign"),
            (0.19, 0.1, "benign"),
            (0.19, 0.05, "uncertain"),
            (0.19, None, "uncertain"),
            (0.2, 0.5, "uncertain"),
            (0.8, 0.5, "uncertain"),
            (0.81, 0.5, "harmful"),
            (0.81, None, "harmful"),
            (0.95, 0.5, "harmful"),
            (0.96, 0.0, "refused"),
        ],
    )
    def test_of_each_kind(self, p_harmful, familiarity, verdict):
        policy = GatePolicy(refuse_above=0.95)
        seen = PromptAssessment(p_harmful=p_harmful, familiarity=familiarity)
        assert verdict_on(seen, policy) == verdict

    def test_familiarity_may_not_count(self):
        seen = PromptAssessment(p_harmful=0.0)
        assert verdict_on(seen, GatePolicy(min_familiarity=0.0)) == "benign"

    def test_uncertain_changes_nothing(self):
        given = sampling(), DecisionPolicy()
        ruling = rule(PromptAssessment(p_harmful=0.5), GatePolicy(threshold=0.9), *given)
        assert (ruling.sampling, ruling.decision, ruling.by_plan) == (*given, False)

    def test_benign_keeps_the_stricter_settings(self):
        seen = PromptAssessment(p_harmful=0.0, familiarity=1.0)
        policy = sampling(8, accept_at=0.9, min_candidates=2, initial=4)
        ruling = rule(seen, GatePolicy(), policy, DecisionPolicy())
        assert (ruling.sampling.accept_at, ruling.sampling.initial) == (0.9, 2)
        ruling = rule(seen, GatePolicy(n=200), sampling(3), DecisionPolicy(threshold=0.7))
        assert (ruling.sampling.accept_at, ruling.sampling.initial) == (0.7, 3)

    def test_harmful_never_lowers_the_threshold(self):
        seen = PromptAssessment(p_harmful=0.9)
        ruling = rule(seen, GatePolicy(threshold=0.6), sampling(), DecisionPolicy(threshold=0.8))
        assert ruling.decision.threshold == ruling.gated.threshold == 0.8
        assert ruling.sampling.accept_at is None


class TestPolicy:
    @pytest.mark.parametrize(
        ("bad", "says"),
        [
            ({"benign_below": 0.9}, r"benign_below=0\.9, harmful_above=0\.8.*ascend"),
            ({"refuse_above": 0.5}, r"refuse_above=0\.5 must ascend"),
            ({"n": 0}, "n=0"),
            ({"plan": ()}, "plan"),
            ({"threshold": 2}, "threshold=2"),
        ],
    )
    def test_what_makes_no_sense(self, bad, says):
        with pytest.raises(ConfigurationError, match=says):
            GatePolicy(**bad)

    def test_files_keep_it(self, tmp_path):
        given = GatePolicy(plan=(RefusalStart(depth=2), Plain()), refuse_above=0.99)
        Policies(gating=given).save(tmp_path / "p.json")
        assert Policies.load(tmp_path / "p.json").gating == given
        Policies().save(tmp_path / "p.json")
        assert Policies.load(tmp_path / "p.json").gating is None
        (tmp_path / "p.json").write_text('{"gating": {"n": 0}}')
        with pytest.raises(ConfigurationError, match="n=0"):
            Policies.load(tmp_path / "p.json")

    def test_guard_says_what_it_cannot_use(self):
        with pytest.raises(ConfigurationError, match=r"a scorer that has `assess`.*`gate=`"):
            Guard(scorer=SCORER, gating=GatePolicy())
        with pytest.raises(ConfigurationError, match=r"gate=.*`assess` and async `aassess`"):
            Guard(scorer=SCORER, gate=SCORER)
        with pytest.raises(ConfigurationError, match=r"gating=0.5 cannot be used"):
            Guard(scorer=SCORER, gate=gate(0.5), gating=0.5)
        with pytest.raises(ConfigurationError, match=r"2 recipes.*n=2: raise n to 3"):
            Guard(scorer=SCORER, gate=gate(0), gating=GatePolicy(plan=(Plain(), Plain())), n=2)

    def test_plan_that_nothing_follows(self):
        policy = GatePolicy(plan=(RefusalStart(),))
        guard = Guard(scorer=SCORER, gate=gate(0.9), gating=policy)
        with pytest.raises(ConfigurationError, match=r"plan=.*RefusalStart.*reaches no model"):
            guard.decide("q", lambda _: "good")
        with pytest.raises(ConfigurationError, match="plan="):
            srr_guard(scorer=SCORER, gate=gate(0.9), gating=policy)
        with pytest.raises(ConfigurationError, match=r"Steered.*ScriptedChatModel"):
            SafetyRanker(
                ScriptedChatModel(answers=["x"]),
                scorer=SCORER,
                gate=gate(0.9),
                gating=GatePolicy(plan=(Steered(),)),
            )

    def test_copies_and_shared_guards_keep_it(self):
        ranker = SafetyRanker(
            ScriptedChatModel(answers=["good"]), scorer=SCORER, gate=gate(0.0), n=3
        )
        assert ranker.gating == GatePolicy()
        other = ranker.model_copy(update={"gating": REFUSING})
        assert (other.guard.gating, other.guard.gate) == (REFUSING, ranker.gate)
        shared = SafetyRankedChatModel(ScriptedChatModel(answers=["good"]), guard=ranker.guard)
        assert shared.gate is ranker.gate
        with pytest.raises(ConfigurationError, match="gate"):
            SafetyRanker(shared.model, guard=ranker.guard, gate=gate(0.1))
        assert Guard(gate=gate(0.0), scorer=SCORER).__reduce__()[1][0]["gating"] == GatePolicy()


class TestPlanOfHarmfulPrompts:
    POLICY = GatePolicy(plan=(RefusalStart(), Steered()), threshold=0.8)

    def ranker(self, p_harmful, model=None, n=4, **options):
        return SafetyRanker(
            model or RecipeModel(),
            scorer=FakeScorer(lambda prompt, answer: 0.9),
            sampling=sampling(n, **options),
            gate=gate(p_harmful),
            gating=self.POLICY,
        )

    def test_first_candidate_is_that_of_the_sampling_policy(self, decide):
        decision = decide(self.ranker(0.9))
        kinds = [candidate.recipe for candidate in decision.candidates]
        assert kinds == ["plain", "refusal_start", "steered", "refusal_start"]
        assert decision.gate.plan == ("refusal_start", "steered")
        assert decision.gate.threshold == 0.8

    def test_others_follow_the_sampling_policy(self, decide):
        decision = decide(self.ranker(0.5))
        assert [candidate.recipe for candidate in decision.candidates] == ["plain"] * 4
        assert decision.gate.plan == ()

    def test_local_models_wait_for_the_gate(self, decide):
        """So that all candidates of a round are one call."""
        model = RecipeModel()
        decide(self.ranker(0.9, model))
        assert [how for how, _ in model.seen] == ["batch"]

    def test_adaptive_sampling_is_off(self, decide):
        decision = decide(self.ranker(0.9, accept_at=0.5))
        assert (decision.sampled, decision.reason) == (4, "best_of_n")

    def test_forced_starts_are_skipped_with_tools(self, decide):
        class Tool(BaseModel):
            x: int

        guard = self.ranker(0.9).bind_tools([Tool])
        decision = decide(guard)
        kinds = [candidate.recipe for candidate in decision.candidates]
        assert kinds == ["plain", "plain", "steered", "plain"]
        assert len(decision.skipped) == 1
        assert decide(self.ranker(0.5).bind_tools([Tool])).skipped == ()


class TestTogetherWithTheFirstCandidate:
    """Where the model is behind an API neither waits for the other."""

    def test_on_threads(self):
        model_called, gate_called = threading.Event(), threading.Event()

        def answer(_):
            model_called.set()
            assert gate_called.wait(20)
            return "good"

        def assess(_):
            gate_called.set()
            assert model_called.wait(20)
            return 0.0

        guard = Guard(scorer=SCORER, gate=FakeGate(assess), sampling=sampling(3))
        decision = guard.decide("q", answer)
        assert (decision.sampled, decision.reason) == (1, "accepted")

    async def test_as_tasks(self):
        model_called, gate_called = asyncio.Event(), asyncio.Event()

        async def answer(_):
            model_called.set()
            await gate_called.wait()
            return "good"

        class Gate(FakeGate):
            async def aassess(self, conversation):
                gate_called.set()
                await model_called.wait()
                return await super().aassess(conversation)

        guard = Guard(scorer=SCORER, gate=Gate(lambda _: 0.0), sampling=sampling(3))
        assert (await guard.adecide("q", answer)).sampled == 1

    def test_refusal_does_not_wait_for_it(self):
        never = threading.Event()
        model = RunnableLambda(lambda _: never.wait(20) and "good") | StrOutputParser()
        ranker = SafetyRanker(
            model, scorer=SCORER, gate=gate(0.99), gating=REFUSING, sampling=sampling(2)
        )
        try:
            decision = ranker.decide("q")
        finally:
            never.set()
        assert (decision.output, decision.reason) == (DEFAULT_REFUSAL, "refused_by_gate")
        assert (decision.candidates, decision.sampled) == ((), 1)

    def test_first_candidate_that_fails_is_one_of_all(self, decide):
        answers = [ConnectionError("x"), "good", "good"]
        ranker = SafetyRanker(
            ScriptedChatModel(answers=answers), scorer=SCORER, gate=gate(0.5), sampling=sampling(3)
        )
        decision = decide(ranker)
        assert (decision.reason, decision.failed, decision.sampled) == ("fallback", 1, 3)

    def test_all_fail(self, decide):
        model = ScriptedChatModel(answers=[ConnectionError("x")])
        for p_harmful in (0.0, 0.5, 0.85):
            ranker = SafetyRanker(model, scorer=SCORER, gate=gate(p_harmful), sampling=sampling(2))
            with pytest.raises(AllCandidatesFailedError):
                decide(ranker)


class TestRefusedByGate:
    def test_local_model_is_not_asked(self, decide):
        model = RecipeModel()
        ranker = SafetyRanker(model, scorer=SCORER, gate=gate(0.99), gating=REFUSING)
        decision = decide(ranker)
        assert (decision.output.text, decision.sampled, model.seen) == (DEFAULT_REFUSAL, 0, [])
        assert decision.output.response_metadata["srr_guard"]["reason"] == "refused_by_gate"
        assert ranker.totals.candidates == 0

    def test_streams_refuse(self):
        for make in (SafetyRanker, SafetyRankedChatModel):
            guard = make(
                ScriptedChatModel(answers=["good"]), scorer=SCORER, gate=gate(1), gating=REFUSING
            )
            assert "".join(chunk.text for chunk in guard.stream("q")) == DEFAULT_REFUSAL

    def test_structured_output_has_no_refusal(self):
        class Tool(BaseModel):
            x: int

        ranker = SafetyRankedChatModel(
            RecipeModel(), scorer=SCORER, gate=gate(0.99), gating=REFUSING
        )
        with pytest.raises(PromptRefusedError, match=r"p_harmful=0\.990") as caught:
            ranker.with_structured_output(Tool).invoke("q")
        assert "raised in place of a refusal" in caught.value.__notes__[0]
        assert caught.value.decision.gate.verdict == "refused"

    def test_answer_of_an_unknown_form_is_asked_for_it(self, decide):
        model = RunnableLambda(lambda _: "good")
        ranker = SafetyRanker(model, scorer=SCORER, gate=gate(0.99), gating=REFUSING)
        scored = len(SCORER.calls)
        decision = decide(ranker)
        assert (decision.output, decision.sampled) == (DEFAULT_REFUSAL, 1)
        assert len(SCORER.calls) == scored

    def test_answer_of_an_unknown_form_is_asked_for_it_where_the_gate_fails(self, decide):
        model = RunnableLambda(lambda _: "good")
        refusing = DecisionPolicy(scorer_error="refuse")
        broken = gate(0.0, error=ValueError("numbers"))
        decision = decide(SafetyRanker(model, scorer=SCORER, gate=broken, decision=refusing))
        assert (decision.output, decision.sampled) == (DEFAULT_REFUSAL, 1)
        assert (decision.reason, decision.gate.error) == ("refused", "ValueError")

    def test_generators_and_annotated_functions(self):
        @srr_guard(scorer=SCORER, gate=gate(0.99), gating=REFUSING)
        def pieces(question: str):
            yield "good"

        @srr_guard(scorer=SCORER, gate=gate(0.99), gating=REFUSING)
        def answer(question: str) -> str:
            return "good"

        assert list(pieces("q")) == [DEFAULT_REFUSAL]
        assert answer("q") == DEFAULT_REFUSAL


class TestAnswersAtHand:
    """`choose` and `check`."""

    def test_threshold_and_refusal(self):
        scorer = FakeScorer(lambda prompt, answer: 0.6)
        guard = Guard(scorer=scorer, gate=gate(0.85), gating=GatePolicy(threshold=0.8))
        assert not guard.check("q", "good").passed
        assert not asyncio.run(guard.acheck("q", "good")).passed
        guard = Guard(scorer=scorer, gate=gate(0.1), gating=GatePolicy(threshold=0.8))
        decision = guard.choose("q", ["a", "b"])
        assert (decision.reason, decision.gate.verdict) == ("best_of_n", "benign")
        guard = Guard(scorer=scorer, gate=gate(0.99), gating=REFUSING)
        scorer.calls.clear()
        decision = guard.choose("q", ["a", "b"])
        assert (decision.output, decision.reason) == (DEFAULT_REFUSAL, "refused_by_gate")
        assert scorer.calls == []


class TestFailures:
    def test_limit_on_its_time(self, limits, decide):
        """The scorer's limit is the gate's."""

        class Hanging(FakeGate):
            def assess(self, conversation):
                limits.hang_thread("scorer")
                raise AssertionError

            async def aassess(self, conversation):
                await limits.hang("scorer")

        limits.new_request()
        ranker = SafetyRanker(
            RecipeModel(),
            scorer=SCORER,
            gate=Hanging(lambda _: 0.0),
            decision=DecisionPolicy(scoring_timeout=0.1, scorer_error="refuse"),
        )
        decision = decide(ranker)
        assert decision.output.text == DEFAULT_REFUSAL
        assert decision.gate.error == "ScoringError"

    def test_wrong_result(self, decide):
        class Wrong(FakeGate):
            def _assess(self, conversation):
                return 0.7

        ranker = SafetyRanker(
            RecipeModel(),
            scorer=SCORER,
            gate=Wrong(lambda _: 0.0),
            decision=DecisionPolicy(scorer_error="refuse"),
        )
        assert decide(ranker).gate.verdict == "failed"

    def test_what_passes_without_it_is_a_bypass(self, decide, caplog):
        ranker = SafetyRanker(
            ScriptedChatModel(answers=["good"]),
            scorer=SCORER,
            gate=gate(0.1, error=ValueError("numbers")),
            decision=DecisionPolicy(scorer_error="pass"),
        )
        decision = decide(ranker)
        assert (decision.reason, decision.gate.verdict) == ("best_of_n", "failed")
        assert decision.totals.bypasses == 1
        assert "bypass: the prompt gate failed (ValueError)" in caplog.text

    def test_what_no_policy_bypasses(self, decide):
        unfit = gate(0.1, error=ConfigurationError("it has no request probe"))
        ranker = SafetyRanker(
            RecipeModel(),
            scorer=SCORER,
            gate=unfit,
            decision=DecisionPolicy(scorer_error="pass"),
        )
        with pytest.raises(ConfigurationError, match="no request probe"):
            decide(ranker)
