"""Has candidates scored: loads the shipped scorer, keeps the time limit, knows no candidates."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import wait
from typing import NoReturn, cast

from srr_guard.conversation import Conversation
from srr_guard.decision import Ranking
from srr_guard.errors import ScoringError
from srr_guard.protocols import ReadAhead, ResponseScorer, SupportsReadAhead
from srr_guard.threads import abandon, blocking_calls, workers


class TimedScorer:
    """A scorer with a time limit.

    Args:
        scorer: Does the work; None: the shipped one, loaded on first use.
        timeout: Seconds one call may take, loading included; None: no limit.
    """

    def __init__(self, scorer: ResponseScorer | None, *, timeout: float | None) -> None:
        self._scorer = scorer
        self._timeout = timeout
        self._loading = threading.Lock()

    def score(self, conversation: Conversation, texts: list[str]) -> Ranking:
        """Score texts on a thread that can be given up on.

        Raises:
            ScoringError: It takes too long.
        """
        call = workers.submit(lambda: self._load().score(conversation, texts))
        try:
            done, _ = wait([call], timeout=self._timeout)
            return call.result() if done else self._too_slow()
        except asyncio.CancelledError as error:
            raise _cancelled() from error
        finally:
            workers.release(call)

    async def ascore(self, conversation: Conversation, texts: list[str]) -> Ranking:
        """Like `score`, as a task."""

        async def score() -> Ranking:
            scorer = self._scorer
            if scorer is None:
                scorer = await blocking_calls.run(self._load)
            return await scorer.ascore(conversation, texts)

        call = asyncio.create_task(score())
        try:
            done, _ = await asyncio.wait([call], timeout=self._timeout)
            if call.cancelled():
                raise _cancelled()
            return call.result() if done else self._too_slow()
        finally:
            abandon(call)

    def read_ahead(self, conversation: Conversation) -> ReadAhead:
        """Start pre-encoding one streamed answer; the scorer must support it."""
        return cast("SupportsReadAhead", self._load()).read_ahead(conversation)

    def _load(self) -> ResponseScorer:
        if self._scorer is None:
            with self._loading:
                if self._scorer is None:
                    from srr_guard.scorer import SRRScorer

                    self._scorer = SRRScorer.from_pretrained()
        return self._scorer

    def _too_slow(self) -> NoReturn:
        raise ScoringError(
            f"scoring took longer than scoring_timeout={self._timeout} s: raise it, or give the "
            "scorer shorter texts or a faster device"
        )


def _cancelled() -> ScoringError:
    return ScoringError("scoring was cancelled from inside, not by its caller")
