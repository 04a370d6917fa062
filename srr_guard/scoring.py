"""Scoring candidates: the protocol that rankers use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from srr_guard.decision import Ranking


@runtime_checkable
class ResponseScorer(Protocol):
    """Anything that ranks candidate answers to one conversation.

    `SRRScorer` does it with a local reference LLM, `srr_guard.testing.FakeScorer` with a
    function. Both methods are safe to call from several threads and tasks at once.
    """

    def score(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Rank candidates.

        Args:
            conversation: Anything that `Conversation.of` reads.
            candidates: At least one text.

        Raises:
            InvalidInputError: The conversation or a candidate cannot be read.
            ScorerError: The scorer cannot be loaded or its numbers cannot be used.
        """
        ...

    async def ascore(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Like `score`, without blocking the event loop."""
        ...
