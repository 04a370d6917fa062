"""What commands write: to narrow terminals, to pipes, in any encoding, to what takes nothing."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]  # see conftest.py


NASTY = 'über [red]x[/] [/] \x1b[31m\x1b]0;t\x07\u202e日 "q"'


def write_rows(folder: Path) -> None:
    row = {"prompt": NASTY, "prompt_type": "safe", "candidates": ["a good one", NASTY]}
    good = {**row, "response": "a good answer", "label": "safe"}
    rows = [good, {**row, "response": NASTY, "label": "unsafe", "prompt_type": "unsafe"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "answers.json").write_text(json.dumps([NASTY, "a good one", "two\r\nlines"]))


SHOWN = {
    "score": (["score", "--prompt", NASTY, "--candidates", "answers.json"], ["+0.875", "0.125"]),
    "explain": (["explain", "--prompt", "q", "--answer", NASTY], ["0.912", "-1.25", "+0.50"]),
    "tune": (["tune", "--data", "rows.jsonl"], ["budget 0.02", "0.500", "79.3%]"]),
    "dry run": (["train", "--recipe", "public", "--dry-run"], ["10,000", "0.5", "Apache-2.0"]),
}


@pytest.mark.local
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
@pytest.mark.parametrize("columns", ["30", "40", "60", "200"])
@pytest.mark.parametrize("name", SHOWN)
def test_figures_are_whole_and_nothing_steers(
    name: str, columns: str, encoding: str, run: Run, tmp_path: Path
) -> None:
    write_rows(tmp_path)
    arguments, figures = SHOWN[name]
    code, output, errors = run(*arguments, encoding=encoding, COLUMNS=columns)
    assert code == 0, errors
    assert [figure for figure in figures if figure not in output] == []
    for text in (output, errors):
        assert max(map(len, text.splitlines()), default=0) <= int(columns)
        assert [sign for sign in "\x1b\x07\u202e…\r" if sign in text] == []
    if name in ("score", "explain") and columns == "200":
        assert "[red]x[/] [/] \\x1b[31m" in output


@pytest.mark.local
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("name", ["score", "explain", "tune"])
def test_json_stays_json(name: str, encoding: str, run: Run, tmp_path: Path) -> None:
    write_rows(tmp_path)
    code, output, errors = run(*SHOWN[name][0], "--json", encoding=encoding, COLUMNS="20")
    assert code == 0, errors
    assert isinstance(json.loads(output), dict)


@pytest.mark.local
@pytest.mark.parametrize("name", SHOWN)
def test_colours_where_they_are_asked_for(name: str, run: Run, tmp_path: Path) -> None:
    write_rows(tmp_path)
    for environ, coloured in (
        ({"FORCE_COLOR": "1", "TERM": "xterm"}, True),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
    ):
        _, output, errors = run(*SHOWN[name][0], **environ, COLUMNS="100")
        if name != "dry run":
            assert ("\x1b[" in output) == coloured
        assert [end for end in ("\x1b[2K", "\x1b[1A", "\x1b[?25") if end in output + errors] == []


@pytest.mark.local
def test_a_file_name_is_shown_as_text(run: Run, tmp_path: Path) -> None:
    write_rows(tmp_path)
    name = "a [red]b ü\x1b[31m\n.json"
    code, _, errors = run("tune", "--data", "rows.jsonl", "--output", name, encoding="ascii")
    assert code == 0, errors
    assert (tmp_path / name).is_file()
    assert errors.splitlines()[-2:] == [r"wrote a [red]b \xfc\x1b[31m", ".json"]


@pytest.mark.local
def test_rows_are_ranked_without_a_bar(run: Run, tmp_path: Path) -> None:
    write_rows(tmp_path)
    code, output, errors = run("rank", "--input", "rows.jsonl", "--output", "out.jsonl")
    assert (code, output, errors) == (0, "", "2 rows ranked, 0 bad, 0 were there already\n")


def test_a_warning_of_the_library_is_one_line(run: Run) -> None:
    assert run("--version")[0] == 0
    assert logging.lastResort is not None
    assert logging.lastResort.formatter is not None
    record = logging.makeLogRecord({"msg": "held: a\n\x1b[31mERROR b"})
    assert logging.lastResort.format(record) == r"held: a\n\x1b[31mERROR b"


# ---- what takes no output, gives no input ----

COMMAND = [sys.executable, "-c", "from srr_guard.cli import main; main()"]
DRY_RUN = [*COMMAND, "train", "--recipe", "public", "--dry-run"]


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(DRY_RUN, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("arguments", [["train", "--recipe", "public", "--dry-run"], ["--version"]])
def test_nobody_reads(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
def test_a_closed_stream_is_none(closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *DRY_RUN], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ("hub data set" in done.stdout) == (closed != ">&-")


def test_candidates_from_a_closed_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    code, _, errors = run("score", "--prompt", "q", "--candidates", "-")
    assert code == 2
    assert errors.endswith("cannot be read: standard input is closed\n")
