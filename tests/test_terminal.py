"""Tables fit any width and encoding; progress is for terminals."""

from __future__ import annotations

import io
import json
import sys

import pytest
from pydantic import BaseModel
from rich.box import SIMPLE
from rich.console import Console
from rich.text import Text

from srr_guard.terminal import moves, print_json, print_table, progress_shown, say

HEADS = ("method", "one safe of 8", "recall at 1% false alarms", "note")
ROWS = [
    ("a rather long name of a method", "0.923 0.91-0.93", "-12.345 [0.10, 0.20]", "[red]x[/] :x:"),
    ("日本語の名前", Text.assemble("0.500 ", ("0.40-0.60", "dim")), "", "esc \x1b[31m \u202e"),
]
FIGURES = ("0.923", "0.91-0.93", "-12.345", "0.20]", "0.500", "0.40-0.60")


class Encoded(io.TextIOWrapper):
    def __init__(self, encoding: str, *, tty: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, newline="")
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty

    @property
    def written(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252", "latin-1"])
@pytest.mark.parametrize("width", [12, 20, 40, 60, 80, 120, 300])
def test_a_table_fits(width: int, encoding: str) -> None:
    file = Encoded(encoding)
    print_table(
        Console(file=file, width=width),
        HEADS,
        ROWS,
        title="of [bold]set[/]",
        texts=(0, 3),
        right=(1,),
    )
    shown = file.written
    assert [figure for figure in FIGURES if figure not in shown] == []
    assert "…" not in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert ":x:" in "".join(shown.split())
    lines = shown.splitlines()
    assert max(map(len, lines)) <= width
    assert any("─" in line or "-+-" in line for line in lines) == (width > 60)


@pytest.mark.parametrize("width", [1, 2])
def test_no_width_is_too_narrow_to_print(width: int) -> None:
    file = Encoded("utf-8")
    print_table(Console(file=file, width=width), HEADS, ROWS)
    assert "0" in file.written


@pytest.mark.parametrize("width", [30, 200])
def test_a_table_without_rows_or_names(width: int) -> None:
    file = Encoded("utf-8")
    print_table(Console(file=file, width=width), ("", "p"), [], frame=SIMPLE, caption="none")
    print_table(Console(file=file, width=width), ("", "p"), [("", "0.1")])
    assert "none" in file.written
    assert "0.1" in file.written


def test_json_is_valid_in_any_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    class Said(BaseModel):
        text: str = "Grüße 日本 \x1b"

    for encoding, raw in (("utf-8", True), ("ascii", False), ("cp1252", False)):
        monkeypatch.setattr(sys, "stdout", file := Encoded(encoding))
        print_json(Said())
        assert json.loads(file.written) == Said().model_dump()
        assert ("ü" in file.written) == raw


def test_a_message_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", file := Encoded("ascii"))
    say("wrote [red]ü/" + "long " * 40 + "\x1b[0m", errors=True)
    assert file.written == "wrote [red]\\xfc/" + "long " * 40 + "\\x1b[0m\n"


def test_progress_in_a_pipe_is_a_line_for_each_stage() -> None:
    file = Encoded("utf-8")
    with progress_shown(Console(file=file)) as progress:
        for done in (0, 1, 2, 2):
            progress("reading [x]", done, 2)
        progress("training", 1, 3, loss=0.5)
    assert file.written == "reading [x]: 2 of 2\n"


@pytest.mark.parametrize(
    ("tty", "environ", "moving"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "dumb"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, True),
        (False, {"TERM": "xterm", "FORCE_COLOR": "1"}, False),
        (False, {}, False),
    ],
)
def test_bars_are_for_terminals(tty: bool, environ: dict[str, str], moving: bool) -> None:
    file = Encoded("utf-8", tty=tty)
    console = Console(file=file, _environ=environ)
    assert moves(console) == moving
    with progress_shown(console) as progress:
        progress("stage", 1, 1)
    assert ("\x1b[" in file.written) == moving
    assert "stage" in file.written
