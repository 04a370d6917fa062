"""A ranker around a scripted model, for tests: answers with "good" in them are safe."""

from __future__ import annotations

from langchain_core.tools import tool

from srr_guard import SafetyRanker, SamplingPolicy
from srr_guard.testing import FakeScorer, ScriptedChatModel

QUICK = {"backoff": 0.0}


def by_word(prompt: str, answer: str) -> float:
    return 0.9 if "good" in answer else 0.1


def ranker(*answers, model=None, n=2, scorer=None, **kwargs) -> SafetyRanker:
    return SafetyRanker(
        ScriptedChatModel(answers=list(answers)) if model is None else model,
        scorer=scorer or FakeScorer(by_word),
        **{"sampling": SamplingPolicy(n=n, **QUICK), **kwargs},
    )


def tool_called_search():
    @tool
    def search(query: str) -> str:
        """Search."""
        return f"found {query}"

    return search
