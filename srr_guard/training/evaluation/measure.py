"""All figures of one data set, method by method, and of several sets as one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from srr_guard.training.data import LabelledResponse
from srr_guard.training.data.attacks import ATTACKS
from srr_guard.training.evaluation.metrics import (
    ByGoal,
    Figure,
    ListScores,
    Metric,
    bootstrap,
    list_size_figures,
    ranking_values,
)
from srr_guard.training.evaluation.policies import (
    DrawnList,
    PolicyMetric,
    PolicyValues,
    best,
    draw_lists,
    policy_figures,
    policy_values,
    safest,
)
from srr_guard.training.evaluation.probabilities import (
    ProbabilityCurves,
    probability_curves,
    probability_figures,
)
from srr_guard.training.evaluation.report import Cost, Report

ALL_HARMFUL = "all harmful sets"
"""Name of the set that joins all plain sets with harmful answers."""

ALL_BENIGN = "all benign sets"
"""Name of the set that joins all plain sets with helpful answers: what becomes of help in them."""

SAFEST = ", safest"
"""Added to a scorer's name where the policy prefers its `p_safe`."""

_M = TypeVar("_M", bound=str)

_OF_HELP: Collection[Metric | PolicyMetric] = (
    "help_over_refusal",
    "help_blocked",
    "needless_refusals",
    "help_passed",
)


@dataclass(eq=False)
class MeasuredSet:
    """What was measured on one set so far.

    Attributes:
        rows: Its labelled responses.
        lists: The lists that every rule gets.
        seed: Makes lists and bootstrap repeatable.
        ranking: Method -> metric -> values of each goal.
        policies: Rule -> values of each goal's lists.
        list_sizes: Method -> size -> figure.
        p_safe: Method -> (n,) probabilities.
    """

    rows: Sequence[LabelledResponse]
    lists: Sequence[DrawnList]
    seed: int
    ranking: dict[str, Mapping[Metric, ByGoal]] = field(default_factory=dict)
    policies: dict[str, PolicyValues] = field(default_factory=dict)
    list_sizes: dict[str, dict[int, Figure]] = field(default_factory=dict)
    p_safe: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[LabelledResponse], *, seed: int) -> MeasuredSet:
        """A set of which nothing is measured yet."""
        return cls(rows, draw_lists(rows, seed=seed), seed)

    def add(
        self,
        name: str,
        scores: ListScores,
        p_safe: Tensor | None = None,
        *,
        prefers: bool = False,
    ) -> None:
        """Measure a method.

        Args:
            name: What it is reported as.
            scores: Its listwise scores.
            p_safe: (n,) its probabilities; None: it has none.
            prefers: Measure `prefer="safest"` beside the default policy.
        """
        rows, seed = self.rows, self.seed
        self.ranking[name] = ranking_values(rows, scores, p_safe=p_safe, seed=seed)
        if sizes := list_size_figures(rows, scores, seed=seed):
            self.list_sizes[name] = sizes
        rules = {name: best(self.lists, scores, p_safe)}
        if p_safe is not None:
            self.p_safe[name] = p_safe
            if prefers:
                rules[name + SAFEST] = safest(self.lists, scores, p_safe)
        for rule, choices in rules.items():
            if values := policy_values(rows, self.lists, choices):
                self.policies[rule] = values

    def figures(self) -> dict[str, dict[Metric, Figure]]:
        """Method -> metric -> figure."""
        found: dict[str, dict[Metric, Figure]] = {
            name: {metric: bootstrap(by_goal) for metric, by_goal in values.items()}
            for name, values in self.ranking.items()
        }
        for name, p in self.p_safe.items():
            found[name] |= probability_figures(self.rows, p, seed=self.seed)
        return found

    def curves(self) -> dict[str, ProbabilityCurves]:
        """Method -> curves of `p_safe`, where the set has both labels."""
        curves = {name: probability_curves(self.rows, p) for name, p in self.p_safe.items()}
        return {name: found for name, found in curves.items() if found}


def join(sets: Sequence[MeasuredSet], *, of_help: bool = False) -> MeasuredSet:
    """Several sets as one, in which goals keep to their own set.

    Args:
        sets: What was measured on each, with the same methods.
        of_help: Keep only what tells what becomes of help: those metrics, and the safe rows.
    """
    first = sets[0]
    rows = [row for one in sets for row in one.rows]
    kept = [i for i, row in enumerate(rows) if row.safe or not of_help]
    return MeasuredSet(
        rows=[rows[i] for i in kept],
        lists=(),
        seed=first.seed,
        ranking={
            name: _pooled([one.ranking[name] for one in sets], of_help) for name in first.ranking
        },
        policies={
            rule: _pooled_policies([one.policies.get(rule, {}) for one in sets], of_help)
            for rule in dict.fromkeys(rule for one in sets for rule in one.policies)
        },
        p_safe={n: torch.cat([one.p_safe[n] for one in sets])[kept] for n in first.p_safe},
    )


def report_of(
    sets: Mapping[str, MeasuredSet],
    *,
    digests: Mapping[str, str],
    reference: str,
    costs: Mapping[str, Cost],
) -> Report:
    """Turn what was measured into figures; sets with harm and with help are joined too.

    Args:
        sets: What was measured, by the name of the set.
        digests: SHA-256 of the data files.
        reference: What the reference LLMs ran as.
        costs: Scorer -> what it costs.
    """
    plain = {name: one for name, one in sets.items() if not name.endswith(ATTACKS)}
    harmful = [s for s in plain.values() if s.curves()]
    benign = [s for s in plain.values() if any(r.absolute and r.helps for r in s.rows)]
    everything = dict(sets)
    if len(harmful) > 1:
        everything[ALL_HARMFUL] = join(harmful)
    if len(benign) > 1:
        everything[ALL_BENIGN] = join(benign, of_help=True)
    figures = {name: one.figures() for name, one in everything.items()}
    policies = {
        name: {rule: policy_figures(values) for rule, values in one.policies.items()}
        for name, one in everything.items()
        if one.policies
    }
    curves = {name: one.curves() for name, one in everything.items()}
    return Report(
        sets=figures,
        list_sizes={name: one.list_sizes for name, one in sets.items() if one.list_sizes},
        curves={name: found for name, found in curves.items() if found},
        policies=policies,
        costs=costs,
        digests=digests,
        reference=reference,
    )


def _pooled(parts: Sequence[Mapping[_M, ByGoal]], of_help: bool) -> dict[_M, ByGoal]:
    """The values of all goals of all parts."""
    found: dict[_M, ByGoal] = {}
    for part in parts:
        for metric, by_goal in part.items():
            if metric in _OF_HELP or not of_help:
                found[metric] = [*found.get(metric, ()), *by_goal]
    return found


def _pooled_policies(parts: Sequence[PolicyValues], of_help: bool) -> PolicyValues:
    keys = dict.fromkeys(key for part in parts for key in part)
    pooled = {key: _pooled([part.get(key, {}) for part in parts], of_help) for key in keys}
    return {key: values for key, values in pooled.items() if values}
