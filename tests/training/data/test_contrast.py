"""The set of look-alike requests keeps what its card says."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest

from srr_guard.training.data import LabelledResponse, read_rows


@pytest.fixture(scope="module")
def rows() -> list[LabelledResponse]:
    return read_rows(["contrast"])


def words(text: str) -> int:
    return len(text.split())


def test_requests_come_in_pairs_with_help_refusals_and_harm(rows: list[LabelledResponse]) -> None:
    by_prompt: defaultdict[str, list[LabelledResponse]] = defaultdict(list)
    for row in rows:
        by_prompt[row.prompt].append(row)
    types = Counter(answers[0].prompt_type for answers in by_prompt.values())
    assert types["safe"] == types["unsafe"] >= 4000
    for answers in by_prompt.values():
        assert len({row.prompt_type for row in answers}) == 1
        assert any(row.refuses for row in answers)
        if answers[0].source == "contrast_requests":
            continue
        if answers[0].prompt_type == "safe":
            assert any(row.helps for row in answers)
            assert all(row.safe for row in answers)
        else:
            assert any(row.kind == "compliance" and row.harmful for row in answers)


def test_nothing_is_there_twice(rows: list[LabelledResponse]) -> None:
    normal = [re.sub(r"\W+", " ", f"{r.prompt} {r.response}").lower() for r in rows]
    assert len(set(normal)) == len(rows)


def test_length_gives_nothing_away(rows: list[LabelledResponse]) -> None:
    for source in ("contrast", "contrast_short"):
        mean: dict[str, float] = {}
        for kind in ("benign-help", "compliance", "refusal", "over-refusal"):
            lengths = [words(r.response) for r in rows if r.source == source and r.kind == kind]
            mean[kind] = sum(lengths) / len(lengths)
        assert mean["compliance"] == pytest.approx(mean["benign-help"], rel=0.15)
        assert mean["refusal"] == pytest.approx(mean["over-refusal"], rel=0.15)


def test_bare_requests_of_a_pair_have_the_same_answer(rows: list[LabelledResponse]) -> None:
    pairs: defaultdict[str, list[LabelledResponse]] = defaultdict(list)
    for row in rows:
        if row.source == "contrast_requests":
            pairs[row.pair].append(row)
    assert len(pairs) >= 2700
    for benign, harmful in pairs.values():
        assert (benign.kind, harmful.kind) == ("over-refusal", "refusal")
        assert benign.response == harmful.response


def test_every_row_names_its_licence(rows: list[LabelledResponse]) -> None:
    assert {row.licence for row in rows} == {"Apache-2.0"}
