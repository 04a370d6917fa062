"""Long answers brought to the lengths of others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from srr_guard.training.data.lengths import with_lengths_of
from srr_guard.training.data.rows import LabelledResponse

ROW = LabelledResponse(prompt="q", prompt_type="safe", response="x", label="safe")


def rows(texts: list[str]) -> list[LabelledResponse]:
    return [ROW.model_copy(update={"response": text}) for text in texts]


def lengths(found: list[LabelledResponse]) -> list[int]:
    return sorted(len(row.response) for row in found)


TEXTS = st.lists(st.text("ab \n", min_size=1, max_size=60).filter(str.strip), max_size=9)


@given(TEXTS, TEXTS)
def test_no_quantile_is_longer_and_each_answer_is_a_beginning(long: list[str], others: list[str]):
    found = with_lengths_of(rows(long), rows(others))
    assert [b.startswith(a.response) for a, b in zip(found, long, strict=True)] == [True] * len(
        long
    )
    assert all(row.response for row in found)
    if others:
        limits = sorted(map(len, others))
        n = len(found)
        for i, length in enumerate(lengths(found)):
            assert length <= limits[(2 * i + 1) * len(limits) // (2 * n)]


def test_quartiles_become_alike():
    long = rows([("word " * size).strip() for size in range(100, 300)])
    others = rows([("word " * size).strip() for size in range(10, 110)])
    found, wanted = lengths(with_lengths_of(long, others)), lengths(others)
    for share in (0.25, 0.5, 0.75):
        assert abs(found[int(share * 200)] - wanted[int(share * 100)]) <= 5


def test_short_answers_and_none_to_follow_stay():
    short = rows(["one two", "three"])
    assert with_lengths_of(short, rows(["a much longer answer"])) == short
    assert with_lengths_of(short, []) == short
    assert with_lengths_of([], short) == []
