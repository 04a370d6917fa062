"""The tables of a report, for the console and for model cards."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from srr_guard.training.data.attacks import ATTACKS
from srr_guard.training.evaluation.measure import ALL_BENIGN, ALL_HARMFUL
from srr_guard.training.evaluation.metrics import Figure, Metric
from srr_guard.training.evaluation.policies import LENGTHS, Mix, PolicyFigures, PolicyMetric
from srr_guard.training.evaluation.report import Cost, Report

RANKING_NAMES: Mapping[Metric, str] = {
    "one_safe_of_8": "one safe of 8",
    "no_harm_of_8": "no harm of 8",
    "random_lists_of_8": "random lists of 8",
    "pairwise": "pairwise",
    "help_over_refusal": "help over refusal",
}
PROBABILITY_NAMES: Mapping[Metric, str] = {
    "harm_blocked": "harm blocked",
    "help_blocked": "help blocked",
    "auroc": "AUROC",
    "f1": "F1",
    "recall_at_1_fpr": "recall at 1% false alarms",
    "recall_at_5_fpr": "recall at 5% false alarms",
    "calibration_error": "calibration error",
}
METRIC_NAMES: Mapping[Metric, str] = {**RANKING_NAMES, **PROBABILITY_NAMES}
POLICY_NAMES: Mapping[PolicyMetric, str] = {
    "harm_passed": "harm passed",
    "needless_refusals": "needless refusals",
    "help_passed": "help passed",
    "guard_refusals": "guard refusals",
}

_ATTACKED: Sequence[Metric] = (
    "one_safe_of_8",
    "no_harm_of_8",
    "random_lists_of_8",
    "pairwise",
    "harm_blocked",
    "auroc",
)
_ON_HARM: Sequence[Metric] = ("auroc", "recall_at_1_fpr", "recall_at_5_fpr", "one_safe_of_8")
_MOST = LENGTHS[-1]

Cell = str | Figure | None


@dataclass(frozen=True)
class Table:
    """A table of figures.

    Attributes:
        title: What it shows, and of which data set.
        heads: Names of the columns.
        rows: Cells; the first of each row is its name.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def plain_sets(report: Report) -> list[str]:
    """Names of the sets whose harm is not disguised."""
    return [name for name in report.sets if not name.endswith(ATTACKS)]


def set_tables(report: Report, name: str) -> list[Table]:
    """The tables of one data set: ranking, `p_safe`, and what leaves the guard."""
    methods = report.sets[name]
    tables = [
        _figures(name, "which answer comes first", methods, RANKING_NAMES),
        _figures(name, "p_safe", methods, PROBABILITY_NAMES),
        _policies(name, report.policies.get(name, {})),
    ]
    return [table for table in tables if table is not None]


def attack_table(report: Report) -> Table | None:
    """Harm in disguise, as the first scorer ranks it: a row for each set and attack."""
    attacked = {n: m for n, m in report.sets.items() if n.endswith(ATTACKS)}
    if not attacked:
        return None
    scorer = next(iter(next(iter(attacked.values()))))
    heads = ("set, attack", *(METRIC_NAMES[m] for m in _ATTACKED), _policy_head("harm_passed"))
    rows = [
        (
            name,
            *(methods[scorer].get(metric) for metric in _ATTACKED),
            policy_figure(report, name, scorer, "harm_passed"),
        )
        for name, methods in attacked.items()
    ]
    return Table(f"Harm in disguise, by {scorer}", heads, tuple(rows))


def quality_table(report: Report) -> Table | None:
    """Quality beside cost: a row for each scorer. None where nothing was timed."""
    if not report.costs:
        return None
    harm, benign = quality_sets(report)
    heads = ["scorer", "reference LLM", "parameters", "file", "blocks", "ms per answer", "memory"]
    title = "Quality beside cost"
    if harm:
        heads += [*(METRIC_NAMES[m] for m in _ON_HARM), _policy_head("harm_passed")]
        title += f"; harm: {harm}"
    if benign:
        heads.append(_policy_head("needless_refusals"))
        title += f"; help: {benign}"
    rows = []
    for scorer, cost in report.costs.items():
        row: list[Cell] = [scorer, *_cost_cells(cost)]
        if harm:
            row += [report.sets[harm][scorer].get(metric) for metric in _ON_HARM]
            row.append(policy_figure(report, harm, scorer, "harm_passed"))
        if benign:
            row.append(policy_figure(report, benign, scorer, "needless_refusals"))
        rows.append(tuple(row))
    return Table(title, tuple(heads), tuple(rows))


def quality_sets(report: Report) -> tuple[str | None, str | None]:
    """The sets that stand for harm and for help: those joined of several, or the only one."""
    names = plain_sets(report)
    harm = [n for n in names if any("auroc" in found for found in report.sets[n].values())]
    benign = [
        n
        for n in names
        if any("needless_refusals" in p.figures for r in _rules(report, n) for p in r)
    ]
    return (
        ALL_HARMFUL if ALL_HARMFUL in harm else next(iter(harm), None),
        ALL_BENIGN if ALL_BENIGN in benign else next(iter(benign), None),
    )


def policy_figure(
    report: Report,
    name: str,
    rule: str,
    metric: PolicyMetric,
    *,
    n: int = _MOST,
    mix: Mix = "natural",
) -> Figure | None:
    """What leaves the guard by one rule on one set; None where it was not measured."""
    for found in report.policies.get(name, {}).get(rule, ()):
        if (found.n, found.mix) == (n, mix):
            return found.figures.get(metric)
    return None


def _rules(report: Report, name: str) -> Collection[tuple[PolicyFigures, ...]]:
    return report.policies.get(name, {}).values()


def _figures(
    name: str,
    about: str,
    methods: Mapping[str, Mapping[Metric, Figure]],
    names: Mapping[Metric, str],
) -> Table | None:
    """Methods down, figures across; what no method has, and methods without any, are left out."""
    metrics: list[Metric] = [m for m in names if any(m in figures for figures in methods.values())]
    rows = [
        (method, *(figures.get(m) for m in metrics))
        for method, figures in methods.items()
        if any(m in figures for m in metrics)
    ]
    if not rows:
        return None
    return Table(f"{name}: {about}", ("method", *(names[m] for m in metrics)), tuple(rows))


def _policies(name: str, rules: Mapping[str, tuple[PolicyFigures, ...]]) -> Table | None:
    """Rules down; each share for lists as stored, and harm for those of both kinds too."""
    columns: list[tuple[PolicyMetric, int, Mix]] = [
        (metric, n, mix)
        for metric in POLICY_NAMES
        for mix in (("natural", "mixed") if metric == "harm_passed" else ("natural",))
        for n in LENGTHS
    ]
    known = {
        (rule, metric, found.n, found.mix): figure
        for rule, every in rules.items()
        for found in every
        for metric, figure in found.figures.items()
    }
    columns = [c for c in columns if any((rule, *c) in known for rule in rules)]
    if not columns:
        return None
    heads = [
        _policy_head(metric, n) + (", both kinds" if mix == "mixed" else "")
        for metric, n, mix in columns
    ]
    rows = [(rule, *(known.get((rule, *column)) for column in columns)) for rule in rules]
    return Table(f"{name}: what leaves the guard", ("rule", *heads), tuple(rows))


def _policy_head(metric: PolicyMetric, n: int = _MOST) -> str:
    return f"{POLICY_NAMES[metric]}, best of {n}"


def _cost_cells(cost: Cost) -> list[Cell]:
    return [
        cost.reference,
        "" if cost.parameters is None else f"{cost.parameters / 1e6:.1f} M",
        _size(cost.file_bytes),
        f"{cost.blocks_read} of {cost.blocks}",
        f"{cost.milliseconds:.1f}",
        "" if cost.peak_bytes is None else _size(cost.peak_bytes),
    ]


def _size(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
