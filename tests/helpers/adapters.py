"""What the tests of all adapters share: a scorer that goes by a word, and who asked it what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from srr_guard import DecisionPolicy, Guard, SamplingPolicy
from srr_guard.testing import FakeScorer

REFUSAL = DecisionPolicy().refusal
STRICT = DecisionPolicy(below_threshold="raise")


def by_word(prompt: str, answer: str) -> float:
    """0.9 for what holds the word good, 0.1 for all else."""
    return 0.9 if "good" in answer else 0.1


class Asked(FakeScorer):
    """A scorer that goes by a word and keeps the conversations it was asked about."""

    def __init__(self, fn: Callable[[str, str], float] = by_word, **options: Any) -> None:
        super().__init__(fn, **options)
        self.conversations: list[Any] = []

    def score(self, conversation: Any, candidates: Any) -> Any:
        self.conversations.append(conversation)
        return super().score(conversation, candidates)

    async def ascore(self, conversation: Any, candidates: Any) -> Any:
        self.conversations.append(conversation)
        return await super().ascore(conversation, candidates)

    @property
    def turns(self) -> list[tuple[str, str]]:
        """The turns of the conversation it was asked about last."""
        return [(turn.role, turn.text) for turn in self.conversations[-1].turns]


def guard_by_word(n: int = 2, **settings: Any) -> Guard:
    """A guard that goes by a word; each candidate has one attempt."""
    settings.setdefault("scorer", FakeScorer(by_word))
    return Guard(sampling=SamplingPolicy(n=n, attempts=1), **settings)
