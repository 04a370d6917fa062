"""How long work tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives the progress of long work."""

    def __call__(self, stage: str, done: int, total: int, **figures: float) -> None:
        """Say that `done` of `total` steps of a stage are done, and what was measured then."""
        ...


def silent(stage: str, done: int, total: int, **figures: float) -> None:
    """A reporter that says nothing."""
