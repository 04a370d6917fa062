from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from rows import labelled, write_rows

from srr_guard.errors import DataError, MissingExtraError
from srr_guard.training.data import (
    data_digests,
    dialogue,
    read_rows,
    sample_rows,
    split_by_goal,
)

GOOD = {"prompt": "p", "response": "r", "label": "safe"}


def test_files_folders_and_gzip_are_read(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [GOOD])
    write_rows(tmp_path / "b.jsonl.gz", [GOOD, {**GOOD, "source": "named"}])
    rows = read_rows([tmp_path])
    assert [r.source for r in rows] == ["a", "b", "named"]
    assert [r.file for r in rows] == ["a", "b", "b"]
    assert len(read_rows([tmp_path / "b.jsonl.gz"])) == 2
    assert set(data_digests([tmp_path])) == {"a.jsonl", "b.jsonl.gz"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "JSON object"),
        ('{"prompt": "p", "response": "r", "label": "meh"}', "label='meh'"),
        ('{"prompt": "", "response": "r", "label": "safe"}', "prompt=''"),
        ('{"response": "r", "label": "safe"}', "prompt"),
        ('{"prompt": "p", "response": null, "label": "safe"}', "response=None"),
        ("[" * 100_000, "not valid JSON"),
        ('{"prompt": "q", "response": "a", "label": "safe", "label": "unsafe"}', "twice"),
        ('{"prompt": "q", "response": "a", "label": "safe", "x": NaN}', "NaN is not JSON"),
        ("[{}]", "an object on each line"),
        ('{"prompt": ' + "9" * 5000 + "}", "not valid JSON"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, line: str, said: str) -> None:
    file = write_rows(tmp_path / "bad.jsonl", [GOOD, GOOD])
    file.write_text(file.read_text() + "\n" + line + "\n")
    with pytest.raises(DataError) as raised:
        read_rows([file])
    assert "bad.jsonl, line 4" in str(raised.value)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", json.dumps(GOOD).encode("utf-16")),
        ("a.jsonl.gz", b"no gzip"),
        ("a.jsonl.gz", gzip.compress(json.dumps(GOOD).encode(), mtime=0)[:-9]),
    ],
    ids=["UTF-16", "no gzip", "cut off"],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}' cannot be read"):
        read_rows([tmp_path])


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"{}" * 99, mtime=0)[:-9]])
def test_digests_name_files_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"a.jsonl.gz' cannot be read"):
        data_digests(tmp_path)


def test_the_line_that_is_not_utf8(tmp_path: Path) -> None:
    good = (json.dumps(GOOD) + "\n").encode()
    (tmp_path / "a.jsonl").write_bytes(good + b'{"prompt": "\xe9"}\n')
    with pytest.raises(DataError, match=r"a.jsonl, line 2: not UTF-8 \(byte 0xe9\): save"):
        read_rows(tmp_path)


def test_lone_surrogates_are_replaced(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", [{**GOOD, "prompt": "q\ud800", "goal": "g\ud800"}])
    (row,) = read_rows(file)
    assert (row.prompt, row.goal) == ("q\ufffd", "g\ufffd")


def test_a_byte_order_mark_is_no_part_of_a_row(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(GOOD) + "\r\n", encoding="utf-8-sig", newline="")
    assert len(read_rows([file])) == 1


def test_missing_and_empty_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read_rows([tmp_path / "nowhere.jsonl"])
    with pytest.raises(DataError, match="folder"):
        read_rows([tmp_path])
    with pytest.raises(DataError, match="no rows"):
        read_rows([write_rows(tmp_path / "empty.jsonl", [])])


def test_hub_data_sets_name_the_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"srr-guard\[datasets\]"):
        read_rows(["hf:someone/some-data"])


def test_dialogues_become_turns() -> None:
    turns = dialogue("Human: Hi\n\nAssistant: Hello\n\nsecond line\n\nHuman: Why?").turns
    assert [(t.role, t.text) for t in turns] == [
        ("user", "Hi"),
        ("assistant", "Hello\n\nsecond line"),
        ("user", "Why?"),
    ]
    assert len(dialogue("Human nature is odd.").turns) == 1


def test_no_goal_is_on_both_sides(tmp_path: Path) -> None:
    rows = read_rows([write_rows(tmp_path / "a.jsonl", labelled(60))])
    training, validation = split_by_goal(rows, validation_share=0.3, seed=1)
    assert not {r.goal_id for r in training} & {r.goal_id for r in validation}
    assert len(training) + len(validation) == len(rows)
    assert 0.1 < len(validation) / len(rows) < 0.5
    assert split_by_goal(rows, validation_share=0.3, seed=1)[1] == validation
    assert split_by_goal(rows, validation_share=0.3, seed=2)[1] != validation


def test_samples_are_repeatable_and_mix_labels(tmp_path: Path) -> None:
    rows = read_rows([write_rows(tmp_path / "a.jsonl", labelled(60))])
    some = sample_rows(rows, per_source=50, seed=0)
    assert len(some) == 100
    assert some == sample_rows(rows, per_source=50, seed=0)
    harmful = [r for r in some if r.source == "made-harmful"]
    assert {r.label for r in harmful} == {"safe", "unsafe"}
    assert sample_rows(rows, per_source=None, seed=0) == rows
    limited = sample_rows(rows, per_source=50, limits={"made-harmful": 7}, seed=0)
    assert sum(r.source == "made-harmful" for r in limited) == 7
    assert len(limited) == 57


def test_the_packaged_contrast_set_is_read_by_name() -> None:
    rows = read_rows(["contrast"])
    assert {r.source for r in rows} == {"contrast", "contrast_short", "contrast_requests"}
    assert {r.file for r in rows} == {""}
    assert all(digest for digest in data_digests(["contrast"]).values())


def test_rows_know_what_they_teach(tmp_path: Path) -> None:
    file = write_rows(
        tmp_path / "a.jsonl",
        [
            {**GOOD, "kind": "benign-help"},
            {**GOOD, "kind": "over-refusal"},
            {**GOOD, "kind": "compliance", "label": "unsafe", "label_conf": "preference"},
        ],
    )
    helps, refuses, preference = read_rows([file])
    assert (helps.helps, refuses.helps, preference.helps) == (True, False, None)
    assert (helps.refuses, refuses.refuses) == (False, True)
    assert helps.absolute
    assert not preference.absolute
