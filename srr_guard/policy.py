"""Frozen policies with safe defaults: for sampling, for deciding, and for the prompt gate."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    ImportString,
    field_serializer,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from srr_guard.characters import is_blank
from srr_guard.decision import ScoredCandidate
from srr_guard.errors import ConfigurationError
from srr_guard.json_lines import strict_json, utf8_text
from srr_guard.recipes import Plain, Plan, Recipe
from srr_guard.settings import Settings, require_function

Prefer = Literal["best", "safest", "first"]
"""The choice among candidates that may be passed on.

- `best`: the first in ranking order. The scorer's listwise order also knows which answer
  helps, so this keeps real help in front of a needless refusal.
- `safest`: the highest `p_safe`; where several have it, the first of them in ranking order.
- `first`: the lowest index; with several models, the first model's answer where it is safe.
"""

Chooser = Callable[[tuple[ScoredCandidate, ...]], ScoredCandidate | int]
"""From the candidates that may be passed on, best first, to one of them or its `index`."""

BelowThreshold = Literal["refuse", "raise", "pass"]
"""The action when the best candidate's `p_safe` is below the threshold."""

ScorerFailure = Literal["raise", "refuse", "pass"]
"""The action when the candidates cannot be scored."""

Unreadable = Literal["refuse", "raise", "pass"]
"""The action when the answers that remain hold parts that cannot be read as text."""

DEFAULT_REFUSAL = "I'm sorry, but I can't help with that."


Reasoning = Literal["worst", "joined", "answer"]
"""The part that reasoning before an answer plays in its score.

- `worst`: reasoning and answer are scored apart, in one ranking; the one with the lower `p_safe`
  counts. `p_help` is the answer's.
- `joined`: they are scored as one text.
- `answer`: the answer alone is scored; reasoning that is passed on with it is a bypass, logged
  and counted.
"""

Mode = Literal["enforce", "observe"]
"""The force of decisions.

- `enforce`: what is decided is what the caller gets.
- `observe`: the first answer is passed on unchanged, whatever is decided; the decision that
  would have been made is on the Decision, logged and counted.
"""


class SamplingPolicy(Settings):
    """Settings for sampling candidates.

    With `accept_at` sampling is adaptive: the first `initial` candidates are sampled and scored
    as they come back, and the request ends with the first one accepted. Otherwise the rest is
    sampled side by side, and all are ranked together.

    Attributes:
        n: Candidates per request, at most.
        initial: Candidates that are sampled first when `accept_at` is set.
        accept_at: A candidate with at least this `p_safe` (and the decision's threshold) ends
            the request; None samples all n. 0.5 suits the shipped scorer (see
            `docs/sampling.md`).
        accept_help_at: It must also have at least this `p_help`, so that a needless refusal
            that comes first is not accepted; a scorer that cannot tell gives no `p_help`.
        min_candidates: Fewer successful candidates than this is an error.
        attempts: Calls per candidate before it counts as failed.
        retry_on: Exceptions after which another attempt is made. In JSON each is its import
            path. A blank answer is a `SamplingError`.
        backoff: Seconds before the second attempt; doubles, with jitter, up to `backoff_max`.
        backoff_max: Longest wait between two attempts, in seconds.
        timeout: Seconds one candidate may take, attempts and waits included; None: no limit.
        deadline: Seconds for all candidates together, the scoring of the first ones
            included; those that are late count as failed, and the decision is made among
            those at hand (`reason="fallback"`).
        max_in_flight: Most calls under way at once, over all requests of a guard; more calls
            wait for their turn, in order, and the wait counts as part of `timeout` and
            `deadline`. A batched call counts as one. None: no limit.
        batched: `auto` samples all candidates in one call when the model offers it
            (`sample_candidates`); `never` always makes n calls side by side.
        read_ahead: Stream each candidate in a call of its own and pre-encode it as it comes, so
            that little is left to score after the last token. The scores are the same. It
            suits models behind an API; the machine that scores has more to do.
        cut_below: An answer that scores below this `p_safe`, in [0, 1], in two checks in a row is
            cut off. Checks come about every 16 tokens, after 24. It is a candidate that may never
            be passed on. It needs `read_ahead`, or a `LocalChatModel` of the scorer's reference
            LLM that is called in batches. 0.3 suits the shipped scorer (see `docs/sampling.md`).
            None: none is cut off.
        plan: Recipes that the candidates take in turn (see `srr_guard.recipes` and
            `docs/recipes.md`); None: plain ones. A model that cannot serve one of them is an
            error where the guard is put around it.
        temperatures: Temperatures that the candidates take in turn, in place of the model's
            own; each is a call of its own then, unless the model serves recipes. At most n, as
            of `system_prompts`. The model must have such a field. Short for a plan of
            `Plain(temperature=...)`.
        system_prompts: System prompts that the candidates take in turn, each in a call of its
            own; None among them is the request as it is. One is added in front of the
            conversation, or, where that begins with a system turn, becomes the last paragraph
            of this turn. The model must be a chat model, not a chain with a prompt of its
            own. The answers are scored against the conversation as it came. Short for a plan
            of `Plain(system_prompt=...)`.
        seed: Candidate i is sampled with seed + i, so that equal requests get equal
            candidates. The model must have such a field; its own seed would make all
            candidates equal. A recipe's own seed goes before it.

    Raises:
        ConfigurationError: A value is out of range, the plan is longer than n, or it stands
            beside one of its short forms.

    Example:
        >>> SamplingPolicy(n=8, min_candidates=2).attempts
        2
        >>> SamplingPolicy(n=8, accept_at=0.97, retry_on=(ConnectionError,)).initial
        1
        >>> SamplingPolicy(n=2, system_prompts=(None, "Decline what would do harm.")).n
        2
        >>> from srr_guard.recipes import Plain, RefusalStart
        >>> SamplingPolicy(plan=(Plain(), RefusalStart())).recipe(3).kind
        'refusal_start'
    """

    n: int = Field(default=4, ge=1, le=256)
    initial: int = Field(default=1, ge=1)
    accept_at: float | None = Field(default=None, ge=0.0, le=1.0)
    accept_help_at: float = Field(default=0.3, ge=0.0, le=1.0)
    min_candidates: int = Field(default=1, ge=1)
    attempts: int = Field(default=2, ge=1, le=20)
    retry_on: tuple[ImportString[type[Exception]], ...] = (Exception,)
    backoff: float = Field(default=0.2, ge=0.0)
    backoff_max: float = Field(default=5.0, ge=0.0)
    timeout: float | None = Field(default=60.0, gt=0.0)
    deadline: float | None = Field(default=120.0, gt=0.0)
    max_in_flight: int | None = Field(default=None, ge=1)
    batched: Literal["auto", "never"] = "auto"
    read_ahead: bool = False
    cut_below: float | None = Field(default=None, ge=0.0, le=1.0)
    plan: Plan = None
    temperatures: tuple[Annotated[float, Field(ge=0.0)], ...] | None = Field(
        default=None, min_length=1
    )
    system_prompts: tuple[Annotated[str, Field(min_length=1)] | None, ...] | None = Field(
        default=None, min_length=1
    )
    seed: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_candidates > self.n:
            raise ValueError(
                f"min_candidates={self.min_candidates} can never be met with n={self.n}"
            )
        if self.initial > self.n:
            raise ValueError(
                f"initial={self.initial} is more than n={self.n}: give {self.n} or less"
            )
        if self.accept_at is not None and self.min_candidates > self.initial:
            raise ValueError(
                f"initial={self.initial} candidates can never be accepted with "
                f"min_candidates={self.min_candidates}: raise initial or leave accept_at out"
            )
        if self.plan is not None:
            self._check_plan(self.plan)
        for name in ("temperatures", "system_prompts"):
            if len(given := getattr(self, name) or ()) > self.n:
                raise ValueError(
                    f"{name}={given!r} are {len(given)} for n={self.n} candidates: raise n to "
                    f"{len(given)}, or leave some out"
                )
        return self

    def recipe(self, index: int) -> Recipe:
        """The recipe of candidate `index`."""
        if self.plan is not None:
            return self.plan[index % len(self.plan)]
        temperatures, prompts = self.temperatures or (None,), self.system_prompts or (None,)
        return Plain(
            temperature=temperatures[index % len(temperatures)],
            system_prompt=prompts[index % len(prompts)],
        )

    def _check_plan(self, plan: tuple[Recipe, ...]) -> None:
        if len(plan) > self.n:
            raise ValueError(
                f"the plan has {len(plan)} recipes and n={self.n} candidates: raise n to "
                f"{len(plan)}, or leave recipes out"
            )
        for name in ("temperatures", "system_prompts"):
            if (value := getattr(self, name)) is not None:
                raise ValueError(
                    f"{name}={value!r} stands beside a plan: write it into the plan, as "
                    f"Plain({name[:-1]}=...)"
                )


class DecisionPolicy(Settings):
    """Settings for deciding what may be passed on.

    Attributes:
        threshold: Lowest `p_safe`, in [0, 1], that may be passed on. The default is careful: with
            the shipped scorer it holds back 10% of single helpful answers and 89% of harm on the
            rows that training calibrates on (docs/choosing.md has lower budgets).
        prefer: Which of the candidates that reach it is passed on: `best`, `safest`, `first`,
            or a function from these candidates, best first, to one of them or its `index`. A
            function must be quick, and such a policy has no JSON form.
        min_familiarity: Least `familiarity`, in [0, 1], of a request whose answers are ranked by
            help too; with `best` the safest answer is passed on where it is less. It says nothing
            where the scorer cannot tell.
        below_threshold: What happens when no candidate reaches it: answer with `refusal`,
            raise `BelowThresholdError`, or pass the best one on all the same (a bypass:
            logged and counted).
        refusal: The text that stands in for an answer.
        scorer_error: What happens when scoring fails: raise, answer with `refusal`, or pass
            the first candidate on unscored (a bypass: logged and counted).
        unreadable: What happens to an answer with parts that cannot be read as text, such as an
            image or a block of an unknown kind. Answers without such parts come first. If there
            are none: answer with `refusal`, raise `UnreadableError`, or pass it on by the score
            of its text alone (a bypass: logged and counted).
        reasoning: What counts of an answer with reasoning before it. An answer that was cut off
            in its reasoning is a failed candidate.
        scoring_timeout: Seconds one call of the scorer may take, loading on first use
            included; later, scoring has failed. None: no limit.
        mode: Whether decisions are enforced or only observed. Where no answer comes back at
            all, both raise.
        enforce_share: Share in [0, 1] of the requests that are enforced all the same in
            `observe`, for a roll-out in steps. Equal conversations are treated alike (see
            `srr_guard.core.observing.place_of`).

    Raises:
        ConfigurationError: A value is out of range, or `enforce_share` is given without
            `mode="observe"`.

    Example:
        >>> DecisionPolicy(threshold=0.8).below_threshold
        'refuse'
        >>> shortest = DecisionPolicy(prefer=lambda safe: min(safe, key=lambda c: len(c.text)))
    """

    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    prefer: Prefer | SkipJsonSchema[Chooser] = "best"
    min_familiarity: float = Field(default=0.0, ge=0.0, le=1.0)
    below_threshold: BelowThreshold = "refuse"
    refusal: str = Field(default=DEFAULT_REFUSAL, pattern=r"\S")
    scorer_error: ScorerFailure = "raise"
    unreadable: Unreadable = "refuse"
    reasoning: Reasoning = "worst"
    scoring_timeout: float | None = Field(default=120.0, gt=0.0)
    mode: Mode = "enforce"
    enforce_share: float = Field(default=0.0, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not isinstance(self.prefer, str):
            require_function("prefer", self.prefer, "a function from the candidates to one of them")
        if is_blank(self.refusal):
            raise ValueError(f"refusal={self.refusal!r} shows nothing: write a text")
        if self.enforce_share and self.mode == "enforce":
            raise ValueError(
                f"enforce_share={self.enforce_share} with mode='enforce', which enforces all: "
                "set mode='observe', or leave it out"
            )
        return self

    @field_serializer("prefer", when_used="json")
    def _prefer_as_json(self, prefer: Prefer | Chooser) -> str:
        if not isinstance(prefer, str):
            raise ConfigurationError(
                f"prefer={prefer!r} is a function and has no JSON form: write the policy with "
                "exclude={'prefer'} and set it again after reading"
            )
        return prefer


def recipes_of(sampling: SamplingPolicy, gating: GatePolicy | None) -> tuple[Recipe, ...]:
    """All recipes that the policies name."""
    return (*(sampling.plan or ()), *((gating.plan if gating else None) or ()))


class GatePolicy(Settings):
    """Settings for what is decided from the prompt alone, before there are candidates.

    The first candidate always follows the sampling policy: where the model is behind an API it
    is on its way while the gate reads the prompt.

    Attributes:
        benign_below: Below this `p_harmful` a prompt is benign: `n` candidates are sampled, and
            the first that reaches the threshold (`SamplingPolicy.accept_at`, where given) and
            `accept_help_at` ends the request; else the rest is sampled.
        harmful_above: Above it a prompt is harmful: all candidates are sampled, those after the
            first by `plan`, and must reach `threshold`.
        min_familiarity: A prompt less familiar than this is never benign, nor is one of unknown
            familiarity; 0: familiarity does not count.
        n: Candidates of a benign prompt that are sampled first.
        plan: Recipes of the candidates after the first of a harmful prompt; None: those of the
            sampling policy.
        threshold: Lowest `p_safe` that may be passed on for a harmful prompt; the decision's
            where that is higher, or where this is None.
        refuse_above: Above this `p_harmful` the request is refused at once; None: never.

    Raises:
        ConfigurationError: A value is out of range, or the bounds do not ascend.

    Example:
        >>> from srr_guard.recipes import RefusalStart
        >>> GatePolicy(plan=(RefusalStart(),), threshold=0.8).refuse_above is None
        True
    """

    benign_below: float = Field(default=0.2, ge=0.0, le=1.0)
    harmful_above: float = Field(default=0.8, ge=0.0, le=1.0)
    min_familiarity: float = Field(default=0.1, ge=0.0, le=1.0)
    n: int = Field(default=1, ge=1, le=256)
    plan: Plan = None
    threshold: float | None = Field(default=None, ge=0.0, le=1.0)
    refuse_above: float | None = Field(default=None, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse_above = 1.0 if self.refuse_above is None else self.refuse_above
        if not self.benign_below <= self.harmful_above <= refuse_above:
            raise ValueError(
                f"benign_below={self.benign_below}, harmful_above={self.harmful_above} and "
                f"refuse_above={self.refuse_above} must ascend"
            )
        return self

    def recipe(self, index: int, sampling: SamplingPolicy) -> Recipe:
        """The recipe of candidate `index` of a harmful prompt."""
        if index == 0 or self.plan is None:
            return sampling.recipe(index)
        return self.plan[(index - 1) % len(self.plan)]

    def require_room(self, sampling: SamplingPolicy) -> None:
        """Refuse a plan that n candidates cannot follow.

        Raises:
            ConfigurationError: It is longer than n - 1.
        """
        if self.plan is not None and len(self.plan) >= sampling.n:
            raise ConfigurationError(
                f"the gate's plan has {len(self.plan)} recipes, for the candidates after the "
                f"first, and n={sampling.n}: raise n to {len(self.plan) + 1}, or leave recipes out"
            )


class Policies(Settings):
    """The policies in one JSON file, as `srr-guard tune` writes it.

    Attributes:
        sampling: How candidates are sampled.
        decision: What may be passed on.
        gating: What is decided from the prompt alone; None: nothing.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> file = Path(tempfile.mkdtemp()) / "policies.json"
        >>> Policies(decision=DecisionPolicy(threshold=0.7)).save(file)
        >>> Policies.load(file).decision.threshold
        0.7
    """

    sampling: SamplingPolicy = SamplingPolicy()
    decision: DecisionPolicy = DecisionPolicy()
    gating: GatePolicy | None = None

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> Policies:
        """Read the policies of a file; what it leaves out has its default.

        Raises:
            ConfigurationError: It cannot be read, or a value is out of range.
        """
        try:
            record = strict_json(utf8_text(Path(file).read_bytes(), repr(os.fspath(file))))
            made: dict[str, Any] = {
                k: _PARTS[k](**v) if k in _PARTS and v is not None else v for k, v in record.items()
            }
        except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
            if isinstance(error, ConfigurationError):
                raise
            raise ConfigurationError(
                f"the policies in {str(file)!r} cannot be read ({error}): write them with "
                "`Policies.save` or `srr-guard tune --output`"
            ) from error
        return cls(**made)

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write the settings that differ from their defaults."""
        text = self.model_dump_json(indent=2, exclude_defaults=True) + "\n"
        Path(file).write_text(text, encoding="utf-8")


_PARTS: dict[str, Callable[..., Settings]] = {
    "sampling": SamplingPolicy,
    "decision": DecisionPolicy,
    "gating": GatePolicy,
}
