"""The frozen results: what was sampled, how it was ranked, what was decided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Generic, Literal

from langchain_core.messages.ai import UsageMetadata
from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypeVar

T = TypeVar("T", default=Any)

Reason = Literal[
    "accepted",
    "best_of_n",
    "fallback",
    "refused",
    "refused_by_gate",
    "passed_through",
    "observed",
    "failed",
]
"""The reason why a request ended as it did.

- `accepted`: a candidate was good enough before all were sampled and scored.
- `best_of_n`: chosen among all candidates, and above the threshold.
- `fallback`: chosen among fewer, and above the threshold: some candidates failed or were late.
- `refused`: no candidate may be passed on; the refusal text took its place.
- `refused_by_gate`: the prompt alone was reason enough, as `GatePolicy.refuse_above` says.
- `passed_through`: an explicit bypass let an unscored or below-threshold answer through.
- `observed`: the first answer was passed on whatever the scorer says, as
  `DecisionPolicy(mode="observe")` says; `Decision.would_have` is what would have been decided.
- `failed`: too few candidates came back; the request ended in an error.
"""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


Verdict = Literal["pass", "uncertain", "hold"]
"""What a scorer says of one answer, whatever the policy's threshold.

- `hold`: below the lower of its bounds, where few harmless answers are.
- `pass`: at or above the upper one, where few harmful answers are.
- `uncertain`: between them; ask a person or a second scorer.
"""


class Ranking(_Frozen):
    """Scores of one list of candidates, each field in the order the candidates were given.

    Attributes:
        order: Candidate indices, best first; a permutation of `range(n)`.
        scores: Listwise scores; higher is better; comparable within one list only.
        p_safe: Calibrated probability in [0, 1] that the answer does no harm; does not
            depend on the other candidates of the list.
        p_help: Probability in [0, 1] that the answer helps where help is due; like `p_safe`
            independent of the list. None when the scorer cannot tell.
        p_refusal: Probability in [0, 1] that the answer is a refusal; likewise.
        bounds: `p_safe` below which the scorer says hold, and from which it says pass; None when
            it has no such bounds.
        familiarity: Share in [0, 1] of the requests the scorer was trained on that are at least
            as unusual as this one; None when it cannot tell.

    Example:
        >>> ranking = Ranking.from_scores(scores=[0.1, 2.0], p_safe=[0.4, 0.9], bounds=(0.3, 0.8))
        >>> ranking.order, ranking.verdicts
        ((1, 0), ('uncertain', 'pass'))
    """

    order: tuple[int, ...]
    scores: tuple[float, ...]
    p_safe: tuple[float, ...]
    p_help: tuple[float, ...] | None = None
    p_refusal: tuple[float, ...] | None = None
    bounds: tuple[float, float] | None = None
    familiarity: float | None = Field(default=None, ge=0.0, le=1.0)

    @classmethod
    def from_scores(
        cls,
        *,
        scores: Sequence[float],
        p_safe: Sequence[float],
        p_help: Sequence[float] | None = None,
        p_refusal: Sequence[float] | None = None,
        bounds: tuple[float, float] | None = None,
        familiarity: float | None = None,
    ) -> Ranking:
        """Rank by listwise score; ties keep the order in which the candidates were given."""
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        return cls(
            order=tuple(order),
            scores=tuple(scores),
            p_safe=tuple(p_safe),
            p_help=None if p_help is None else tuple(p_help),
            p_refusal=None if p_refusal is None else tuple(p_refusal),
            bounds=bounds,
            familiarity=familiarity,
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
        for name in _PROBABILITIES:
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != n:
                raise ValueError(f"scores and {name} disagree: {n} scores, {len(values)} {name}")
            if not all(0.0 <= p <= 1.0 for p in values):
                raise ValueError(f"{name} must lie in [0, 1], got {values!r}")
        if self.bounds is not None and not 0.0 <= self.bounds[0] <= self.bounds[1] <= 1.0:
            raise ValueError(f"bounds must ascend within [0, 1], got {self.bounds!r}")
        return self

    @property
    def best(self) -> int:
        """Index of the best candidate."""
        return self.order[0]

    @property
    def verdicts(self) -> tuple[Verdict, ...] | None:
        """The scorer's verdict on each candidate; None without `bounds`."""
        if self.bounds is None:
            return None
        low, high = self.bounds
        return tuple(
            "hold" if p < low else "pass" if p >= high else "uncertain" for p in self.p_safe
        )

    def marks(self, index: int) -> dict[str, Any]:
        """The scores of one candidate, as `ScoredCandidate` takes them."""
        verdicts = self.verdicts
        return {
            "score": self.scores[index],
            "verdict": verdicts[index] if verdicts else None,
            **{
                name: values[index]
                for name in _PROBABILITIES
                if (values := getattr(self, name)) is not None
            },
        }

    def take(self, indices: Sequence[int], *, helpful: Sequence[int] | None = None) -> Ranking:
        """The ranking of these candidates, in this order; one may be taken more than once.

        Args:
            indices: Which ones.
            helpful: Those whose `p_help` and `p_refusal` are taken; None: the same.
        """
        rank = {i: position for position, i in enumerate(self.order)}
        helping = helpful or indices
        taken = {
            name: None
            if values is None
            else tuple(values[i] for i in (helping if name in _OF_HELP else indices))
            for name in ("scores", *_PROBABILITIES)
            for values in (getattr(self, name),)
        }
        order = sorted(range(len(indices)), key=lambda k: rank[indices[k]])
        return Ranking(**{**dict(self), "order": tuple(order), **taken})

    def with_lowest(self) -> Ranking:
        """This ranking with one more candidate below all others."""
        zeros = {
            name: None if values is None else (*values, 0.0)
            for name in _PROBABILITIES
            for values in (getattr(self, name),)
        }
        lowest = (*self.scores, min(self.scores) - 1.0)
        order = (*self.order, len(self))
        return Ranking(**{**dict(self), "order": order, "scores": lowest, **zeros})

    def __len__(self) -> int:
        return len(self.scores)


_OF_HELP = ("p_help", "p_refusal")
_PROBABILITIES = ("p_safe", *_OF_HELP)


class Candidate(_Frozen, Generic[T]):
    """One answer of the wrapped model.

    Attributes:
        index: Which of the sampled candidates this is, from 0.
        text: The text that is scored, without reasoning.
        trace: The reasoning before it (see `DecisionPolicy.reasoning`); may be empty.
        unreadable: Kinds of the parts of the output that have no text, such as `image`.
        cut: It was cut off because its beginning scored too low; never passed on.
        declined: The provider's filter took it away; `text` is the refusal that stands for it.
        recipe: Kind of the recipe it was made by, such as `refusal_start`; None where none was
            at work: a function made it, or it was given.
        output: The model's own output, unchanged; not part of the JSON form.
    """

    index: int = Field(ge=0)
    text: str
    trace: str = ""
    unreadable: tuple[str, ...] = ()
    cut: bool = False
    declined: bool = False
    recipe: str | None = None
    output: T | None = Field(default=None, exclude=True, repr=False)


class ScoredCandidate(Candidate[T], Generic[T]):
    """A candidate with its scores.

    Attributes:
        score: Listwise score; comparable within this decision only.
        p_safe: Calibrated probability in [0, 1] that the answer does no harm; of answer and
            reasoning the lower.
        p_safe_answer: That of the answer; None where no reasoning was scored apart.
        p_safe_trace: That of the reasoning; likewise.
        p_help: Probability in [0, 1] that it helps where help is due; None: not known.
        p_refusal: Probability in [0, 1] that it is a refusal; None: not known.
        verdict: What the scorer says of it; None: it has no bounds.
    """

    score: float
    p_safe: float = Field(ge=0.0, le=1.0)
    p_safe_answer: float | None = Field(default=None, ge=0.0, le=1.0)
    p_safe_trace: float | None = Field(default=None, ge=0.0, le=1.0)
    p_help: float | None = Field(default=None, ge=0.0, le=1.0)
    p_refusal: float | None = Field(default=None, ge=0.0, le=1.0)
    verdict: Verdict | None = None


class PromptAssessment(_Frozen):
    """What a prompt gate says of a conversation, before there are candidates.

    Attributes:
        p_harmful: Probability in [0, 1] that the request is one to decline.
        familiarity: Share in [0, 1] of the gate's training requests that are at least as
            unusual as this one; None: it cannot tell.

    Example:
        >>> PromptAssessment(p_harmful=0.1).familiarity is None
        True
    """

    p_harmful: float = Field(ge=0.0, le=1.0)
    familiarity: float | None = Field(default=None, ge=0.0, le=1.0)


GateVerdict = Literal["benign", "uncertain", "harmful", "refused", "failed"]
"""The kind of a prompt, by `GatePolicy`.

- `benign`: few candidates are sampled at first.
- `uncertain`: the request is handled as without a gate.
- `harmful`: candidates follow the gate's plan, and must reach a higher threshold.
- `refused`: no candidate may be passed on.
- `failed`: the gate gave no assessment; `DecisionPolicy.scorer_error` says what happens.
"""


class Gated(_Frozen):
    """What the prompt gate saw of a request, and what it did.

    Attributes:
        verdict: The kind of the prompt.
        p_harmful: As in `PromptAssessment`; None where the gate failed.
        familiarity: As in `PromptAssessment`.
        threshold: Lowest `p_safe` that could be passed on.
        plan: Kinds of the recipes that the candidates after the first were to follow; empty:
            those of the sampling policy.
        error: Type of the error by which the gate failed.
    """

    verdict: GateVerdict
    p_harmful: float | None = None
    familiarity: float | None = None
    threshold: float
    plan: tuple[str, ...] = ()
    error: str | None = None


class WouldHave(_Frozen):
    """What would have been decided of a request that was only observed.

    Attributes:
        reason: Why it would have ended as it would have.
        chosen: Index of the candidate that would have been passed on; None: none.
        error: Type of the error that would have been raised; None: none.
    """

    reason: Reason
    chosen: int | None
    error: str | None = None


class Timings(_Frozen):
    """Where the time of one request went, in seconds."""

    generation: float = Field(ge=0.0)
    scoring: float = Field(ge=0.0)
    overhead: float = Field(ge=0.0)

    @property
    def total(self) -> float:
        """Seconds from request to decision."""
        return self.generation + self.scoring + self.overhead


_CHARACTERS_OF_A_TOKEN = 4


def tokens_saved(candidates: Sequence[Candidate[Any]]) -> int:
    """Estimate the tokens that candidates which were cut off did not write.

    Each is taken to have become as long as the others of its request are on average, at four
    characters a token. Where all were cut off nothing tells, and 0 is counted.

    Example:
        >>> whole = Candidate(index=0, text="x" * 800)
        >>> cut = Candidate(index=1, text="x" * 200, cut=True)
        >>> tokens_saved([whole, cut]), tokens_saved([cut])
        (150, 0)
    """
    lengths = [(len(c.trace) + len(c.text), c.cut) for c in candidates if not c.declined]
    whole = [length for length, is_cut in lengths if not is_cut]
    if not whole:
        return 0
    mean = sum(whole) / len(whole)
    missing = sum(max(0.0, mean - length) for length, is_cut in lengths if is_cut)
    return round(missing / _CHARACTERS_OF_A_TOKEN)


class Totals(_Frozen):
    """Counts of all requests of one guard so far, over all threads and tasks.

    Attributes:
        requests: Requests that were decided, those that ended in a refusal or an error
            included.
        candidates: Candidates that were asked for in these requests.
        bypasses: Answers that were passed on unscored, below the threshold or past a gate that
            failed, and parts of clients that were handed out unguarded.
        gate_refusals: Requests that the prompt gate refused.
        observed: Requests that were only observed.
        cut: Candidates that were cut off.
        tokens_saved: Tokens that these did not write, about (see `tokens_saved`).

    Example:
        >>> Totals(requests=4, candidates=5).mean_candidates
        1.25
    """

    requests: int = Field(default=0, ge=0)
    candidates: int = Field(default=0, ge=0)
    bypasses: int = Field(default=0, ge=0)
    gate_refusals: int = Field(default=0, ge=0)
    observed: int = Field(default=0, ge=0)
    cut: int = Field(default=0, ge=0)
    tokens_saved: int = Field(default=0, ge=0)

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
        gate: What the prompt gate saw and did; None without one.
        would_have: What would have been decided; None unless the request was only observed.
        failed: How many of them failed.
        distinct: How many different texts came back.
        failures: The error type of each failed candidate, never its text.
        skipped: Why recipes of the plan were not followed, one sentence each; plain candidates
            took their place.
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
    sampled: int = Field(ge=0)
    failed: int = Field(ge=0)
    distinct: int = Field(ge=0)
    failures: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    gate: Gated | None = None
    would_have: WouldHave | None = None
    usage: UsageMetadata | None = None
    timings: Timings
    totals: Totals
    output: T | None = Field(default=None, exclude=True, repr=False)

    @property
    def cut(self) -> int:
        """How many candidates were cut off (see `SamplingPolicy.cut_below`)."""
        return sum(candidate.cut for candidate in self.candidates)

    @property
    def tokens_saved(self) -> int:
        """Tokens that candidates which were cut off did not write, about (see `tokens_saved`)."""
        return tokens_saved(self.candidates)

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
            "p_refusal": scored.p_refusal if scored else None,
            "verdict": scored.verdict if scored else None,
            "familiarity": self.ranking.familiarity if self.ranking else None,
            "sampled": self.sampled,
            "failed": self.failed,
            "distinct": self.distinct,
            "cut": self.cut,
            "tokens_saved": self.tokens_saved,
            "unreadable": list(self.chosen.unreadable) if self.chosen else [],
            "recipe": self.chosen.recipe if self.chosen else None,
            "skipped": list(self.skipped),
            "gate": self.gate.model_dump(mode="json") if self.gate else None,
            "would_have": self.would_have.model_dump() if self.would_have else None,
            "timings": self.timings.model_dump(),
        }
