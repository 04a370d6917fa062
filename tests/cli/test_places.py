"""Where a command would write is looked at before it works for hours."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from srr_guard.cli import app
from srr_guard.errors import InvalidInputError

pytestmark = pytest.mark.local

FILES = {
    "tune": ["tune", "--data", "x", "--output"],
    "triggers": ["triggers", "--data", "x", "--output"],
    "vectors": ["vectors", "--data", "x", "--output"],
    "soft-prompt": ["soft-prompt", "train", "--data", "x", "--output"],
    "evaluate": ["evaluate", "--data", "x", "--json"],
    "train": ["train", "--data", "x", "--output", "x", "--log"],
}
FOLDERS = {
    "train": ["train", "--data", "x", "--output"],
    "adapt": ["adapt", "--data", "x", "--output"],
    "evaluate": ["evaluate", "--data", "x", "--plots"],
}


def said(arguments: list[str]) -> str:
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, InvalidInputError)
    return str(result.exception)


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, tmp_path: Path) -> None:
    option = FILES[name][-1]
    missing = said([*FILES[name], str(tmp_path / "nowhere" / "file")])
    assert missing.startswith(option)
    assert "does not exist: create it first" in missing
    assert said([*FILES[name], str(tmp_path)]).endswith("is a folder: name a file")


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(name: str, tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    for place in (file, file / "inside" / "it"):
        assert said([*FOLDERS[name], str(place)]).endswith(
            f"{str(file)!r} is a file: name a folder"
        )


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--n", "0"],
        ["demo", "--tokens", "0"],
        ["triggers", "--data", "x", "--output", "x", "--most", "0"],
        ["triggers", "--data", "x", "--output", "x", "--samples", "0"],
        ["vectors", "--data", "x", "--output", "x", "--most", "-1"],
        ["soft-prompt", "train", "--data", "x", "--output", "x", "--most", "0"],
        ["rank", "--input", "x", "--output", "x", "--at-once", "0"],
        ["playground", "--port", "-1"],
    ],
)
def test_figures_out_of_range(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert arguments[-2] in result.stderr
    assert "greater than or equal" in result.stderr
