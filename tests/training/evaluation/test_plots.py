from __future__ import annotations

import sys
from pathlib import Path

import pytest

from srr_guard.errors import MissingExtraError
from srr_guard.training.evaluation.metrics import Figure
from srr_guard.training.evaluation.plots import draw_report, quality_points
from srr_guard.training.evaluation.policies import PolicyFigures
from srr_guard.training.evaluation.probabilities import (
    OperatingPoint,
    ProbabilityCurves,
    ReliabilityBin,
)
from srr_guard.training.evaluation.report import Cost, Report

CURVES = ProbabilityCurves(
    roc=((0.0, 0.0), (0.1, 0.8), (1.0, 1.0)),
    operating_points=(
        OperatingPoint(name="default threshold", threshold=0.5, recall=0.8, false_alarms=0.1),
    ),
    reliability=(ReliabilityBin(confidence=0.2, safe=0.3, rows=4),),
)
FIGURE = Figure(value=0.5, low=0.4, high=0.6, goals=3)
REPORT = Report(
    sets={"set 0": {"mine": {"auroc": FIGURE, "one_safe_of_8": FIGURE}, "other": {}}},
    policies={
        "set 0": {
            "mine": (PolicyFigures(n=8, mix="natural", figures={"harm_passed": FIGURE}),),
        },
        "help": {
            "other": (PolicyFigures(n=8, mix="natural", figures={"needless_refusals": FIGURE}),),
        },
    },
    list_sizes={f"set {i}": {"mine": {2: FIGURE, 4: FIGURE}} for i in range(4)},
    curves={"set 0": {"mine": CURVES}, "set 0, forged tokens": {"mine": CURVES}},
    costs={
        name: Cost(
            reference="tiny", file_bytes=1, blocks_read=1, blocks=2, milliseconds=ms, answers=3
        )
        for name, ms in (("mine", 2.0), ("other", 30.0))
    },
    digests={},
)


def test_every_picture_is_drawn(tmp_path: Path) -> None:
    files = draw_report(REPORT, tmp_path / "new")
    assert [f.name for f in files] == ["roc.png", "reliability.png", "list_size.png", "quality.png"]
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in files)


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    nothing = {"curves": {}, "list_sizes": {}, "costs": {}}
    assert draw_report(REPORT.model_copy(update=nothing), tmp_path) == []


def test_quality_against_time_has_a_panel_for_each_figure() -> None:
    report = REPORT.model_copy(update={"sets": {**REPORT.sets, "help": {"other": {}}}})
    assert quality_points(report) == {
        "AUROC, set 0": {"mine": (2.0, FIGURE)},
        "one safe of 8, set 0": {"mine": (2.0, FIGURE)},
        "harm passed of 8, set 0": {"mine": (2.0, FIGURE)},
        "needless refusals of 8, help": {"other": (30.0, FIGURE)},
    }
    assert quality_points(REPORT.model_copy(update={"costs": {}})) == {}


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"srr-guard\[plots\]"):
        draw_report(REPORT, tmp_path)
