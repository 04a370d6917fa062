"""What a stranger wrote neither steers a terminal nor begins a log line of its own."""

from __future__ import annotations

import doctest
import logging

import pytest

import srr_guard.visible
from srr_guard.visible import VisibleLines, visible, visible_line

HARMLESS = "Grüße, “日本” 🙂 👩‍💻 שלום\tعربى\nnext line"
STEERING = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x9b31m",
    "over\rwritten",
    "\x08\x08",
    "\x7f",
    "\u202eesrever",
    "\u2066isolated\u2069",
    "one\u2028two\u2029three",
    "half \ud800",
    "nul \x00",
    "\x0b\x0c",
]


def test_the_examples_run() -> None:
    assert doctest.testmod(srr_guard.visible).failed == 0


def test_ordinary_text_stays() -> None:
    assert visible(HARMLESS) == HARMLESS
    assert visible("one\r\ntwo") == "one\ntwo"
    assert visible_line("a\tb\r\nc") == "a\\tb\\r\\nc"


@pytest.mark.parametrize("text", STEERING)
def test_what_steers_is_escaped(text: str) -> None:
    for shown in (visible(text), visible_line(text)):
        assert "\\" in shown
        assert shown.isprintable()
        assert visible(shown) == shown
        shown.encode()


def test_a_traceback_keeps_its_lines_and_nothing_else() -> None:
    try:
        raise ValueError("\x1b[31mred\nINFO forged")
    except ValueError as error:
        found = (type(error), error, error.__traceback__)
    record = logging.LogRecord("a", logging.ERROR, "f", 1, "held\n: %s", ("\x1b[0m",), found)
    first, *trace = VisibleLines("%(levelname)s %(message)s").format(record).splitlines()
    assert first == r"ERROR held\n: \x1b[0m"
    assert trace[0].startswith("Traceback")
    assert "\x1b" not in "".join(trace)


def test_text_lines_of_the_server_are_visible_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("httpx2", reason="the extra `serve` is not installed")
    from srr_guard.serving.logs import configure

    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    configure("text")
    record = logging.makeLogRecord({"msg": "policy=%s", "args": ("a\nERROR b \x1b[2J",)})
    assert root.handlers[0].format(record).endswith(r"policy=a\nERROR b \x1b[2J")
