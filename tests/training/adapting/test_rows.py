"""Which rows are taken, and what is said of those that are not enough."""

from __future__ import annotations

import pytest

from srr_guard.errors import DataError
from srr_guard.scorer.fingerprint import TALKS
from srr_guard.training.adapting.rows import (
    MOST_ROWS,
    check_disjoint,
    fixed_texts,
    usable_rows,
)
from srr_guard.training.data import LabelledResponse


def rows(n: int, **fields: str) -> list[LabelledResponse]:
    return [
        LabelledResponse(
            prompt=f"question {i // 2}",
            response=f"answer {i}",
            label="safe" if i % 2 else "unsafe",
            **fields,
        )
        for i in range(n)
    ]


def test_repeats_and_preferences_do_not_count() -> None:
    data = [*rows(40), *rows(10), *rows(60, label_conf="preference")]
    assert usable_rows(data, seed=0) == rows(40)
    with pytest.raises(DataError, match="31 different rows"):
        usable_rows([*rows(31), *rows(31)], seed=0)


@pytest.mark.parametrize("n", [1, 31])
def test_too_few_rows_say_how_many_and_what_to_do(n: int) -> None:
    with pytest.raises(DataError, match=rf"{n} different rows .* label 32 or more, .*tune"):
        usable_rows(rows(n), seed=0)


def test_other_rows_that_cannot_be_learnt_from() -> None:
    safe = [r for r in rows(80) if r.safe]
    with pytest.raises(DataError, match="all 40 rows are labelled 'safe'"):
        usable_rows(safe, seed=0)
    with pytest.raises(DataError, match=r"have 1 goals, .* 8 or more"):
        usable_rows(rows(40, goal_id="g"), seed=0)
    twice = [*rows(40), rows(1)[0].model_copy(update={"label": "safe"})]
    with pytest.raises(DataError, match="labelled both safe and unsafe"):
        usable_rows(twice, seed=0)


def test_more_rows_than_are_read() -> None:
    many = rows(MOST_ROWS + 200)
    taken = usable_rows(many, seed=0)
    assert len(taken) == MOST_ROWS
    assert {r.source for r in taken} == {"unnamed"}
    assert set(taken) <= set(many)
    assert taken == usable_rows(many, seed=0)
    assert taken != usable_rows(many, seed=1)


def test_rows_on_both_sides() -> None:
    check_disjoint(rows(8), rows(8, source="x")[:0])
    with pytest.raises(DataError, match="3 of the base rows"):
        check_disjoint(rows(8), rows(3, source="another"))


def test_the_fixed_texts_are_those_of_the_fingerprint() -> None:
    texts = fixed_texts()
    assert len(texts) == sum(len(answers) for _, answers in TALKS)
    dialogue = next(t for t in texts if "removes duplicates" in t.prompt).conversation
    assert [turn.role for turn in dialogue.turns] == ["user", "assistant", "user"]
    barking = next(t for t in texts if "barks all night" in t.prompt).conversation
    assert [turn.role for turn in barking.turns] == ["user"]
    assert barking.turns[0].text.startswith("You are a careful assistant.")
