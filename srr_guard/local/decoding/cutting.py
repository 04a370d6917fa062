"""Cuts rows off whose beginning already scores too low (after STAR-DSS, arXiv 2505.17196)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srr_guard.core.cutting import LOW_CHECKS

if TYPE_CHECKING:
    from srr_guard.local.decoding.rows import Row
    from srr_guard.scorer.running import EarlyCut

FIRST_CHECK = 24
"""Tokens of a row before its first check."""

BETWEEN_CHECKS = 16
"""Tokens between two checks."""


class PrefixWatch:
    """Judges one row by the running mean of its states, as far as a scorer's window reaches.

    Args:
        cut: The floor, and who scores.
    """

    def __init__(self, cut: EarlyCut) -> None:
        self._cut = cut
        self._next = FIRST_CHECK
        self._low = 0

    def __call__(self, row: Row) -> bool:
        """True if the row is to be cut off; all of its tokens were read."""
        size = len(row.ids)
        if size < self._next or size > self._cut.window or row.recorder is None:
            return False
        self._next = size + BETWEEN_CHECKS
        p_safe = self._cut.p_safe(row.recorder.running(row, self._cut.depths))
        self._low = self._low + 1 if p_safe < self._cut.below else 0
        return self._low >= LOW_CHECKS
