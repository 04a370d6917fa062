"""Finds the threshold for a budget of helpful answers held back, and what it costs and brings."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict

from srr_guard.errors import DataError, InvalidInputError
from srr_guard.policy import DecisionPolicy, Policies, SamplingPolicy
from srr_guard.protocols import ProgressCallback, ResponseScorer
from srr_guard.training.data import LabelledResponse
from srr_guard.training.progress import silent

BUDGETS = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Budgets whose operating points are shown beside the one asked for."""

_Z = 1.96  # of a 95% interval


class Rate(BaseModel):
    """A share of some rows, and how sure it is.

    Attributes:
        value: The share.
        low: Lower end of the 95% interval (Wilson's).
        high: Upper end.
        rows: Of how many rows.
    """

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float
    rows: int

    @classmethod
    def of(cls, hits: float, rows: int) -> Rate:
        """The share of `hits` among `rows`.

        Example:
            >>> rate = Rate.of(1, 50)
            >>> round(rate.value, 3), round(rate.low, 3), round(rate.high, 3)
            (0.02, 0.004, 0.105)
        """
        share, spread = hits / rows, _Z * _Z / rows
        middle = (share + spread / 2) / (1 + spread)
        reach = _Z * math.sqrt(share * (1 - share) / rows + spread / (4 * rows)) / (1 + spread)
        return cls(
            value=share,
            low=max(0.0, min(middle - reach, share)),
            high=min(1.0, max(middle + reach, share)),
            rows=rows,
        )


class PolicyPoint(BaseModel):
    """A threshold and its effect.

    Attributes:
        name: What the threshold is.
        threshold: `DecisionPolicy.threshold`.
        help_held_back: Share of helpful answers below it.
        harm_held_back: Share of harmful answers below it; None without such rows.
        refused: Share of benign requests that end in the guard's refusal, best of n.
        candidates: Candidates per benign request, with `accept_at` at the threshold.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    threshold: float
    help_held_back: Rate
    harm_held_back: Rate | None
    refused: float
    candidates: float


class Tuning(BaseModel):
    """Operating points, and the one for the budget.

    Attributes:
        budget: Largest share of helpful answers to hold back.
        n: Candidates per request.
        chosen: The operating point for the budget.
        points: Others beside it, by threshold.
    """

    model_config = ConfigDict(frozen=True)

    budget: float
    n: int
    chosen: PolicyPoint
    points: tuple[PolicyPoint, ...]

    @property
    def is_sure(self) -> bool:
        """True if the share held back is at most twice the budget, by its interval."""
        return self.chosen.help_held_back.high <= 2 * self.budget

    def policies(self, *, adaptive: bool = True) -> Policies:
        """The policies for the budget, ready to be written to a file.

        Args:
            adaptive: End a request with the first answer above the threshold.
        """
        threshold = self.chosen.threshold
        sampling = SamplingPolicy(n=self.n, accept_at=threshold if adaptive else None)
        return Policies(sampling=sampling, decision=DecisionPolicy(threshold=threshold))


def tune(
    rows: Sequence[LabelledResponse],
    scorer: ResponseScorer,
    *,
    budget: float = 0.02,
    n: int = 4,
    progress: ProgressCallback = silent,
) -> Tuning:
    """Find the highest threshold that holds back at most a budget of helpful answers.

    Helpful are safe answers that are neither refusals nor needless refusals; harmful are unsafe
    ones. A request is benign if one of its answers is helpful.

    Args:
        rows: Labelled answers; 50 helpful ones are a start, 1,000 are sure.
        scorer: The scorer.
        budget: Largest share of helpful answers to hold back.
        n: Candidates per request.
        progress: Receives the progress.

    Raises:
        DataError: No row is helpful.
        InvalidInputError: The budget or n is out of range.
    """
    check_budget(budget, n)
    p_safe, p_help = _scores(rows, scorer, progress)
    return operating_points(rows, p_safe, p_help, budget=budget, n=n)


def check_budget(budget: float, n: int = 1) -> None:
    """Refuse a budget that is no share, and less than one candidate.

    Raises:
        InvalidInputError: It is out of range.
    """
    if not 0.0 <= budget < 1.0:
        raise InvalidInputError(f"budget={budget!r} is no share: give one from 0 up to 1, as 0.02")
    if n < 1:
        raise InvalidInputError(f"n={n!r} leaves no candidate: give 1 or more")


def operating_points(
    rows: Sequence[LabelledResponse],
    p_safe: Sequence[float],
    p_help: Sequence[float],
    *,
    budget: float,
    n: int,
    margin: bool = False,
) -> Tuning:
    """Like `tune`, for rows that are scored already.

    Args:
        rows: Labelled answers.
        p_safe: The scorer's `p_safe` of each.
        p_help: Its `p_help` of each; 1 where it has none.
        budget: Largest share of helpful answers to hold back.
        n: Candidates per request.
        margin: Lower the chosen threshold half way to the harmful answer below it, for the sake
            of helpful answers that are not among the rows. It holds back the same rows.

    Raises:
        DataError: No row is helpful.
        InvalidInputError: The budget is out of range.
    """
    check_budget(budget, n)
    helpful = [p for p, row in zip(p_safe, rows, strict=True) if _is_help(row)]
    harmful = [p for p, row in zip(p_safe, rows, strict=True) if row.harmful]
    if not helpful:
        raise DataError(
            f"none of the {len(rows)} rows is a helpful answer: tuning needs safe answers that "
            "are no refusals (label `safe`, kind `benign-help` or none)"
        )
    benign = _benign(rows, p_safe, p_help)

    def point(name: str, threshold: float) -> PolicyPoint:
        held = sum(p < threshold for p in helpful)
        harm = sum(p < threshold for p in harmful)
        return PolicyPoint(
            name=name,
            threshold=threshold,
            help_held_back=Rate.of(held, len(helpful)),
            harm_held_back=Rate.of(harm, len(harmful)) if harmful else None,
            refused=_mean(benign, lambda ps: _share(ps, lambda p, _: p < threshold) ** n),
            candidates=_mean(benign, lambda ps: _candidates(ps, threshold, n)),
        )

    default = DecisionPolicy().threshold
    threshold = threshold_for(helpful, budget)
    if margin:
        threshold = with_margin(threshold, helpful, harmful)
    chosen = point(f"budget {budget:g}", threshold)
    others = [point(f"budget {b:g}", threshold_for(helpful, b)) for b in BUDGETS if b != budget]
    points = sorted([*others, point("default", default)], key=lambda p: p.threshold)
    return Tuning(budget=budget, n=n, chosen=chosen, points=tuple(points))


def threshold_for(helpful: Sequence[float], budget: float) -> float:
    """The highest threshold with at most this share of the values below it.

    Example:
        >>> threshold_for([0.1, 0.6, 0.7, 0.9], 0.25)
        0.6
    """
    below = int(budget * len(helpful) + 1e-9)  # 0.29 of 100 are 29
    return sorted(helpful)[min(below, len(helpful) - 1)]


def with_margin(threshold: float, helpful: Sequence[float], harmful: Sequence[float]) -> float:
    """Half way, in logits, from a threshold down to the next answer below it.

    Never more than half way to the default threshold.

    Example:
        >>> round(with_margin(0.99, helpful=[0.99, 0.999], harmful=[0.01, 0.995]), 3)
        0.909
    """
    below = [p for p in (*helpful, *harmful) if p < threshold]
    floor = max([*below, min(threshold, DecisionPolicy().threshold)])
    middle = 1 / (1 + math.exp(-(_logit(threshold) + _logit(floor)) / 2))
    return middle if floor < middle < threshold else threshold


def _logit(p: float) -> float:
    p = min(max(p, 1e-6), 1 - 1e-6)
    return math.log(p / (1 - p))


_Scored = Sequence[tuple[float, float]]
"""`p_safe` and `p_help` of the answers to one request."""


def _scores(
    rows: Sequence[LabelledResponse], scorer: ResponseScorer, progress: ProgressCallback
) -> tuple[list[float], list[float]]:
    """`p_safe` and `p_help` of each row; 1 where the scorer has no `p_help`."""
    by_prompt: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_prompt[row.prompt].append(i)
    p_safe, p_help = [0.0] * len(rows), [1.0] * len(rows)
    done = 0
    for members in by_prompt.values():
        texts = [rows[i].response or " " for i in members]
        ranking = scorer.score(rows[members[0]].conversation, texts)
        helps = ranking.p_help or [1.0] * len(members)
        for i, safe, helped in zip(members, ranking.p_safe, helps, strict=True):
            p_safe[i], p_help[i] = safe, helped
        done += len(members)
        progress("scoring", done, len(rows))
    return p_safe, p_help


def _is_help(row: LabelledResponse) -> bool:
    return row.safe and row.absolute and row.helps is not False and not row.refuses


def _benign(
    rows: Sequence[LabelledResponse], p_safe: Sequence[float], p_help: Sequence[float]
) -> list[_Scored]:
    """The safe answers to each benign request, as a model would give them."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    benign = {row.prompt for row in rows if _is_help(row)}
    for row, safe, helped in zip(rows, p_safe, p_help, strict=True):
        if row.prompt in benign and row.safe:
            found[row.prompt].append((safe, helped))
    return list(found.values())


def _mean(requests: Sequence[_Scored], of: Callable[[_Scored], float]) -> float:
    return sum(map(of, requests)) / len(requests)


def _share(answers: _Scored, holds: Callable[[float, float], bool]) -> float:
    return sum(holds(safe, helped) for safe, helped in answers) / len(answers)


def _candidates(answers: _Scored, threshold: float, n: int) -> float:
    """Candidates of one request: one if the first is accepted, else all n."""
    least = SamplingPolicy().accept_help_at
    accepted = _share(answers, lambda safe, helped: safe >= threshold and helped >= least)
    return accepted + (1 - accepted) * n
