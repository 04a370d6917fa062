"""Ranks a file in a process of its own, and kills it in the middle."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

_RANKING = """
import asyncio, sys
from pathlib import Path
from srr_guard.bulk import rank_file
from srr_guard.testing import FakeScorer

class Stuck(FakeScorer):
    asked = 0

    async def ascore(self, conversation, candidates):
        self.asked += 1
        if self.asked > int(sys.argv[3]):
            await asyncio.Event().wait()
        return await super().ascore(conversation, candidates)

rank_file(Path(sys.argv[1]), Path(sys.argv[2]), scorer=Stuck(lambda p, a: 0.9), at_once=4)
"""


def rank_and_kill(source: Path, output: Path, *, grows: Path, ranked: int) -> None:
    """Kill a ranking that comes to a halt after some rows.

    Args:
        source: What is ranked.
        output: Where to.
        grows: The file that the rows are written to; the kill waits until it has grown.
        ranked: Rows after which the scorer answers no more.
    """
    before = grows.stat().st_size if grows.exists() else 0
    command = [sys.executable, "-c", _RANKING, str(source), str(output), str(ranked)]
    child = subprocess.Popen(command)
    while not grows.exists() or grows.stat().st_size <= before:
        assert child.poll() is None, "it ended by itself"
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
