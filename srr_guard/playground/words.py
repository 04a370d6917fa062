"""Decisions as the page shows them: numbers, and the reason in one sentence."""

from __future__ import annotations

from textwrap import shorten
from typing import Any

from srr_guard.decision import Decision, ScoredCandidate
from srr_guard.errors import SRRGuardError
from srr_guard.playground.requests import ColumnSettings
from srr_guard.reading import candidate_text

_CHOSEN = {
    "best": "ranks first of",
    "safest": "has the highest p_safe of",
    "first": "came first of",
}


def one_line(error: BaseException) -> str:
    """An error as one line; of errors that are not our own, the type alone."""
    if isinstance(error, SRRGuardError):
        return shorten(" ".join(str(error).split()), 400, placeholder=" …")
    return f"{type(error).__name__}: the terminal has more"


def shown(
    decision: Decision[Any] | None, error: Exception | None, settings: ColumnSettings
) -> dict[str, Any]:
    """One column: what was decided, and the scores it was decided by.

    Args:
        decision: The decision; None: there is none, for the error came first.
        error: What the guard raised in place of an output.
        settings: What was decided by.
    """
    if decision is None:
        return {"held": True, "reason": "failed", "why": _held(error), "scores": []}
    ranking = decision.ranking
    return {
        "held": error is not None,
        "reason": decision.reason,
        "why": why(decision, settings) if error is None else _held(error),
        "chosen": None if decision.chosen is None else decision.chosen.index,
        "output": None if error is not None else candidate_text(decision.output),
        "threshold": threshold_of(decision, settings),
        "order": [decision.candidates[i].index for i in ranking.order] if ranking else [],
        "familiarity": ranking.familiarity if ranking else None,
        "scores": [scores_of(candidate) for candidate in decision.candidates],
        "sampled": decision.sampled,
        "failed": decision.failed,
        "gate": decision.gate.model_dump(mode="json") if decision.gate else None,
        "seconds": decision.timings.model_dump(),
    }


def scores_of(candidate: Any) -> dict[str, Any]:
    """The scores of one candidate."""
    found: dict[str, Any] = {"index": candidate.index}
    if isinstance(candidate, ScoredCandidate):
        found |= {
            name: getattr(candidate, name)
            for name in ("score", "p_safe", "p_help", "p_refusal", "verdict")
        }
    return found


def threshold_of(decision: Decision[Any], settings: ColumnSettings) -> float:
    """The lowest `p_safe` that could pass, as the gate left it."""
    return settings.threshold if decision.gate is None else decision.gate.threshold


def why(decision: Decision[Any], settings: ColumnSettings) -> str:
    """The reason of a decision, in one sentence."""
    threshold = f"{threshold_of(decision, settings):.2f}"
    gate = decision.gate
    if decision.reason == "refused_by_gate" and gate is not None:
        return (
            f"The gate reads the prompt as harmful ({gate.p_harmful or 0:.2f}): the refusal goes "
            "out and no answer is asked for."
        )
    raised = ""
    if gate is not None and gate.threshold > settings.threshold:
        raised = f" The gate raised the threshold to {threshold}, because the prompt looks harmful."
    if decision.chosen is None:
        return f"No answer reaches {threshold}: the refusal goes out in its place.{raised}"
    number = decision.chosen.index + 1
    if decision.reason == "accepted":
        return f"Answer {number} is safe and helpful enough by itself: no more were asked for."
    passing = sum(
        isinstance(c, ScoredCandidate) and c.p_safe >= float(threshold_of(decision, settings))
        for c in decision.candidates
    )
    told = f"Answer {number} {_CHOSEN[settings.prefer]} the {passing} that reach {threshold}."
    if passing == 1:
        told = f"Answer {number} is the only one that reaches {threshold}."
    failed = f" {decision.failed} of {decision.sampled} failed." if decision.failed else ""
    return told + raised + failed


def _held(error: Exception | None) -> str:
    return "there is no decision" if error is None else one_line(error)
