from __future__ import annotations

import math

import pytest
import torch
from rows import labelled

from srr_guard.training.data import LabelledResponse
from srr_guard.training.data.refusals import is_refusal
from srr_guard.training.evaluation.baselines import baseline_scores
from srr_guard.training.evaluation.metrics import list_size_figures, ranking_figures
from srr_guard.training.evaluation.probabilities import probability_curves, probability_figures

_OTHER = {"safe": "unsafe", "unsafe": "safe"}
ROWS = [LabelledResponse(**row) for row in labelled(30)]


def figures(name: str) -> dict[str, float]:
    found = ranking_figures(ROWS, baseline_scores(ROWS)[name])
    return {metric: figure.value for metric, figure in found.items()}


def test_the_oracle_is_always_right() -> None:
    assert set(figures("oracle").values()) == {1.0}


def test_random_gets_what_chance_gives() -> None:
    found = figures("random")
    assert found["one_safe_of_8"] == pytest.approx(1 / 5)  # one safe, four unsafe
    assert found["pairwise"] == pytest.approx(0.5)
    assert found["help_over_refusal"] == pytest.approx(0.5)


def test_first_is_chance_in_shuffled_lists() -> None:
    assert abs(figures("first")["pairwise"] - 0.5) < 0.1


def test_refusal_words_win_where_refusing_is_right_and_lose_where_it_is_not() -> None:
    found = figures("refusal words")
    assert found["pairwise"] > 0.7
    assert found["help_over_refusal"] == 0.0


def test_intervals_hold_the_value_and_count_the_goals() -> None:
    found = ranking_figures(ROWS, baseline_scores(ROWS)["first"])
    for figure in found.values():
        assert figure.low <= figure.value <= figure.high
        assert figure.goals == 30


def test_what_rows_cannot_show_is_left_out() -> None:
    benign = [r for r in ROWS if r.safe]
    found = ranking_figures(benign, baseline_scores(benign)["oracle"])
    assert set(found) == {"help_over_refusal"}
    assert set(probability_figures(benign, torch.ones(len(benign)))) == {"help_blocked"}


def test_what_the_default_threshold_holds_back() -> None:
    p_safe = torch.tensor([0.9 if r.helps else 0.6 if r.safe else 0.1 for r in ROWS])
    found = probability_figures(ROWS, p_safe)
    assert found["harm_blocked"].value == 1.0
    assert found["help_blocked"].value == 0.0
    assert probability_figures(ROWS, 1 - p_safe)["help_blocked"].value == 1.0


def test_the_threshold_keeps_harm_back_that_comes_first() -> None:
    harm_first = baseline_scores([r.model_copy(update={"label": _OTHER[r.label]}) for r in ROWS])
    truth = torch.tensor([float(r.safe) for r in ROWS])

    def found(p_safe: torch.Tensor) -> dict[str, float]:
        figures = ranking_figures(ROWS, harm_first["oracle"], p_safe=p_safe)
        return {metric: figure.value for metric, figure in figures.items()}

    assert found(truth)["one_safe_of_8"] == 0.0
    assert found(truth)["no_harm_of_8"] == 1.0
    assert found(torch.zeros(len(ROWS)))["no_harm_of_8"] == 1.0  # a refusal
    assert found(torch.ones(len(ROWS)))["no_harm_of_8"] == 0.0


def test_probability_figures_of_a_perfect_and_a_useless_scorer() -> None:
    truth = torch.tensor([float(r.safe) for r in ROWS])
    perfect = probability_figures(ROWS, truth)
    assert perfect["auroc"].value == 1.0
    assert perfect["f1"].value == 1.0
    assert perfect["recall_at_1_fpr"].value == 1.0
    assert perfect["recall_at_5_fpr"].value == 1.0
    assert perfect["calibration_error"].value == 0.0
    useless = probability_figures(ROWS, torch.full((len(ROWS),), 0.5))
    assert useless["auroc"].value == 0.5
    assert useless["f1"].value == 0.0  # the threshold itself is let through
    assert useless["recall_at_1_fpr"].value == 0.0


def test_f1_and_recall_by_hand() -> None:
    def row(i: int, label: str) -> LabelledResponse:
        return LabelledResponse(prompt=f"q{i}", response="a", label=label)

    rows = [row(i, "safe" if i < 100 else "unsafe") for i in range(110)]
    p_safe = torch.tensor([0.40, 0.44, *[0.45] * 8, *[0.9] * 90, *[0.42] * 5, *[0.6] * 5])
    found = {metric: figure.value for metric, figure in probability_figures(rows, p_safe).items()}
    assert found["f1"] == pytest.approx(2 * 5 / (15 + 10))  # 5 of 15 blocked are unsafe, of 10
    assert found["recall_at_1_fpr"] == pytest.approx(0.5)  # a threshold of 0.4396
    assert found["recall_at_5_fpr"] == pytest.approx(0.5)  # 0.45
    p_safe[100:105] = 0.445
    found = {metric: figure.value for metric, figure in probability_figures(rows, p_safe).items()}
    assert found["recall_at_1_fpr"] == 0.0
    assert found["recall_at_5_fpr"] == pytest.approx(0.5)


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    p = (torch.rand(len(ROWS), generator=generator) * 10).round() / 10  # with ties
    safe = [x for x, r in zip(p.tolist(), ROWS, strict=True) if r.safe]
    bad = [x for x, r in zip(p.tolist(), ROWS, strict=True) if not r.safe]
    expected = sum((a > b) + 0.5 * (a == b) for a in safe for b in bad) / len(safe) / len(bad)
    assert math.isclose(probability_figures(ROWS, p)["auroc"].value, expected, rel_tol=1e-6)


def test_refusal_words() -> None:
    refusals = ("I'm sorry, but I can't help.", "I cannot assist with that.", "As an AI, no.")
    assert all(is_refusal(text) for text in refusals)
    assert not is_refusal("Sure, here is a plan that you can use.")


def test_longer_lists_are_harder_unless_one_knows() -> None:
    sizes = list_size_figures(ROWS, baseline_scores(ROWS)["random"])
    assert {n: f.value for n, f in sizes.items()} == pytest.approx({2: 1 / 2, 4: 1 / 4})
    oracle = list_size_figures(ROWS, baseline_scores(ROWS)["oracle"])
    assert {f.value for f in oracle.values()} == {1.0}


def test_curves_of_a_perfect_scorer_and_of_one_label() -> None:
    truth = torch.tensor([float(r.safe) for r in ROWS])
    curves = probability_curves(ROWS, truth)
    assert curves is not None
    assert curves.roc[0] == (0.0, 0.0)
    assert (0.0, 1.0) in curves.roc
    default, strict = curves.operating_points
    assert (default.recall, default.false_alarms) == (1.0, 0.0)
    assert (strict.recall, strict.threshold) == (1.0, 1.0)
    assert [(b.confidence, b.safe) for b in curves.reliability] == [(0.0, 0.0), (1.0, 1.0)]
    assert sum(b.rows for b in curves.reliability) == len(ROWS)
    safe = [r for r in ROWS if r.safe]
    assert probability_curves(safe, torch.ones(len(safe))) is None


def test_the_roc_rises() -> None:
    p = torch.rand(len(ROWS), generator=torch.Generator().manual_seed(1))
    curves = probability_curves(ROWS, p)
    assert curves is not None
    assert list(curves.roc) == sorted(curves.roc)
    assert curves.operating_points[1].false_alarms <= 0.02  # one row of a small set
