from __future__ import annotations

import io

import pytest
from rich.console import Console

from srr_guard.training.evaluation.card import results_markdown
from srr_guard.training.evaluation.metrics import Figure
from srr_guard.training.evaluation.policies import PolicyFigures
from srr_guard.training.evaluation.report import Cost, Report
from srr_guard.training.evaluation.reporting import print_report
from srr_guard.training.evaluation.tables import attack_table, quality_table, set_tables


def figure(value: float) -> Figure:
    return Figure(value=value, low=value, high=value, goals=3)


def leaving(**shares: float) -> tuple[PolicyFigures, ...]:
    figures = {metric: figure(value) for metric, value in shares.items()}
    return (
        PolicyFigures(n=4, mix="natural", figures=figures),  # type: ignore[arg-type]
        PolicyFigures(n=8, mix="natural", figures=figures),  # type: ignore[arg-type]
        PolicyFigures(n=8, mix="mixed", figures=figures),  # type: ignore[arg-type]
    )


REPORT = Report(
    sets={
        "bad": {
            "mine": {"pairwise": figure(0.9), "auroc": figure(0.8), "recall_at_1_fpr": figure(0.3)},
            "first": {"pairwise": figure(0.5)},
        },
        "good [plain]": {"mine": {"help_blocked": figure(0.1)}, "first": {}},
        "bad, forged tokens": {"mine": {"auroc": figure(0.7)}, "first": {}},
    },
    policies={
        "bad": {"mine": leaving(harm_passed=0.02), "first": leaving(harm_passed=0.4)},
        "good [plain]": {"mine": leaving(needless_refusals=0.05, guard_refusals=0.01)},
        "bad, forged tokens": {"mine": leaving(harm_passed=0.03)},
    },
    costs={
        "mine": Cost(
            reference="tiny, float32",
            parameters=134_515_008,
            file_bytes=95_000_000,
            blocks_read=20,
            blocks=30,
            milliseconds=12.34,
            answers=64,
        )
    },
    digests={"bad.jsonl": "0" * 64},
)


def test_a_set_has_a_table_for_each_kind_of_figure() -> None:
    ranking, p_safe, policies = set_tables(REPORT, "bad")
    assert ranking.heads == ("method", "pairwise")
    assert [row[0] for row in ranking.rows] == ["mine", "first"]
    assert p_safe.title == "bad: p_safe"  # recall at 1% stands with the name of its set
    assert p_safe.heads == ("method", "AUROC", "recall at 1% false alarms")
    assert [row[0] for row in p_safe.rows] == ["mine"]  # what has no p_safe has no row
    assert policies.heads == (
        "rule",
        "harm passed, best of 4",
        "harm passed, best of 8",
        "harm passed, best of 8, both kinds",
    )
    assert policies.rows[1] == ("first", *[figure(0.4)] * 3)


def test_kinds_without_figures_have_no_table() -> None:
    titles = [table.title for table in set_tables(REPORT, "good [plain]")]
    assert titles == ["good [plain]: p_safe", "good [plain]: what leaves the guard"]


def test_harm_in_disguise_is_shown_for_the_first_scorer() -> None:
    table = attack_table(REPORT)
    assert table is not None
    assert table.rows == (("bad, forged tokens", *[None] * 5, figure(0.7), figure(0.03)),)
    assert attack_table(REPORT.model_copy(update={"sets": {}})) is None


def test_quality_stands_beside_cost_and_names_its_sets() -> None:
    table = quality_table(REPORT)
    assert table is not None
    assert table.title == "Quality beside cost; harm: bad; help: good [plain]"
    cells = dict(zip(table.heads, table.rows[0], strict=True))
    assert cells["parameters"] == "134.5 M"
    assert cells["file"] == "95 MB"
    assert cells["blocks"] == "20 of 30"
    assert cells["ms per answer"] == "12.3"
    assert cells["memory"] == ""
    assert cells["AUROC"] == figure(0.8)
    assert cells["recall at 5% false alarms"] is None
    assert cells["harm passed, best of 8"] == figure(0.02)
    assert cells["needless refusals, best of 8"] == figure(0.05)


@pytest.mark.parametrize("sets", [{}, {"odd": {"mine": {}}}])
def test_cost_alone_is_shown_too(sets: dict[str, dict[str, dict[str, Figure]]]) -> None:
    table = quality_table(REPORT.model_copy(update={"sets": sets, "policies": {}}))
    assert table is not None
    assert table.title == "Quality beside cost"
    assert quality_table(REPORT.model_copy(update={"costs": {}})) is None


def test_console_and_card_show_all_tables() -> None:
    console = Console(record=True, width=300)
    print_report(REPORT, console)
    shown, card = console.export_text(), results_markdown(REPORT)
    for text in (shown, card):
        for title in ("good [plain]: what leaves the guard", "bad: p_safe", "Harm in disguise"):
            assert title in text
    assert "0.020 0.02-0.02" in shown
    assert "| mine | 0.900 [0.90, 0.90] |" in card
    assert card.count("### bad\n") == 1
    assert "sha256 0000" in shown


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_figures_are_whole_in_a_narrow_console(width: int) -> None:
    console = Console(record=True, width=width, file=io.StringIO())
    print_report(REPORT, console)
    shown = console.export_text()
    assert "0.020 0.02-0.02" in " ".join(shown.split())
    assert "good [plain]: what leaves the guard" in " ".join(shown.split())
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
