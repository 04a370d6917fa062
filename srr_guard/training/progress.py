"""Progress callbacks for long-running work."""

from __future__ import annotations


def silent(stage: str, done: int, total: int, **figures: float) -> None:
    """Report nothing (see `ProgressCallback`)."""
