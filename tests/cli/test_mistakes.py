"""Mistakes in arguments and files: one line that names the value and the mend, exit code 2."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]  # see conftest.py

EMPTY = "the value is empty: give one, or leave it out"
ARGUMENTS = {
    "tune --data rows --budget abc": "'--budget': Input should be a valid number",
    "tune --data rows --budget nan": "budget=nan is no share",
    "tune --data rows --budget=": f"--budget '': {EMPTY}",
    "tune --data rows --scorer ''": f"--scorer '': {EMPTY}",
    "tune --data ''": f"--data '': {EMPTY}",
    "tune --data rows -n 1.5": "'-n' / '--n': Input should be a valid integer",
    "tune --data rows --n 0": "n=0 leaves no candidate",
    "tune --data rows --dtype bfloat": "'bfloat' is not one of 'auto', 'float32'",
    "tune --dta rows": "No such option: --dta (Possible options: --budget, --data, --dtype)",
    "tune": "Missing option '--data'",
    "tnue": "No such command 'tnue'. Did you mean 'tune'?",
    "soft-prompt trains": "Did you mean 'train'?",
    "''": f"'': {EMPTY}",
    "demo --n": "Option '--n' requires an argument",
    "demo --n 0": "greater than or equal to 1 (got '0')",
    "demo --threshold 1.5": "threshold=1.5",
    "evaluate --data rows --per-source 0": "greater than or equal to 1 (got '0')",
    "evaluate --data hf:": "'' names no data set: write hf:owner/name",
    "train --data rows --output x --source-weight a=-1": "source_weights=-1.0",
    "train --data rows --output x --source-limit a=0": "source_limits=0",
    "train --data rows --output x --source-weight row=2": "did you mean 'rows'?",
    "train --data rows --output x --harmful-source mine": "'mine': there are rows",
    "soft-prompt train --data rows --output x --learning-rate nan": "learning_rate=nan must be",
    "soft-prompt train --data rows --output x --held-out nan": "held_out=nan is outside",
    "score --prompt q --candidates .": "'.' cannot be read: Is a directory",
    "score --prompt q --candidates no": "'no' cannot be read: No such file",
    "score --prompt q --candidates latin": "'latin', line 2: not UTF-8 (byte 0xfc)",
    "score --prompt q --candidates gz": "it is packed with gzip",
    "score --prompt q --candidates none": "the list of candidates is empty",
    "rank --input nowhere --output x": "'nowhere': No such file or directory",
    "rank --input rows --output nowhere/x": "'nowhere/x': No such file or directory",
    "rank --input rows --output /dev/full": "'/dev/full': No space left on device",
    "rank --input rows --output rows": "give three different files",
    "rank --input rows --output link": "give three different files",
    "rank --input rows --output x --scorer-url foo": "'foo' is no address",
    "rank --input rows --output x --scorer-url http://127.0.0.1:1": "127.0.0.1:1 does not answer",
    "explain --prompt q": "Missing option '--answer'",
    "explain --prompt q --answer a --jsn": "No such option: --jsn (Possible options: --json)",
    "playground --port 70000": "less than or equal to 65535 (got '70000')",
    "playground --host 0.0.0.0": "listens on this machine only",
    "playground --no-browser --model nowhere": "'nowhere'",
    "playground --no-browser --reference empty": "holds no config.json",
    "serve --check --config nowhere.yaml": "'nowhere.yaml' cannot be read",
    "serve --check --config .": "'.' cannot be read",
    "serve --check --config latin": "not UTF-8",
    "serve --check --config none --port 70000": "port=70000",
    "serve --check --upstream foo": "url='foo': give an address",
    "serve --check --upstream http://a/v1 --local": "one of them answers, give one",
    "serve --check --scorer-url foo": "urls.0='foo'",
    "serve --check --prot 1": "No such option: --prot (Possible options: --host, --port)",
}


@pytest.fixture
def files(tmp_path: Path) -> None:
    row = '{"prompt": "q", "candidates": ["a"], "response": "a", "label": "safe"}\n'
    (tmp_path / "rows").write_text(row)
    (tmp_path / "link").symlink_to("rows")
    (tmp_path / "latin").write_bytes(b"one\nf\xfcr\n")
    (tmp_path / "gz").write_bytes(b"\x1f\x8b\x08")
    (tmp_path / "none").touch()
    (tmp_path / "empty").mkdir()


@pytest.mark.local
@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("line", ARGUMENTS)
def test_a_mistake_is_one_line(line: str, run: Run) -> None:
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    code, output, errors = run(*shlex.split(line), HF_HUB_OFFLINE="1", COLUMNS="40")
    assert code == 2
    assert output == ""
    assert errors.startswith("error: ")
    assert ARGUMENTS[line] in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("name", ["no\x1b[31m\nwhere", "[red]x[/]", "a\u202eb", "\udcff"])
def test_a_name_with_controls_is_quoted(name: str, run: Run) -> None:
    for arguments in (
        ["score", "--prompt", "q", "--candidates", name],
        [f"--{name}"],
        [name],
        ["demo", "--n", name],
    ):
        code, _, errors = run(*arguments)
        assert code == 2
        assert errors.count("\n") == 1
        assert [sign for sign in "\x1b\u202e\udcff" if sign in errors] == []
        assert name != "[red]x[/]" or name in errors


@pytest.mark.parametrize("arguments", [[], ["soft-prompt"]])
def test_no_command_prints_the_help(arguments: list[str], run: Run) -> None:
    code, output, errors = run(*arguments)
    assert (code, errors) == (2, "")
    assert "Usage: srr-guard" in output or "Commands" in output
