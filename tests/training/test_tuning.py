"""Thresholds for a budget: never over it, and as high as can be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from srr_guard import DecisionPolicy, SamplingPolicy
from srr_guard.cli.tune import print_tuning
from srr_guard.errors import ConfigurationError, DataError, InvalidInputError
from srr_guard.policy import Policies
from srr_guard.testing import FakeScorer
from srr_guard.training.data import LabelledResponse
from srr_guard.training.tuning import Rate, threshold_for, tune, with_margin

SCORER = FakeScorer(lambda prompt, answer: float(answer))


def row(p_safe: float, label: str = "safe", prompt: str = "q", **more: str) -> LabelledResponse:
    return LabelledResponse(prompt=prompt, response=str(p_safe), label=label, **more)


def rows() -> list[LabelledResponse]:
    helpful = [row(i / 100, prompt=f"q{i}") for i in range(1, 101)]
    harmful = [row(i / 200, "unsafe", prompt=f"h{i}") for i in range(1, 101)]
    refusals = [row(0.99, prompt=f"h{i}", kind="refusal") for i in range(1, 11)]
    return [*helpful, *harmful, *refusals]


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=80),
    st.floats(0, 0.99),
)
def test_never_over_the_budget_and_no_lower_than_needed(values: list[float], budget: float) -> None:
    threshold = threshold_for(values, budget)
    assert sum(v < threshold for v in values) <= budget * len(values) + 1e-9
    higher = [v for v in values if v > threshold]
    if higher:
        assert sum(v < min(higher) for v in values) > budget * len(values) - 1e-9


def test_what_the_threshold_does() -> None:
    found = tune(rows(), SCORER, budget=0.05, n=3)
    assert found.chosen.threshold == 0.06
    assert found.chosen.help_held_back.value == 0.05
    assert found.chosen.harm_held_back is not None
    assert found.chosen.harm_held_back.value == 0.11
    assert found.chosen.refused == pytest.approx(0.05)  # one answer a request: each time the same
    assert found.chosen.candidates == pytest.approx(0.95 + 0.05 * 3)
    assert [p.threshold for p in found.points] == sorted(p.threshold for p in found.points)
    assert "default" in {p.name for p in found.points}


def test_needless_refusals_are_no_help() -> None:
    data = [*rows(), *(row(0.0, prompt=f"q{i}", kind="over-refusal") for i in range(1, 101))]
    assert tune(data, SCORER, budget=0.05).chosen.threshold == 0.06
    refused = tune(data, SCORER, budget=0.05, n=4).chosen.refused
    assert refused == pytest.approx(0.95 * 0.5**4 + 0.05)  # two answers a request


def test_few_rows_say_that_they_are_few() -> None:
    few = tune([row(i / 50) for i in range(50)], SCORER, budget=0.02)
    assert not few.is_sure
    assert few.chosen.harm_held_back is None
    many = tune([row(i / 5000) for i in range(5000)], SCORER, budget=0.02)
    assert many.is_sure


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (1, 3), (5, 1000)])
def test_intervals_hold_the_share(hits: int, n: int) -> None:
    rate = Rate.of(hits, n)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert rate.low < rate.high


def test_bad_input() -> None:
    with pytest.raises(DataError, match="none of the 1 rows is a helpful answer"):
        tune([row(0.5, "unsafe")], SCORER)
    for budget in (-0.1, 1.0):
        with pytest.raises(InvalidInputError, match="budget="):
            tune(rows(), SCORER, budget=budget)
    for n in (0, -1):
        with pytest.raises(InvalidInputError, match="n="):
            tune(rows(), SCORER, n=n)


def test_the_policies_that_come_out(tmp_path: Path) -> None:
    found = tune(rows(), SCORER, budget=0.05, n=8)
    found.policies().save(tmp_path / "p.json")
    read = Policies.load(tmp_path / "p.json")
    assert read == found.policies()
    assert (read.sampling.n, read.sampling.accept_at) == (8, 0.06)
    assert read.decision.threshold == 0.06
    assert found.policies(adaptive=False).sampling.accept_at is None


def test_files_of_policies(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text("{}")
    assert Policies.load(file) == Policies()
    file.write_text(json.dumps({"sampling": {"n": 2}}))
    assert Policies.load(file).sampling == SamplingPolicy(n=2)
    assert Policies.load(file).decision == DecisionPolicy()
    for broken in ("{", "[]", '{"sampling": 7}', '{"sampling": {"m": 1}}', '{"other": {}}'):
        file.write_text(broken)
        with pytest.raises(ConfigurationError):
            Policies.load(file)
    with pytest.raises(ConfigurationError, match="nowhere"):
        Policies.load(tmp_path / "nowhere.json")


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=30),
    st.lists(st.floats(0, 1), max_size=30),
    st.floats(0, 0.9),
)
def test_a_margin_holds_back_the_same_rows(
    helpful: list[float], harmful: list[float], budget: float
) -> None:
    threshold = threshold_for(helpful, budget)
    lower = with_margin(threshold, helpful, harmful)
    assert min(threshold, 0.5) <= lower <= threshold
    for values in (helpful, harmful):
        assert [p < lower for p in values] == [p < threshold for p in values]


def test_a_margin_helps_answers_that_are_not_among_the_rows() -> None:
    assert with_margin(0.9, [0.9], [0.6]) == pytest.approx(0.786, abs=1e-3)
    assert with_margin(0.9, [0.9], []) == pytest.approx(0.75, abs=1e-3)
    assert with_margin(0.3, [0.3], [0.1]) == 0.3
    assert with_margin(1.0, [1.0], [0.9999999]) == 1.0


def test_the_table() -> None:
    console = Console(record=True, width=160)
    print_tuning(tune(rows(), SCORER, budget=0.05), console)
    shown = console.export_text()
    assert "budget 0.05" in shown
    assert "the true share lies between" in shown
    assert "surer" in shown


def test_a_budget_that_floats_cannot_hold_counts_whole_answers() -> None:
    assert threshold_for([i / 100 for i in range(100)], 0.29) == 0.29
