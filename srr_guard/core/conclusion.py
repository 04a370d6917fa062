"""From the state of a request to its decision: the decision policy, applied."""

from __future__ import annotations

import logging
from typing import Any, Literal, Protocol, TypeVar

from srr_guard.core.best_of_n import BestOfN
from srr_guard.decision import Candidate, Decision, Reason, ScoredCandidate, Totals
from srr_guard.errors import BelowThresholdError, SamplingError, UnreadableError
from srr_guard.policy import DecisionPolicy
from srr_guard.protocols import Delivery

T = TypeVar("T")

Ended = tuple[Decision[T], Exception | None]
"""A decision, and the error that is raised in place of an output."""

logger = logging.getLogger("srr_guard")


class Count(Protocol):
    """Adds one request to a guard's totals and returns them."""

    def __call__(self, candidates: int, *, bypassed: bool) -> Totals:
        """Count a request that asked for so many candidates."""
        ...


def conclude(
    state: BestOfN, policy: DecisionPolicy, form: Delivery[Any], *, count: Count
) -> Ended[Any]:
    """Apply the policy to a request whose candidates are sampled and scored."""

    def decided(reason: Reason, chosen: Candidate | None) -> Decision[Any]:
        return Decision(
            reason=reason,
            chosen=chosen,
            candidates=state.scored or state.candidates,
            ranking=state.ranking,
            sampled=state.asked,
            failed=len(state.causes),
            distinct=len({candidate.text for candidate in state.candidates}),
            failures=tuple(type(cause).__name__ for cause in state.causes),
            skipped=state.skipped,
            usage=form.usage([candidate.output for candidate in state.candidates]),
            timings=state.timings(),
            totals=count(state.asked, bypassed=reason == "passed_through"),
        )

    if (shortage := state.shortage()) is not None:
        return decided("failed", None), shortage
    action, chosen = _action(state, policy)
    if action == "accept" and chosen.unreadable:
        action = "pass"
    match action:
        case "accept":
            decision = decided(state.success, chosen)
        case "pass":
            _log_bypass(state, policy, chosen)
            decision = decided("passed_through", chosen)
        case _:
            decision = decided("refused", None)
    output = None
    if decision.chosen is not None:
        output = decision.chosen.output
    elif action == "refuse":
        output = form.refusal(policy.refusal, state.candidates[0].output)
    if output is None:
        return decision, state.error or _withheld(decision, state, policy, action)
    return decision.model_copy(update={"output": form.finish(output, decision)}), None


def _action(
    state: BestOfN, policy: DecisionPolicy
) -> tuple[Literal["accept", "refuse", "raise", "pass"], Candidate]:
    """Pick the action, and the candidate it applies to."""
    if safe := state.eligible():
        return "accept", state.choose(safe)
    if state.withheld():
        return policy.unreadable, state.scored[0]
    action = policy.scorer_error if state.ranking is None else policy.below_threshold
    if passable := state.passable():
        return action, passable[0]
    return policy.unreadable if action == "pass" else action, state.candidates[0]


def _withheld(
    decision: Decision[Any], state: BestOfN, policy: DecisionPolicy, action: str
) -> SamplingError:
    error: SamplingError
    if kinds := state.withheld():
        error = UnreadableError(decision, kinds=kinds)
    else:
        error = BelowThresholdError(decision, threshold=policy.threshold)
    if action == "refuse":
        kind = type(decision.candidates[0].output).__name__
        error.add_note(
            f"raised in place of a refusal: the answers are of type {kind!r}, or structured, and "
            "a refusal can only stand in for a str or a message without a schema"
        )
    return error


def _log_bypass(state: BestOfN, policy: DecisionPolicy, chosen: Candidate) -> None:
    if chosen.unreadable:
        logger.warning(
            "bypass: an answer with parts that cannot be read (%s) was passed on, as "
            "unreadable='pass' says",
            ", ".join(chosen.unreadable),
        )
    if not isinstance(chosen, ScoredCandidate):
        logger.warning(
            "bypass: an unscored answer was passed on, as scorer_error='pass' says (%s)",
            type(state.error and (state.error.__cause__ or state.error)).__name__,
        )
    elif chosen.text.strip() and chosen.p_safe < policy.threshold:
        logger.warning(
            "bypass: an answer below the threshold of %s was passed on, as "
            "below_threshold='pass' says",
            policy.threshold,
        )
