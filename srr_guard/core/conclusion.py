"""From the state of a request to its decision: the decision policy, applied."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from srr_guard.characters import is_blank
from srr_guard.core.best_of_n import BestOfN
from srr_guard.decision import (
    Candidate,
    Decision,
    Reason,
    ScoredCandidate,
    Totals,
    WouldHave,
    tokens_saved,
)
from srr_guard.errors import (
    BelowThresholdError,
    PromptRefusedError,
    SamplingError,
    UnreadableError,
)
from srr_guard.protocols import Delivery, RefusesUnasked
from srr_guard.visible import visible_line

T = TypeVar("T")

Ended = tuple[Decision[T], Exception | None]
"""A decision, and the error that is raised in place of an output."""

logger = logging.getLogger("srr_guard")


class Count(Protocol):
    """Adds to a guard's totals and returns them."""

    def __call__(self, **counts: int) -> Totals:
        """Add these counts, by the names that `Totals` has for them."""
        ...


def conclude(state: BestOfN, form: Delivery[Any], *, count: Count) -> Ended[Any]:
    """Apply the policy to a request whose candidates are sampled and scored."""
    enforced = _enforced(state)
    if state.observing:
        first = state.first_answer()
        if first is not None:
            return _observed(state, form, enforced, first, count), None
        enforced = _Enforced("failed")
    bypassed = enforced.chosen is not None and (
        enforced.reason == "passed_through"
        or state.past_gate
        or _passes_reasoning(state, enforced.chosen)
    )
    totals = count(
        requests=1,
        candidates=state.asked,
        bypasses=int(bypassed),
        gate_refusals=int(enforced.reason == "refused_by_gate"),
        cut=sum(candidate.cut for candidate in state.candidates),
        tokens_saved=tokens_saved(state.candidates),
    )
    if enforced.chosen is not None:
        _log_bypass(state, enforced.chosen, passed_through=enforced.reason == "passed_through")
    return _with_output(state, form, enforced, _decided(state, form, enforced, totals))


@dataclass(frozen=True)
class _Enforced:
    """How the policy ends a request.

    Attributes:
        reason: Why it ends so.
        chosen: The candidate that is passed on.
        refusing: A refusal stands in for an answer; otherwise an error is raised.
    """

    reason: Reason
    chosen: Candidate | None = None
    refusing: bool = False


def _enforced(state: BestOfN) -> _Enforced:
    if state.refused:
        return _Enforced("refused_by_gate", refusing=state.policy.below_threshold != "raise")
    gate_failed = state.gated is not None and state.gated.verdict == "failed"
    if gate_failed and state.error is not None:
        return _Enforced("refused", refusing=state.policy.scorer_error == "refuse")
    if state.shortage() is not None:
        return _Enforced("failed")
    action, chosen = _action(state)
    if action == "accept" and chosen.unreadable:
        action = "pass"
    match action:
        case "accept":
            return _Enforced(state.success, chosen)
        case "pass":
            return _Enforced("passed_through", chosen)
    return _Enforced("refused", refusing=action == "refuse")


def _decided(
    state: BestOfN, form: Delivery[Any], enforced: _Enforced, totals: Totals
) -> Decision[Any]:
    return Decision(
        reason=enforced.reason,
        chosen=enforced.chosen,
        candidates=state.scored or state.candidates,
        ranking=state.ranking,
        sampled=state.asked,
        failed=len(state.causes),
        distinct=len({candidate.text for candidate in state.candidates}),
        failures=tuple(type(cause).__name__ for cause in state.causes),
        skipped=state.skipped,
        gate=state.gated,
        usage=form.usage([candidate.output for candidate in state.candidates]),
        timings=state.timings(),
        totals=totals,
    )


def _with_output(
    state: BestOfN, form: Delivery[Any], enforced: _Enforced, decision: Decision[Any]
) -> Ended[Any]:
    """The decision with what the caller gets, or with the error that is raised instead."""
    output = None
    if (chosen := decision.chosen) is not None:
        output = form.refusal(chosen.text, chosen.output) if chosen.declined else chosen.output
    elif enforced.refusing:
        output = _refusal(state, form)
    if output is None:
        return decision, _error(state, enforced, decision)
    return decision.model_copy(update={"output": form.finish(output, decision)}), None


def _refusal(state: BestOfN, form: Delivery[Any]) -> Any:
    text = state.policy.refusal
    if state.candidates:
        return form.refusal(text, state.candidates[0].output)
    return form.refusal_unasked(text) if isinstance(form, RefusesUnasked) else None


def _observed(
    state: BestOfN, form: Delivery[Any], enforced: _Enforced, first: Candidate, count: Count
) -> Decision[Any]:
    """Pass the first answer on, and note what would have been decided."""
    totals = count(requests=1, candidates=state.asked, observed=1)
    would = _decided(state, form, enforced, totals)
    _, error = _with_output(state, form, enforced, would)
    would_have = WouldHave(
        reason=enforced.reason,
        chosen=enforced.chosen.index if enforced.chosen else None,
        error=None if error is None else type(error).__name__,
    )
    scored = {candidate.index: candidate for candidate in state.scored}
    chosen = scored.get(first.index, first)
    decision = would.model_copy(
        update={"reason": "observed", "chosen": chosen, "would_have": would_have}
    )
    _log_observed(state, would_have)
    return decision.model_copy(update={"output": form.finish(chosen.output, decision)})


def _log_observed(state: BestOfN, would_have: WouldHave) -> None:
    if state.error is not None:
        logger.warning(
            "observed: an unscored answer was passed on, as mode='observe' says (%s)",
            type(state.error.__cause__ or state.error).__name__,
        )
    elif would_have.chosen is None:
        logger.warning(
            "observed: an answer was passed on that would have been withheld (%s), as "
            "mode='observe' says",
            would_have.reason,
        )
    else:
        logger.info("observed: candidate %d would have been passed on", would_have.chosen)


def _action(
    state: BestOfN,
) -> tuple[Literal["accept", "refuse", "raise", "pass"], Candidate]:
    """Pick the action, and the candidate it applies to."""
    policy = state.policy
    if safe := state.eligible():
        return "accept", state.choose(safe)
    if state.withheld():
        return policy.unreadable, state.scored[0]
    action = policy.scorer_error if state.ranking is None else policy.below_threshold
    if passable := state.passable():
        return action, passable[0]
    if action == "pass":  # nothing is left that could pass
        action = "refuse" if all(c.cut for c in state.candidates) else policy.unreadable
    return action, state.candidates[0]


def _error(state: BestOfN, enforced: _Enforced, decision: Decision[Any]) -> Exception:
    if enforced.reason == "failed" and (shortage := state.shortage()) is not None:
        return shortage
    if state.error is not None:
        return state.error
    error: SamplingError
    if enforced.reason == "refused_by_gate":
        error = PromptRefusedError(decision)
    elif kinds := state.withheld():
        error = UnreadableError(decision, kinds=kinds)
    else:
        error = BelowThresholdError(decision, threshold=state.policy.threshold)
    if enforced.refusing:
        kinds_of = {type(candidate.output).__name__ for candidate in decision.candidates}
        error.add_note(
            f"raised in place of a refusal: the answers are of type {min(kinds_of)!r}, or "
            "structured, and a refusal can only stand in for a str or a message without a schema"
            if kinds_of
            else "raised in place of a refusal: there is no answer whose form it could take"
        )
    return error


def _passes_reasoning(state: BestOfN, chosen: Candidate) -> bool:
    return state.policy.reasoning == "answer" and not is_blank(chosen.trace)


def _log_bypass(state: BestOfN, chosen: Candidate, *, passed_through: bool) -> None:
    if _passes_reasoning(state, chosen):
        logger.warning("bypass: unscored reasoning was passed on, as reasoning='answer' says")
    if not passed_through:
        return
    if chosen.unreadable:
        logger.warning(
            "bypass: an answer with parts that cannot be read (%s) was passed on, as "
            "unreadable='pass' says",
            visible_line(", ".join(chosen.unreadable)),
        )
    if not isinstance(chosen, ScoredCandidate):
        logger.warning(
            "bypass: an unscored answer was passed on, as scorer_error='pass' says (%s)",
            type(state.error and (state.error.__cause__ or state.error)).__name__,
        )
    elif state.scores(chosen) and chosen.p_safe < state.policy.threshold:
        logger.warning(
            "bypass: an answer below the threshold of %s was passed on, as "
            "below_threshold='pass' says",
            state.policy.threshold,
        )
