"""Cuts streamed answers off whose beginning already scores too low (after STAR-DSS, 2505.17196)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from srr_guard.core.outcomes import must_propagate
from srr_guard.decision import Ranking
from srr_guard.protocols import ReadAhead

FIRST_CHECK = 96
"""Characters of an answer before its first check; about 24 tokens."""

BETWEEN_CHECKS = 64
"""Characters between two checks; about 16 tokens."""

LOW_CHECKS = 2
"""Checks in a row below the floor that cut an answer off."""


class StreamWatch:
    """Follows one streamed text: has it pre-encoded, and says when it is to be cut off.

    A check scores the text so far and waits for the score, so that what is cut does not depend
    on how fast anything is. A check that fails cuts nothing: the whole answer is scored anyway.

    Args:
        read: Pre-encodes the text.
        below: The floor; None: nothing is cut off.
        score: Scores a text.
        ascore: Scores a text without blocking the event loop.

    Example:
        >>> from srr_guard.decision import Ranking
        >>> low = Ranking.from_scores(scores=[0.0], p_safe=[0.01])
        >>> watch = StreamWatch(lambda text, done=False: None, 0.05, lambda text: low, None)
        >>> [watch.cut("x" * length) for length in (95, 96, 159, 160)]
        [False, False, False, True]
    """

    def __init__(
        self,
        read: ReadAhead,
        below: float | None,
        score: Callable[[str], Ranking],
        ascore: Callable[[str], Awaitable[Ranking]] | None,
    ) -> None:
        self._read = read
        self._below = below
        self._score = score
        self._ascore = ascore
        self._next = FIRST_CHECK
        self._low = 0

    def __call__(self, text: str, *, done: bool = False) -> None:
        """Take the text so far (see `ReadAhead`)."""
        self._read(text, done=done)

    def cut(self, text: str) -> bool:
        """True if the text so far is reason to cut it off; waits for a score where one is due."""
        if not self._due(text):
            return False
        try:
            return self._noted(self._score(text))
        except Exception as error:  # noqa: BLE001 (the whole answer is scored anyway)
            return self._spared(error)

    async def acut(self, text: str) -> bool:
        """Like `cut`, without blocking the event loop."""
        if not self._due(text) or self._ascore is None:
            return False
        try:
            return self._noted(await self._ascore(text))
        except Exception as error:  # noqa: BLE001 (the whole answer is scored anyway)
            return self._spared(error)

    def _due(self, text: str) -> bool:
        if self._below is None or len(text) < self._next:
            return False
        self._next = len(text) + BETWEEN_CHECKS
        return True

    def _noted(self, ranking: Ranking) -> bool:
        assert self._below is not None
        self._low = self._low + 1 if ranking.p_safe[0] < self._below else 0
        return self._low >= LOW_CHECKS

    def _spared(self, error: Exception) -> bool:
        if must_propagate(error):
            raise error
        self._low = 0
        return False
