"""From what a prompt gate saw to how the request is sampled and decided."""

from __future__ import annotations

from dataclasses import dataclass

from srr_guard.decision import Gated, GateVerdict, PromptAssessment
from srr_guard.policy import DecisionPolicy, GatePolicy, SamplingPolicy


@dataclass(frozen=True)
class GateRuling:
    """The policies of one request, as its gate leaves them.

    Attributes:
        sampling: How it is sampled.
        decision: What may be passed on.
        gated: What the gate saw, for the Decision.
        by_plan: The candidates after the first follow the gate's plan.
    """

    sampling: SamplingPolicy
    decision: DecisionPolicy
    gated: Gated
    by_plan: bool = False

    @property
    def refused(self) -> bool:
        """True if no candidate may be passed on."""
        return self.gated.verdict == "refused"


def rule(
    assessment: PromptAssessment,
    policy: GatePolicy,
    sampling: SamplingPolicy,
    decision: DecisionPolicy,
) -> GateRuling:
    """Apply a gate's policy to what it saw.

    - `refused`: nothing changes; nothing more is sampled.
    - `harmful`: all n candidates are sampled, by the gate's plan, above a higher threshold.
    - `benign`: the first few are sampled, and one that is good enough ends the request.
    - `uncertain`: nothing changes.
    """
    verdict = verdict_on(assessment, policy)
    by_plan = False
    if verdict == "harmful":
        by_plan = policy.plan is not None
        threshold = max(decision.threshold, policy.threshold or 0.0)
        sampling = sampling.model_copy(update={"accept_at": None})
        decision = decision.model_copy(update={"threshold": threshold})
    elif verdict == "benign":
        accept_at = decision.threshold if sampling.accept_at is None else sampling.accept_at
        initial = min(max(policy.n, sampling.min_candidates), sampling.n)
        sampling = sampling.model_copy(update={"accept_at": accept_at, "initial": initial})
    gated = Gated(
        verdict=verdict,
        p_harmful=assessment.p_harmful,
        familiarity=assessment.familiarity,
        threshold=decision.threshold,
        plan=tuple(recipe.kind for recipe in policy.plan or ()) if by_plan else (),
    )
    return GateRuling(sampling, decision, gated, by_plan)


def verdict_on(assessment: PromptAssessment, policy: GatePolicy) -> GateVerdict:
    """Say of which kind a prompt is; an unfamiliar one is never benign."""
    p_harmful, familiarity = assessment.p_harmful, assessment.familiarity
    if policy.refuse_above is not None and p_harmful > policy.refuse_above:
        return "refused"
    if p_harmful > policy.harmful_above:
        return "harmful"
    familiar = policy.min_familiarity == 0.0 or (
        familiarity is not None and familiarity >= policy.min_familiarity
    )
    return "benign" if familiar and p_harmful < policy.benign_below else "uncertain"
