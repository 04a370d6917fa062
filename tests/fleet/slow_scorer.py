"""A scorer for the replicas: slow, and it notes in a file which process scored what."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from srr_guard.testing import FakeScorer


def number(prompt: str, answer: str) -> float:
    return int(answer.rsplit("-", 1)[-1]) / 1e4 if "-" in answer else 0.9


class Noting(FakeScorer):
    def __init__(self, file: Path, delay: float) -> None:
        super().__init__(number, delay=delay)
        self._file = file

    async def ascore(self, conversation: Any, candidates: Any) -> Any:
        ranking = await super().ascore(conversation, candidates)
        line = f"{os.getpid()} {candidates[0]}\n"
        with open(self._file, "a") as file:  # one write: lines of several processes do not mix
            file.write(line)
        return ranking
