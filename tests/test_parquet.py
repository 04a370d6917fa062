"""`srr-guard rank` on Parquet; needs the extra `bulk`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kills import rank_and_kill

from srr_guard.bulk import rank_file
from srr_guard.errors import ConfigurationError
from srr_guard.testing import FakeScorer

pyarrow = pytest.importorskip("pyarrow", reason="the extra `bulk` is not installed")
parquet = pytest.importorskip("pyarrow.parquet")
SCORER = FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1)


def rows(count):
    bad = {"id": 0, "prompt": None, "candidates": ["a"]}
    good = {"prompt": "q", "candidates": ["a bad one", "a good one"]}
    return [bad | {"id": i} if i % 7 == 3 else good | {"id": i} for i in range(count)]


def test_parquet_in_and_out(tmp_path):
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows(30)), source)
    seen = []
    found = rank_file(source, output, scorer=SCORER, progress=lambda *a, **_: seen.append(a))
    assert (found.ranked, found.bad) == (26, 4)
    table = parquet.read_table(output).to_pylist()
    assert [row["id"] for row in table] == [i for i in range(30) if i % 7 != 3]
    assert table[0]["ranking"]["order"] == [1, 0]
    assert seen[-1] == ("rank", 30, 30)
    again = rank_file(source, output, scorer=SCORER)
    assert (again.ranked, again.skipped) == (0, 26)
    assert {p.name for p in tmp_path.iterdir()} == {"in.parquet", "out.parquet", "out.parquet.bad"}


def test_columns_of_several_types_and_one_that_is_no_parquet(tmp_path):
    lines = [{"prompt": "q", "candidates": ["a"], "x": x} for x in (1, "two", {"three": 3}, None)]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.pq"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rank_file(source, output, scorer=SCORER)
    assert parquet.read_table(output)["x"].to_pylist() == ["1", "two", '{"three": 3}', None]
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(ConfigurationError, match="cannot be read as Parquet"):
        rank_file(tmp_path / "no.parquet", tmp_path / "out2.parquet", scorer=SCORER)


def test_no_row_is_lost_or_doubled_after_kills(tmp_path):
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows(120)), source)
    part = Path(f"{output}.part")
    for ranked in (10, 30):
        rank_and_kill(source, output, grows=part, ranked=ranked)
    assert not output.exists()
    found = rank_file(source, output, scorer=SCORER)
    assert [r["id"] for r in parquet.read_table(output).to_pylist()] == [
        i for i in range(120) if i % 7 != 3
    ]
    assert len(found.bad_rows.read_text().splitlines()) == sum(i % 7 == 3 for i in range(120))
