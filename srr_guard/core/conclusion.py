"""From the state of a request to its decision: the decision policy, applied."""

from __future__ import annotations

import logging
from typing import Any, Literal, Protocol, TypeVar

from srr_guard.core.best_of_n import BestOfN
from srr_guard.decision import Candidate, Decision, Reason, Totals
from srr_guard.errors import BelowThresholdError
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
            distinct=len(state.texts),
            failures=tuple(type(cause).__name__ for cause in state.causes),
            usage=form.usage([candidate.output for candidate in state.candidates]),
            timings=state.timings(),
            totals=count(state.asked, bypassed=reason == "passed_through"),
        )

    if (shortage := state.shortage()) is not None:
        return decided("failed", None), shortage
    action, chosen = _action(state, policy)
    match action:
        case "accept":
            decision = decided(state.success, chosen)
        case "pass":
            _log_bypass(state, policy)
            decision = decided("passed_through", chosen)
        case _:
            decision = decided("refused", None)
    output = None
    if decision.chosen is not None:
        output = decision.chosen.output
    elif action == "refuse":
        output = form.refusal(policy.refusal, state.candidates[0].output)
    if output is None:
        return decision, state.error or _below_threshold(decision, policy, action)
    return decision.model_copy(update={"output": form.finish(output, decision)}), None


def _action(
    state: BestOfN, policy: DecisionPolicy
) -> tuple[Literal["accept", "refuse", "raise", "pass"], Candidate]:
    """Pick the action, and the candidate it applies to."""
    if state.ranking is None:
        return policy.scorer_error, state.candidates[0]
    if safe := state.eligible():
        return "accept", state.choose(safe)
    return policy.below_threshold, state.scored[state.ranking.best]


def _below_threshold(
    decision: Decision[Any], policy: DecisionPolicy, action: str
) -> BelowThresholdError:
    error = BelowThresholdError(decision, threshold=policy.threshold)
    if action == "refuse":
        kind = type(decision.candidates[0].output).__name__
        error.add_note(
            f"raised in place of a refusal: the answers are of type {kind!r}, and a refusal can "
            "only stand in for a str or a message"
        )
    return error


def _log_bypass(state: BestOfN, policy: DecisionPolicy) -> None:
    if state.error is not None:
        logger.warning(
            "bypass: an unscored answer was passed on, as scorer_error='pass' says (%s)",
            type(state.error.__cause__ or state.error).__name__,
        )
    else:
        logger.warning(
            "bypass: an answer below the threshold of %s was passed on, as "
            "below_threshold='pass' says",
            policy.threshold,
        )
