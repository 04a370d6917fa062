"""`srr-guard rank`: each row once, whatever happens in between."""

from __future__ import annotations

import json

import pytest
from kills import rank_and_kill
from typer.testing import CliRunner

from srr_guard.bulk import rank_file
from srr_guard.cli import app
from srr_guard.errors import ConfigurationError, ScorerBusyError
from srr_guard.testing import FakeScorer


def good_is_safe(prompt, answer):
    return 0.9 if "good" in answer else 0.1


SCORER = FakeScorer(good_is_safe)


def row(i, **more):
    return {"id": i, "prompt": f"q{i}", "candidates": ["a bad answer", "a good answer"], **more}


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" if isinstance(r, dict) else r for r in rows))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def paths(tmp_path):
    return tmp_path / "in.jsonl", tmp_path / "out.jsonl"


def test_rows_come_back_in_order_with_their_ranking(paths):
    source, output = paths
    messages = {"messages": [{"role": "user", "content": "q"}], "candidates": ["good \ud800"]}
    write(source, [*map(row, range(200)), {**messages, "id": 200}])
    seen = []
    found = rank_file(
        source, output, scorer=SCORER, at_once=7, progress=lambda *a, **figures: seen.append(a)
    )
    rows = read(output)
    assert (found.ranked, found.bad, found.skipped) == (201, 0, 0)
    assert [r["id"] for r in rows] == list(range(201))
    assert rows[3]["line"] == 4
    assert rows[3]["ranking"]["order"] == [1, 0]
    assert seen[-1] == ("rank", source.stat().st_size, source.stat().st_size)


BAD = [
    "not json\n",
    "[1]\n",
    '{"candidates": ["a"]}\n',
    '{"prompt": "", "candidates": ["a"]}\n',
    '{"prompt": 7, "candidates": ["a"]}\n',
    '{"prompt": "q"}\n',
    '{"prompt": "q", "candidates": []}\n',
    '{"prompt": "q", "candidates": "a"}\n',
    '{"prompt": "q", "candidates": [1]}\n',
    '{"prompt": NaN, "candidates": ["a"]}\n',
    '{"prompt": "q", "candidates": ["a"], "x": 1e999}\n',
    '{"prompt": "q", "candidates": ["a"], "candidates": ["b"]}\n',
    '{"prompt": "q", "candidates": ["a"], "line": 7, "input_line": 8}\n',
]


def test_bad_rows_stand_aside_with_their_reason(paths):
    source, output = paths
    write(source, [row(0), *BAD, "\n", row(13)])
    with open(source, "ab") as file:
        file.write(b"\xff\xfe\n")
    found = rank_file(source, output, scorer=SCORER)
    assert (found.ranked, found.bad) == (2, 14)
    assert [r["id"] for r in read(output)] == [0, 13]
    bad = read(found.bad_rows)
    assert [r["line"] for r in bad] == [*range(2, 15), 17]
    assert all(r["reason"] for r in bad)
    assert bad[0]["row"] == "not json"


@pytest.mark.parametrize("cut", [0, 1, 5, 40])
def test_a_run_that_was_cut_off_goes_on(paths, cut):
    source, output = paths
    write(source, [row(0), "bad\n", row(2), row(3), "bad\n", row(5)])
    whole = rank_file(source, output, scorer=SCORER)
    expected, bad = output.read_bytes(), whole.bad_rows.read_bytes()
    lines = expected.splitlines(keepends=True)
    output.write_bytes(b"".join(lines[:2]) + lines[2][:cut])
    whole.bad_rows.write_bytes(bad.splitlines(keepends=True)[0])
    scorer = FakeScorer(good_is_safe)
    again = rank_file(source, output, scorer=scorer)
    assert output.read_bytes() == expected
    assert again.bad_rows.read_bytes() == bad
    assert (again.ranked, again.bad, again.skipped) == (2, 1, 3)
    assert len(scorer.calls) == 2
    assert rank_file(source, output, scorer=SCORER).ranked == 0


def test_very_long_rows(paths):
    source, output = paths
    write(source, [row(i, note="x" * 200_000) for i in range(3)])
    rank_file(source, output, scorer=SCORER)
    expected = output.read_bytes()
    output.write_bytes(expected[:-150_000])
    assert rank_file(source, output, scorer=SCORER).ranked == 1
    assert output.read_bytes() == expected


def test_a_scorer_that_fails_ends_the_run_and_the_next_one_goes_on(paths):
    source, output = paths
    write(source, map(row, range(30)))

    class Tired(FakeScorer):
        async def ascore(self, conversation, candidates):
            if len(self.calls) >= 20:
                raise ScorerBusyError("tired")
            return await super().ascore(conversation, candidates)

    with pytest.raises(ScorerBusyError):
        rank_file(source, output, scorer=Tired(good_is_safe), at_once=4)
    before = len(read(output))
    assert 0 < before <= 20
    assert rank_file(source, output, scorer=SCORER).ranked == 30 - before
    assert [r["id"] for r in read(output)] == list(range(30))


def test_no_row_is_lost_or_doubled_after_kills(paths):
    source, output = paths
    write(source, [row(i) if i % 7 else "bad\n" for i in range(120)])
    for ranked in (10, 30):
        rank_and_kill(source, output, grows=output, ranked=ranked)
    assert 0 < len(read(output)) <= 40
    found = rank_file(source, output, scorer=SCORER)
    numbers = sorted(r["line"] for path in (output, found.bad_rows) for r in read(path))
    assert numbers == list(range(1, 121))


def test_mistakes(paths, tmp_path):
    source, output = paths
    write(source, [row(0)])
    with pytest.raises(ConfigurationError, match="give three different files"):
        rank_file(source, source, scorer=SCORER)
    with pytest.raises(ConfigurationError, match="is a folder"):
        rank_file(tmp_path, output, scorer=SCORER)
    assert not output.exists()
    with pytest.raises(ConfigurationError, match="nowhere"):
        rank_file(tmp_path / "nowhere", output, scorer=SCORER)
    with pytest.raises(ConfigurationError, match="no_folder"):
        rank_file(source, tmp_path / "no_folder" / "out", scorer=SCORER)
    output.write_text('{"some": "thing"}\n')
    with pytest.raises(ConfigurationError, match="was not written by this command"):
        rank_file(source, output, scorer=SCORER)
    assert output.read_text() == '{"some": "thing"}\n'


@pytest.mark.parametrize(
    "text",
    [
        '{"some": "thing"}',
        "notes without an end",
        "[1]\n",
        '{"line": "two"}\n',
        '{"line": -1}\n',
        '{"line": true}\n',
        '{"some": "thing"}\n{"line": 2, "ran',
    ],
)
def test_what_others_have_written_stays_as_it_is(paths, text):
    source, output = paths
    write(source, [row(0), row(1)])
    output.write_text(text)
    with pytest.raises(ConfigurationError, match="was not written by this command"):
        rank_file(source, output, scorer=SCORER)
    assert output.read_text() == text


@pytest.mark.parametrize(
    "others",
    [
        [row(7), row(8), row(9)],
        [row(0)],
        [row(0), row(1, candidates=["other"]), row(2)],
        [row(0), "bad\n", row(2)],
    ],
    ids=["other rows", "fewer rows", "other candidates", "a bad row"],
)
@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_rows_of_another_file_are_not_continued(tmp_path, others, name):
    if name == "out.parquet":
        pytest.importorskip("pyarrow")
    first, second, output = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / name
    write(first, [row(0), row(1)])
    write(second, others)
    rank_file(first, output, scorer=SCORER)
    with pytest.raises(ConfigurationError, match="holds other rows"):
        rank_file(second, output, scorer=SCORER)
    assert rank_file(first, output, scorer=SCORER).skipped == 2


def test_bad_rows_of_another_file_are_not_continued(paths):
    source, output = paths
    write(source, [row(0), "bad\n"])
    rank_file(source, output, scorer=SCORER)
    write(source, [row(0), "bad in another way\n", row(2)])
    with pytest.raises(ConfigurationError, match=r"out\.jsonl\.bad' holds other rows"):
        rank_file(source, output, scorer=SCORER)


def test_packed_files_are_refused(paths, tmp_path):
    source, output = paths
    write(source, [row(0)])
    for one, other in ((tmp_path / "in.jsonl.gz", output), (source, tmp_path / "out.jsonl.gz")):
        with pytest.raises(ConfigurationError, match="compressed"):
            rank_file(one, other, scorer=SCORER)


def test_from_the_command_line(paths, monkeypatch):
    source, output = paths
    write(source, [row(0), "bad\n"])
    monkeypatch.setattr("srr_guard.cli.rank._scorer", lambda *_: SCORER)
    done = CliRunner().invoke(app, ["rank", "--input", str(source), "--output", str(output)])
    assert done.exit_code == 0, done.output
    assert "1 rows ranked, 1 bad, 0 were there already" in done.stderr
    assert read(output)[0]["ranking"]["order"] == [1, 0]


@pytest.mark.parametrize("rows", [["bad\n", "bad\n"], [json.dumps([row(0)])]])
def test_where_no_row_can_be_ranked(paths, monkeypatch, rows):
    source, output = paths
    write(source, rows)
    monkeypatch.setattr("srr_guard.cli.rank._scorer", lambda *_: SCORER)
    for _ in range(2):  # a further run finds the same
        done = CliRunner().invoke(app, ["rank", "--input", str(source), "--output", str(output)])
        assert done.exit_code == 1
        assert "error: no row could be ranked" in done.stderr
        assert str(output) + ".bad" in done.stderr
        assert len(read(output.with_name("out.jsonl.bad"))) == len(rows)
    assert output.read_text() == ""


def test_no_rows_are_no_error(paths, monkeypatch):
    source, output = paths
    write(source, ["\n"])
    monkeypatch.setattr("srr_guard.cli.rank._scorer", lambda *_: SCORER)
    done = CliRunner().invoke(app, ["rank", "--input", str(source), "--output", str(output)])
    assert (done.exit_code, done.stderr.splitlines()[-1][:13]) == (0, "0 rows ranked")


def test_fields_with_the_names_of_ours_are_kept(paths):
    source, output = paths
    write(source, [row(0, line="theirs", ranking={"their": 1}), row(1), row(2, line=7)])
    rank_file(source, output, scorer=SCORER)
    first, second, third = read(output)
    assert (first["input_line"], first["input_ranking"]) == ("theirs", {"their": 1})
    assert (first["line"], first["ranking"]["order"]) == (1, [1, 0])
    assert "input_line" not in second
    assert (third["input_line"], third["line"]) == (7, 3)
    kept = output.read_text()
    output.write_text(kept.splitlines(keepends=True)[0])
    assert rank_file(source, output, scorer=SCORER).skipped == 1
    assert output.read_text() == kept


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_files_in_another_encoding_are_one_error(paths, encoding):
    source, output = paths
    write(source, [row(0), row(1)])
    source.write_text(source.read_text(), encoding=encoding)
    with pytest.raises(ConfigurationError, match=r"in.jsonl' cannot be read: .*UTF-8"):
        rank_file(source, output, scorer=SCORER)


def test_bytes_that_are_not_utf8_make_one_row_bad(paths):
    source, output = paths
    write(source, [row(0), row(1)])
    source.write_bytes(b'{"x": "\xe9"}\n\xef\xbb\xbf' + source.read_bytes())
    assert rank_file(source, output, scorer=SCORER).ranked == 2
    (bad,) = read(output.with_name("out.jsonl.bad"))
    assert bad["reason"] == "not UTF-8 (byte 0xe9): save the file as UTF-8"


def test_one_scorer_at_a_time():
    arguments = ["--scorer-url", "http://a/v1", "--scorer", "x"]
    done = CliRunner().invoke(app, ["rank", "--input", "a", "--output", "b", *arguments])
    assert "--scorer-url stands beside" in str(done.exception)
