"""Ctrl-C ends a command without a traceback, and keeps what was finished."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# The scorer says on standard error when it is asked, and then never answers.
STUCK = """
import asyncio, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
import srr_guard.scorer.srr_scorer as at
from srr_guard.testing import FakeScorer

class Stuck(FakeScorer):
    asked = 0

    def score(self, *_):
        print("STUCK", file=sys.stderr, flush=True)
        threading.Event().wait()

    async def ascore(self, *given):
        self.asked += 1
        if self.asked <= 2:
            return FakeScorer.score(self, *given)
        print("STUCK", file=sys.stderr, flush=True)
        await asyncio.Event().wait()

at.SRRScorer.from_pretrained = lambda *_, **__: Stuck(lambda *_: 0.9)
from srr_guard.cli import main
main()
"""

COMMANDS = {
    "score": ["score", "--prompt", "q", "--candidates", "rows.jsonl"],
    "rank": ["rank", "--input", "rows.jsonl", "--output", "out.jsonl", "--at-once", "1"],
    "tune": ["tune", "--data", "rows.jsonl"],
}


@pytest.mark.local
@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupted_command(name: str, tmp_path: Path) -> None:
    row = {"prompt": "q", "candidates": ["a"], "response": "a", "label": "safe"}
    (tmp_path / "rows.jsonl").write_text(4 * (json.dumps(row) + "\n"))
    child = subprocess.Popen(
        [sys.executable, "-c", STUCK, *COMMANDS[name]],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    said = ""
    while "STUCK" not in said:
        line = child.stderr.readline()
        assert line, said
        said += line
    child.send_signal(signal.SIGINT)
    output, errors = child.communicate()
    assert child.returncode == 130
    assert "Traceback" not in output + errors
    if name == "rank":
        assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
