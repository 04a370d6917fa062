"""A report as pictures: ROC curves, reliability, list size, and quality against time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from srr_guard.errors import MissingExtraError
from srr_guard.training.data.attacks import ATTACKS
from srr_guard.training.evaluation.metrics import LIST_SIZES, Figure, Metric
from srr_guard.training.evaluation.probabilities import ProbabilityCurves
from srr_guard.training.evaluation.report import Report
from srr_guard.training.evaluation.tables import METRIC_NAMES, policy_figure, quality_sets

_COLUMNS = 3
_QUALITY: Sequence[Metric] = ("auroc", "recall_at_1_fpr", "recall_at_5_fpr", "one_safe_of_8")
_SIDE = 3.6
"""Inches of one panel."""


def draw_report(report: Report, folder: Path) -> list[Path]:
    """Draw the report's plain sets, one panel each.

    Args:
        report: What was measured.
        folder: Receives `roc.png`, `reliability.png`, `list_size.png` and `quality.png`; made
            if missing.

    Returns:
        The files written; a picture without data is left out.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    curves = {name: c for name, c in report.curves.items() if not name.endswith(ATTACKS)}
    sizes = {
        name: methods
        for name, methods in report.list_sizes.items()
        if not name.endswith(ATTACKS) and any(len(found) > 1 for found in methods.values())
    }
    pictures: tuple[tuple[str, Mapping[str, Any], Callable[[Any, Any], None]], ...] = (
        ("roc.png", curves, _roc),
        ("reliability.png", curves, _reliability),
        ("list_size.png", sizes, _list_size),
        ("quality.png", quality_points(report), _quality),
    )
    return [_panels(folder / name, sets, draw) for name, sets, draw in pictures if sets]


Points = Mapping[str, tuple[float, Figure]]
"""Scorer -> milliseconds per answer, and how good it is."""


def quality_points(report: Report) -> dict[str, Points]:
    """Panels of quality against time, by the name of the figure and of its set."""
    harm, benign = quality_sets(report)
    panels: dict[str, dict[str, tuple[float, Figure]]] = {}
    for scorer, cost in report.costs.items():
        found: dict[str, Figure | None] = {}
        if harm:
            figures = report.sets[harm].get(scorer, {})
            found = {f"{METRIC_NAMES[m]}, {harm}": figures.get(m) for m in _QUALITY}
            found[f"harm passed of 8, {harm}"] = policy_figure(report, harm, scorer, "harm_passed")
        if benign:
            name = f"needless refusals of 8, {benign}"
            found[name] = policy_figure(report, benign, scorer, "needless_refusals")
        for title, figure in found.items():
            if figure is not None:
                panels.setdefault(title, {})[scorer] = (cost.milliseconds, figure)
    return {**panels}


def _panels(file: Path, sets: Mapping[str, Any], draw: Callable[[Any, Any], None]) -> Path:
    figure_class, canvas = _matplotlib()
    rows = -(-len(sets) // _COLUMNS)
    figure = figure_class(figsize=(_SIDE * _COLUMNS, _SIDE * rows), layout="constrained")
    canvas(figure)
    for i, (name, methods) in enumerate(sets.items(), start=1):
        axes = figure.add_subplot(rows, _COLUMNS, i)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        draw(axes, methods)
        axes.legend(fontsize=6)
    figure.savefig(file, dpi=110)
    return file


def _matplotlib() -> tuple[Any, Any]:
    """The classes that draw without a screen or global state."""
    try:
        return (
            import_module("matplotlib.figure").Figure,
            import_module("matplotlib.backends.backend_agg").FigureCanvasAgg,
        )
    except ImportError as error:
        raise MissingExtraError(
            package="matplotlib", extra="plots", purpose="drawing the figures"
        ) from error


def _roc(axes: Any, methods: Mapping[str, ProbabilityCurves]) -> None:
    axes.set_xlabel("safe answers blocked", fontsize=8)
    axes.set_ylabel("unsafe answers blocked", fontsize=8)
    for name, curves in methods.items():
        x, y = zip(*curves.roc, strict=True)
        (line,) = axes.plot(x, y, label=name)
        for point, marker in zip(curves.operating_points, "os", strict=False):
            axes.plot(
                point.false_alarms,
                point.recall,
                marker,
                color=line.get_color(),
                markersize=4,
                label=f"{name}, {point.name}" if name == next(iter(methods)) else None,
            )


def _reliability(axes: Any, methods: Mapping[str, ProbabilityCurves]) -> None:
    axes.set_xlabel("p_safe", fontsize=8)
    axes.set_ylabel("share that is safe", fontsize=8)
    axes.plot([0, 1], [0, 1], color="0.8", linestyle="--")
    for name, curves in methods.items():
        most = max(b.rows for b in curves.reliability)
        (line,) = axes.plot(
            [b.confidence for b in curves.reliability],
            [b.safe for b in curves.reliability],
            label=name,
        )
        axes.scatter(
            [b.confidence for b in curves.reliability],
            [b.safe for b in curves.reliability],
            s=[4 + 60 * b.rows / most for b in curves.reliability],
            color=line.get_color(),
        )


def _list_size(axes: Any, methods: Mapping[str, Mapping[int, Figure]]) -> None:
    axes.set_xlabel("answers in the list, one of them safe", fontsize=8)
    axes.set_ylabel("the safe one comes first", fontsize=8)
    axes.set_ylim(0, 1.02)
    axes.set_xscale("log", base=2)
    axes.set_xticks(LIST_SIZES, labels=[str(size) for size in LIST_SIZES])
    for name, sizes in methods.items():
        if name != "oracle":
            x: Sequence[int] = sorted(sizes)
            (line,) = axes.plot(x, [sizes[n].value for n in x], marker=".", label=name)
            axes.fill_between(
                x,
                [sizes[n].low for n in x],
                [sizes[n].high for n in x],
                color=line.get_color(),
                alpha=0.1,
            )


def _quality(axes: Any, points: Points) -> None:
    axes.set_xlabel("milliseconds per answer", fontsize=8)
    axes.set_xscale("log", base=2)  # a tick for each doubling
    axes.xaxis.set_major_formatter("{x:g}")
    for name, (x, figure) in points.items():
        axes.errorbar(
            x,
            figure.value,
            yerr=[[max(0.0, figure.value - figure.low)], [max(0.0, figure.high - figure.value)]],
            marker="o",
            markersize=4,
            capsize=2,
            label=name,
        )
