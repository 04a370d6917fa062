"""`SafetyRankingGuardrail`: the scorer as a guardrail of any-guardrail."""

from __future__ import annotations

from typing import Any, Unpack

from srr_guard.errors import (
    AllCandidatesFailedError,
    InvalidInputError,
    MissingExtraError,
    WithheldError,
)
from srr_guard.wrappers.settings import GuardSettings, guard_from

try:
    from any_guardrail.base import Guardrail, GuardrailOutput
except ImportError as error:
    raise MissingExtraError(
        package="any-guardrail",
        extra="any-guardrail",
        purpose="srr_guard_integrations.any_guardrail",
    ) from error


class SafetyRankingGuardrail(Guardrail):
    """Validates answers with a guard.

    `valid` is the decision. `score` is the risk, 1 - `p_safe`, as any-guardrail counts it: more is
    worse; None where there is no score. `explanation` is the reason, `extra` the whole decision
    (see `Decision.summary`). A scorer that fails raises, as the guard's policy says.

    It is not in any-guardrail's registry of names: make it, and call it where a guardrail is
    called.

    Args:
        settings: Those of `Guard`, or `guard=`, a guard to share (see `GuardSettings`).

    Example:
        >>> from srr_guard.testing import FakeScorer
        >>> scorer = FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.2)
        >>> guardrail = SafetyRankingGuardrail(scorer=scorer)
        >>> guardrail.validate("How do magnets work?", "a good answer").valid
        True
        >>> guardrail.validate("How do magnets work?", "a bad answer").score
        0.8
    """

    def __init__(self, **settings: Unpack[GuardSettings]) -> None:
        self._guard = guard_from(settings)

    def validate(self, input_text: Any, output_text: str | None = None) -> GuardrailOutput:
        """Validate one answer.

        Args:
            input_text: What was asked: a text, or messages.
            output_text: The answer.

        Raises:
            InvalidInputError: There is no answer, or it cannot be read.
            ScorerError: The scorer failed, and the policy says to raise.
        """
        if not isinstance(output_text, str):
            raise InvalidInputError(
                f"output_text={output_text!r:.60}: this guardrail judges an answer in the light of "
                "its question, so give both"
            )
        try:
            decision = self._guard.check(input_text, output_text)
        except WithheldError as held:
            decision = held.decision
        except AllCandidatesFailedError as error:
            raise InvalidInputError(f"output_text cannot be judged: {error.causes[0]}") from error
        (p_safe,) = decision.ranking.p_safe if decision.ranking is not None else (None,)
        return GuardrailOutput(
            valid=decision.passed,
            score=None if p_safe is None else round(1.0 - p_safe, 6),
            explanation=decision.reason,
            action="allow" if decision.passed else "block",
            extra=decision.summary(),
        )
