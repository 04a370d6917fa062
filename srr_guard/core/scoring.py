"""Has candidates scored and prompts assessed, in time; loads the shipped scorer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from typing import Any, NoReturn, TypeVar, cast

from srr_guard.conversation import Conversation
from srr_guard.decision import PromptAssessment, Ranking
from srr_guard.errors import ScoringError
from srr_guard.protocols import (
    PromptGate,
    ReadAhead,
    ResponseScorer,
    SupportsEarlyCut,
    SupportsReadAhead,
)
from srr_guard.threads import abandon, blocking_calls, workers

T = TypeVar("T")


class TimedScorer:
    """A scorer and a prompt gate with a time limit.

    Args:
        scorer: Ranks candidates; None: the shipped one, loaded on first use.
        timeout: Seconds one call may take, loading included; None: no limit.
        gate: Assesses prompts; None: the scorer does.
    """

    def __init__(
        self,
        scorer: ResponseScorer | None,
        *,
        timeout: float | None,
        gate: PromptGate | None = None,
    ) -> None:
        self._scorer = scorer
        self._timeout = timeout
        self._gate = gate
        self._loading = threading.Lock()

    def score(self, conversation: Conversation, texts: list[str]) -> Ranking:
        """Score texts on a thread that can be given up on.

        Raises:
            ScoringError: It takes too long.
        """
        return self._within(lambda: self._load().score(conversation, texts))

    async def ascore(self, conversation: Conversation, texts: list[str]) -> Ranking:
        """Like `score`, as a task."""

        async def score() -> Ranking:
            return await (await self._aload()).ascore(conversation, texts)

        return await self._awithin(score())

    def assess(self, conversation: Conversation) -> PromptAssessment:
        """Assess a prompt on a thread that can be given up on.

        Raises:
            ScoringError: It takes too long, or gives something else.
        """
        found = self._within(lambda: self._assessor().assess(conversation))
        return _require_assessment(found)

    async def aassess(self, conversation: Conversation) -> PromptAssessment:
        """Like `assess`, as a task."""

        async def assess() -> PromptAssessment:
            if self._gate is None:
                await self._aload()
            return await self._assessor().aassess(conversation)

        return _require_assessment(await self._awithin(assess()))

    def _assessor(self) -> PromptGate:
        return self._gate if self._gate is not None else cast("PromptGate", self._load())

    def _within(self, work: Callable[[], T]) -> T:
        call = workers.submit(work)
        try:
            done, _ = wait([call], timeout=self._timeout)
            return call.result() if done else self._too_slow()
        except asyncio.CancelledError as error:
            raise _cancelled() from error
        finally:
            workers.release(call)

    async def _awithin(self, work: Coroutine[Any, Any, T]) -> T:
        call = asyncio.create_task(work)
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

    def early_cut(self, below: float) -> Any:
        """Make a floor for a local model's answers; the scorer must support it."""
        return cast("SupportsEarlyCut", self._load()).early_cut(below)

    async def _aload(self) -> ResponseScorer:
        scorer = self._scorer
        return scorer if scorer is not None else await blocking_calls.run(self._load)

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


def _require_assessment(found: object) -> PromptAssessment:
    if isinstance(found, PromptAssessment):
        return found
    raise ScoringError(
        f"the prompt gate returned {type(found).__name__!r}: return a PromptAssessment"
    )
