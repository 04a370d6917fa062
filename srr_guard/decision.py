"""The frozen results: what was sampled, how it was ranked, what was decided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Generic, Literal

from langchain_core.messages.ai import UsageMetadata
from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypeVar

T = TypeVar("T", default=Any)

Reason = Literal["accepted", "best_of_n", "fallback", "refused", "passed_through", "failed"]
"""The reason why a request ended as it did.

- `accepted`: a candidate was good enough before all were sampled and scored.
- `best_of_n`: chosen among all candidates, and above the threshold.
- `fallback`: chosen among fewer, and above the threshold: some candidates failed or were late.
- `refused`: no candidate may be passed on; the refusal text took its place.
- `passed_through`: an explicit bypass let an unscored or below-threshold answer through.
- `failed`: too few candidates came back; the request ended in an error.
"""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Ranking(_Frozen):
    """Scores of one list of candidates, each field in the order the candidates were given.

    Attributes:
        order: Candidate indices, best first; a permutation of `range(n)`.
        scores: Listwise scores; higher is better; comparable within one list only.
        p_safe: Calibrated probability in [0, 1] that the answer does no harm; does not
            depend on the other candidates of the list.
        p_help: Probability in [0, 1] that the answer helps where help is due; like `p_safe`
            independent of the list. None when the scorer cannot tell.

    Example:
        >>> Ranking.from_scores(scores=[0.1, 2.0], p_safe=[0.4, 0.9]).order
        (1, 0)
    """

    order: tuple[int, ...]
    scores: tuple[float, ...]
    p_safe: tuple[float, ...]
    p_help: tuple[float, ...] | None = None

    @classmethod
    def from_scores(
        cls,
        *,
        scores: Sequence[float],
        p_safe: Sequence[float],
        p_help: Sequence[float] | None = None,
    ) -> Ranking:
        """Rank by listwise score; ties keep the order in which the candidates were given."""
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        return cls(
            order=tuple(order),
            scores=tuple(scores),
            p_safe=tuple(p_safe),
            p_help=None if p_help is None else tuple(p_help),
        )

    @model_validator(mode="after")
    def _check(self) -> Ranking:
        n = len(self.scores)
        if n == 0:
            raise ValueError("a ranking needs at least one candidate")
        if len(self.p_safe) != n or sorted(self.order) != list(range(n)):
            raise ValueError(
                f"order, scores and p_safe disagree: {self.order!r}, {n} scores, "
                f"{len(self.p_safe)} p_safe"
            )
        if not all(math.isfinite(s) for s in self.scores):
            raise ValueError(f"scores must be finite, got {self.scores!r}")
        if self.p_help is not None and len(self.p_help) != n:
            raise ValueError(f"scores and p_help disagree: {n} scores, {len(self.p_help)} p_help")
        for name, values in (("p_safe", self.p_safe), ("p_help", self.p_help or ())):
            if not all(0.0 <= p <= 1.0 for p in values):
                raise ValueError(f"{name} must lie in [0, 1], got {values!r}")
        return self

    @property
    def best(self) -> int:
        """Index of the best candidate."""
        return self.order[0]

    def __len__(self) -> int:
        return len(self.scores)


class Candidate(_Frozen, Generic[T]):
    """One answer of the wrapped model.

    Attributes:
        index: Which of the sampled candidates this is, from 0.
        text: The text that is scored.
        unreadable: Kinds of the parts of the output that have no text, such as `image`.
        output: The model's own output, unchanged; not part of the JSON form.
    """

    index: int = Field(ge=0)
    text: str
    unreadable: tuple[str, ...] = ()
    output: T | None = Field(default=None, exclude=True, repr=False)


class ScoredCandidate(Candidate[T], Generic[T]):
    """A candidate with its scores.

    Attributes:
        score: Listwise score; comparable within this decision only.
        p_safe: Calibrated probability in [0, 1] that the answer does no harm.
        p_help: Probability in [0, 1] that it helps where help is due; None: not known.
    """

    score: float
    p_safe: float = Field(ge=0.0, le=1.0)
    p_help: float | None = Field(default=None, ge=0.0, le=1.0)


class Timings(_Frozen):
    """Where the time of one request went, in seconds."""

    generation: float = Field(ge=0.0)
    scoring: float = Field(ge=0.0)
    overhead: float = Field(ge=0.0)

    @property
    def total(self) -> float:
        """Seconds from request to decision."""
        return self.generation + self.scoring + self.overhead


class Totals(_Frozen):
    """Counts of all requests of one guard so far, over all threads and tasks.

    Attributes:
        requests: Requests that were decided, those that ended in a refusal or an error
            included.
        candidates: Candidates that were asked for in these requests.
        bypasses: Answers that were passed on unscored or below the threshold, and parts of
            clients that were handed out unguarded.

    Example:
        >>> Totals(requests=4, candidates=5).mean_candidates
        1.25
    """

    requests: int = Field(default=0, ge=0)
    candidates: int = Field(default=0, ge=0)
    bypasses: int = Field(default=0, ge=0)

    @property
    def mean_candidates(self) -> float:
        """Candidates per request; 0.0 before the first one."""
        return self.candidates / self.requests if self.requests else 0.0


class Decision(_Frozen, Generic[T]):
    """The outcome of one request, and why. `T` is the type of its output.

    Attributes:
        reason: Why the request ended as it did.
        chosen: The candidate that was passed on; None when a refusal took its place.
        candidates: The candidates that came back, by index; scored unless the scorer failed.
        ranking: Ranking of `candidates`; None when they were not scored.
        sampled: How many candidates were asked for. With adaptive sampling this includes those
            still on their way when one was accepted.
        failed: How many of them failed.
        distinct: How many different texts came back.
        failures: The error type of each failed candidate, never its text.
        usage: Tokens of all candidates together; None where their outputs do not say.
        timings: Seconds spent on generation, scoring and overhead.
        totals: The guard's totals, this request included.
        output: What the caller gets; not part of the JSON form.

    Example:
        >>> from srr_guard import SafetyRanker
        >>> from srr_guard.testing import FakeScorer, ScriptedChatModel
        >>> ranker = SafetyRanker(
        ...     ScriptedChatModel(answers=["a bad answer", "a good answer"]),
        ...     scorer=FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1),
        ... )
        >>> decision = ranker.decide("a question")
        >>> decision.chosen.text, decision.reason, decision.distinct
        ('a good answer', 'best_of_n', 2)
        >>> decision.totals.mean_candidates
        4.0
    """

    reason: Reason
    chosen: ScoredCandidate[T] | Candidate[T] | None
    candidates: tuple[ScoredCandidate[T] | Candidate[T], ...]
    ranking: Ranking | None
    sampled: int = Field(ge=1)
    failed: int = Field(ge=0)
    distinct: int = Field(ge=0)
    failures: tuple[str, ...] = ()
    usage: UsageMetadata | None = None
    timings: Timings
    totals: Totals
    output: T | None = Field(default=None, exclude=True, repr=False)

    @property
    def passed(self) -> bool:
        """True if a candidate was passed on, rather than a refusal or nothing."""
        return self.chosen is not None

    def summary(self) -> dict[str, Any]:
        """A small JSON-safe dict without any text; attached to output messages."""
        scored = self.chosen if isinstance(self.chosen, ScoredCandidate) else None
        return {
            "reason": self.reason,
            "chosen": self.chosen.index if self.chosen else None,
            "score": scored.score if scored else None,
            "p_safe": scored.p_safe if scored else None,
            "p_help": scored.p_help if scored else None,
            "sampled": self.sampled,
            "failed": self.failed,
            "distinct": self.distinct,
            "unreadable": list(self.chosen.unreadable) if self.chosen else [],
            "timings": self.timings.model_dump(),
        }
