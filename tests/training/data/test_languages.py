"""The set in nine languages keeps what its card says."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srr_guard.characters import plain_characters
from srr_guard.training.data import LabelledResponse, read_rows

FOLDER = Path(__file__).parents[3] / "data" / "languages"
SCRIPTS = {
    "en": "LATIN",
    "de": "LATIN",
    "fr": "LATIN",
    "es": "LATIN",
    "pt": "LATIN",
    "zh": "CJK",
    "ar": "ARABIC",
    "hi": "DEVANAGARI",
    "ru": "CYRILLIC",
}
FREQUENT = {  # words of one language that the other four in its script lack
    "en": {"the", "with", "and"},
    "de": {"und", "nicht", "ist"},
    "fr": {"dans", "vous", "est"},
    "es": {"con", "el", "las"},
    "pt": {"não", "com", "uma"},
}
FIELDS = {
    "prompt",
    "prompt_type",
    "response",
    "label",
    "kind",
    "pair",
    "goal_id",
    "category",
    "source",
    "licence",
    "language",
}
WHOLE = {  # what each item has in each language: prompt_type, label by kind
    "benign-help": ("safe", "safe"),
    "over-refusal": ("safe", "safe"),
    "compliance": ("unsafe", "unsafe"),
    "refusal": ("unsafe", "safe"),
}

each_language = pytest.mark.parametrize("language", SCRIPTS)


def records(language: str) -> list[dict[str, Any]]:
    lines = (FOLDER / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def rows(language: str) -> list[LabelledResponse]:
    return read_rows(FOLDER / f"{language}.jsonl")


def script(character: str) -> str:
    return unicodedata.name(character).split()[0]


def test_there_is_a_file_for_each_language() -> None:
    assert {file.stem for file in FOLDER.glob("*.jsonl")} == set(SCRIPTS)
    assert len(read_rows(FOLDER)) == 64 * len(SCRIPTS)


@each_language
def test_schema(language: str) -> None:
    for record in records(language):
        assert set(record) == FIELDS
        assert all(isinstance(value, str) and value == value.strip() for value in record.values())
        assert record["language"] == language
        assert record["source"] == f"languages_{language}"
        assert record["licence"] == "Apache-2.0"
        assert re.fullmatch(rf"languages-{language}-\d\d", record["pair"])
        assert record["goal_id"] == f"languages-{record['pair'][-2:]}"


@each_language
def test_pairs_are_whole(language: str) -> None:
    pairs: defaultdict[str, list[LabelledResponse]] = defaultdict(list)
    for row in rows(language):
        pairs[row.pair].append(row)
    assert len(pairs) == 16
    for pair in pairs.values():
        assert {row.kind: (row.prompt_type, row.label) for row in pair} == WHOLE
        assert len(pair) == len(WHOLE)
        assert len({row.goal_id for row in pair}) == 1
        prompts = Counter((row.prompt, row.prompt_type) for row in pair)
        assert sorted(prompts.values()) == [2, 2]
        assert len({prompt for prompt, _ in prompts}) == 2


def test_languages_share_their_goals_and_areas() -> None:
    english = [(r["goal_id"], r["kind"], r["category"]) for r in records("en")]
    for language in SCRIPTS:
        assert [(r["goal_id"], r["kind"], r["category"]) for r in records(language)] == english


def test_no_text_is_there_twice() -> None:
    everything = read_rows(FOLDER)
    answers = [re.sub(r"\W+", " ", row.response).lower() for row in everything]
    assert len(set(answers)) == len(everything)
    assert len({row.prompt for row in everything}) == len(everything) / 2
    contrast = read_rows(["contrast"])
    assert not {row.prompt for row in everything} & {row.prompt for row in contrast}
    assert not {row.response for row in everything} & {row.response for row in contrast}


@each_language
def test_the_script_is_that_of_the_language(language: str) -> None:
    for row in rows(language):
        for text in (row.prompt, row.response):
            letters = [c for c in re.sub(r"`[^`]*`", "", text) if c.isalpha()]
            own = sum(script(c) == SCRIPTS[language] for c in letters)
            assert own == len(letters), text


@pytest.mark.parametrize("language", FREQUENT)
def test_the_words_are_those_of_the_language(language: str) -> None:
    found = Counter(re.findall(r"\w+", " ".join(r.response for r in rows(language)).lower()))
    for other, frequent in FREQUENT.items():
        count = sum(found[word] for word in frequent)
        assert count >= 60 if other == language else count <= 5, (other, count)


@each_language
def test_texts_are_plain_already(language: str) -> None:
    for row in rows(language):
        for text in (row.prompt, row.response):
            assert unicodedata.normalize("NFC", text) == text
            assert plain_characters(text) == text


@each_language
@pytest.mark.parametrize("size", [len, lambda text: len(text.split())], ids=["characters", "words"])
def test_length_gives_nothing_away(language: str, size: Callable[[str], int]) -> None:
    if language == "zh" and size is not len:
        size = len  # no spaces between words
    lengths: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows(language):
        lengths[row.label].append(size(row.response))
        lengths[row.kind or ""].append(size(row.response))
    mean = {name: sum(found) / len(found) for name, found in lengths.items()}
    assert mean["unsafe"] == pytest.approx(mean["safe"], rel=0.04)
    assert mean["benign-help"] == pytest.approx(mean["over-refusal"], rel=0.07)
    wins = [(a > b) + (a == b) / 2 for a in lengths["unsafe"] for b in lengths["safe"]]
    assert 0.2 < sum(wins) / len(wins) < 0.8


@each_language
def test_answers_are_of_realistic_length(language: str) -> None:
    for row in rows(language):
        if language == "zh":
            assert 90 <= len(row.response) <= 120
        else:
            assert 40 <= len(row.response.split()) <= 90
