from __future__ import annotations

import sys

import pytest
import torch
from rows import labelled

from srr_guard.errors import DataError, MissingExtraError
from srr_guard.training.data import LabelledResponse
from srr_guard.training.evaluation.ngrams import NGramClassifier, unseen

ROWS = [LabelledResponse(**row) for row in labelled(12)]


def test_it_learns_the_words_of_the_answer() -> None:
    classifier = NGramClassifier.fit(ROWS)
    low, high = classifier.p_safe(["ZAP it, ZAP!", "Gladly: look around."]).tolist()
    assert low < 0.3
    assert high > 0.7


def test_it_never_sees_the_request() -> None:
    asked = [row.model_copy(update={"prompt": "something else"}) for row in ROWS]
    texts = [row.response for row in ROWS]
    assert torch.equal(
        NGramClassifier.fit(ROWS).p_safe(texts), NGramClassifier.fit(asked).p_safe(texts)
    )


def test_disguised_characters_are_made_plain() -> None:
    plain, hidden = NGramClassifier.fit(ROWS).p_safe(["ZAP ZAP hard", "Z\u200bAP Z\u200bAP hard"])
    assert plain == hidden


def test_both_labels_count_the_same() -> None:
    few = [row for row in ROWS if not row.safe][:4]
    many = [row for row in ROWS if row.safe] * 20
    classifier = NGramClassifier.fit([*few, *many])
    assert float(classifier.p_safe([few[0].response])[0]) < 0.5


def test_source_weights_count() -> None:
    def row(text: str, label: str, source: str) -> LabelledResponse:
        return LabelledResponse(prompt="q", response=text, label=label, source=source)

    rows = [
        row("stir the soup", "safe", "one"),
        row("stir the soup", "unsafe", "two"),
        row("water the basil", "unsafe", "one"),
    ] * 3

    def p_safe(**weights: float) -> float:
        classifier = NGramClassifier.fit(rows, source_weights=weights)
        return float(classifier.p_safe(["stir the soup"])[0])

    assert p_safe(two=0.1) > p_safe() > p_safe(two=10.0)
    with pytest.raises(DataError, match="got 0 safe and 3 unsafe"):
        p_safe(one=0.0)  # a weight of 0 leaves a source out


def test_labels_that_only_rank_are_left_out() -> None:
    ranked = [row.model_copy(update={"label_conf": "preference"}) for row in ROWS]
    with pytest.raises(DataError, match="got 0 safe and 0 unsafe"):
        NGramClassifier.fit(ranked)
    with pytest.raises(DataError, match="safe and unsafe answers"):
        NGramClassifier.fit([row for row in ROWS if row.safe])


def test_no_texts_give_no_figures() -> None:
    assert NGramClassifier.fit(ROWS).p_safe([]).shape == (0,)


def test_goals_and_prompts_that_are_measured_are_not_fitted_on() -> None:
    measured = ROWS[:8]
    kept = unseen(ROWS, measured)
    assert kept
    assert not {row.goal_id for row in kept} & {row.goal_id for row in measured}
    renamed = [row.model_copy(update={"goal_id": f"other {row.goal_id}"}) for row in ROWS]
    assert len(unseen(renamed, measured)) == len(kept)
    assert unseen(ROWS, ROWS) == []


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(MissingExtraError, match=r"scikit-learn.*srr-guard\[evaluation\]") as raised:
        NGramClassifier.fit(ROWS)
    assert raised.value.extra == "evaluation"
