"""What a run keeps, so that it can be decided again: answers, rankings and the gate's reading.

The three stand in a `Guard` where model, scorer and gate stand; the guard decides.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from srr_guard.conversation import Conversation
from srr_guard.decision import PromptAssessment, Ranking
from srr_guard.errors import SamplingError
from srr_guard.protocols import PromptGate, ResponseScorer
from srr_guard.threads import blocking_calls

logger = logging.getLogger("srr_guard.playground")


class KeptAnswers:
    """The answers of a run, by candidate; a `PlannedSource` for the guard.

    Args:
        kinds: Kind of each candidate's recipe; None: none was at work.
        answers: Those there are from the start.

    Attributes:
        made: The answers, or why there is none.
    """

    local = True
    batches = False
    skipped: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        kinds: Callable[[int], str | None] = lambda _: None,
        answers: Sequence[Any] = (),
    ) -> None:
        self._kinds = kinds
        self.made: dict[int, Any] = dict(enumerate(answers))

    def jobs(self, indices: Sequence[int]) -> list[Sequence[int]]:
        """Each in a call of its own, so that it shows when it is there."""
        return [[i] for i in indices]

    def recipe(self, index: int) -> Any:
        """Kind of the recipe that a candidate is made by."""
        return self._kinds(index)

    def by_gate(self) -> KeptAnswers:
        """The same: the gate has no plan here."""
        return self

    def sample(self, indices: Sequence[int]) -> Sequence[Any]:
        """Give kept answers.

        Raises:
            SamplingError: There is none.
        """
        found = self.made.get(indices[0], SamplingError("it was not sampled"))
        if isinstance(found, Exception):
            raise found
        return [found]

    async def asample(self, indices: Sequence[int]) -> Sequence[Any]:
        """Like `sample`."""
        return self.sample(indices)


class LiveAnswers(KeptAnswers):
    """Kept answers; those that are missing are made.

    Args:
        kept: What there is, and where more is put.
        make: Makes a candidate.
        told: Told of each that is new, made or failed.
    """

    def __init__(
        self,
        kept: KeptAnswers,
        make: Callable[[int], Awaitable[Any]],
        told: Callable[[int], None],
    ) -> None:
        super().__init__(kinds=kept.recipe)
        self.made = kept.made
        self._make = make
        self._told = told

    async def asample(self, indices: Sequence[int]) -> Sequence[Any]:
        """Give a kept answer, or make it. A failure is kept too."""
        index = indices[0]
        if index not in self.made:
            try:
                self.made[index] = await self._make(index)
            except Exception as error:
                logger.warning("answer %d failed", index + 1, exc_info=error)
                self.made[index] = error
            self._told(index)
        return self.sample(indices)


class KeptScores:
    """A scorer that scores each list of candidates once, and keeps the rankings.

    Also the gate, where the scorer is one. A failure is not kept.

    Args:
        scorer: Scores what is new.
        conversation: What was asked.

    Attributes:
        rankings: By the list of texts.
        assessment: What the gate said; None: it was not asked, or cannot be.
    """

    def __init__(self, scorer: ResponseScorer, conversation: Conversation) -> None:
        self._scorer = scorer
        self._conversation = conversation
        self.rankings: dict[tuple[str, ...], Ranking] = {}
        self.assessment: PromptAssessment | None = None

    @property
    def assesses(self) -> bool:
        """True if the scorer is a prompt gate too."""
        return isinstance(self._scorer, PromptGate)

    @property
    def explains(self) -> bool:
        """True if the scorer takes its scores apart."""
        return hasattr(self._scorer, "explain")

    def score(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Rank candidates."""
        key = tuple(candidates)
        if key not in self.rankings:
            self.rankings[key] = self._scorer.score(self._conversation, list(candidates))
        return self.rankings[key]

    async def ascore(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Like `score`, without blocking the event loop."""
        key = tuple(candidates)
        if key not in self.rankings:
            found = await self._scorer.ascore(self._conversation, list(candidates))
            self.rankings[key] = found
        return self.rankings[key]

    def assess(self, conversation: Any) -> PromptAssessment:
        """Assess the prompt."""
        if self.assessment is None:
            assert isinstance(self._scorer, PromptGate)
            self.assessment = self._scorer.assess(self._conversation)
        return self.assessment

    async def aassess(self, conversation: Any) -> PromptAssessment:
        """Like `assess`, without blocking the event loop."""
        if self.assessment is None:
            assert isinstance(self._scorer, PromptGate)
            self.assessment = await self._scorer.aassess(self._conversation)
        return self.assessment

    async def explain(self, text: str) -> Any:
        """Take the score of one answer apart."""
        scorer: Any = self._scorer
        return await blocking_calls.run(scorer.explain, self._conversation, text)
