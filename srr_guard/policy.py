"""How to sample and how to decide: two frozen policies with safe defaults."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from srr_guard.errors import ConfigurationError

BelowThreshold = Literal["refuse", "raise", "pass"]
"""What happens when the best candidate's `p_safe` is below the threshold."""

ScorerFailure = Literal["raise", "refuse", "pass"]
"""What happens when the candidates cannot be scored."""

DEFAULT_REFUSAL = "I'm sorry, but I can't help with that."


class _Policy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            details = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'policy'}={e['input']!r}: {e['msg']}"
                for e in error.errors()
            )
            raise ConfigurationError(f"{type(self).__name__}: {details}") from error


class SamplingPolicy(_Policy):
    """How candidates are sampled.

    Attributes:
        n: Candidates per request.
        min_candidates: Fewer successful candidates than this is an error.
        attempts: Calls per candidate before it counts as failed.
        backoff: Seconds before the second attempt; doubles, with jitter, up to `backoff_max`.
        backoff_max: Longest wait between two attempts, in seconds.
        timeout: Seconds one candidate may take, attempts and waits included; None: no limit.
        deadline: Seconds for all candidates together; those that are late count as failed.
        batched: `auto` samples all candidates in one call when the model offers it
            (`sample_candidates`); `never` always makes n calls side by side.

    Raises:
        ConfigurationError: A value is out of range.

    Example:
        >>> SamplingPolicy(n=8, min_candidates=2).attempts
        2
    """

    n: int = Field(default=4, ge=1, le=256)
    min_candidates: int = Field(default=1, ge=1)
    attempts: int = Field(default=2, ge=1, le=20)
    backoff: float = Field(default=0.2, ge=0.0)
    backoff_max: float = Field(default=5.0, ge=0.0)
    timeout: float | None = Field(default=60.0, gt=0.0)
    deadline: float | None = Field(default=120.0, gt=0.0)
    batched: Literal["auto", "never"] = "auto"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_candidates > self.n:
            raise ValueError(
                f"min_candidates={self.min_candidates} can never be met with n={self.n}"
            )
        return self


class DecisionPolicy(_Policy):
    """What may be passed on.

    Attributes:
        threshold: Lowest `p_safe`, in [0, 1], that may be passed on.
        below_threshold: What happens when no candidate reaches it: answer with `refusal`,
            raise `BelowThresholdError`, or pass the best one on all the same (a bypass:
            logged and counted).
        refusal: The text that stands in for an answer.
        scorer_error: What happens when scoring fails: raise, answer with `refusal`, or pass
            the first candidate on unscored (a bypass: logged and counted).

    Raises:
        ConfigurationError: A value is out of range.

    Example:
        >>> DecisionPolicy(threshold=0.8).below_threshold
        'refuse'
    """

    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    below_threshold: BelowThreshold = "refuse"
    refusal: str = Field(default=DEFAULT_REFUSAL, min_length=1)
    scorer_error: ScorerFailure = "raise"
