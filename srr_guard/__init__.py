"""Guardrail middleware for LLM applications.

Sample several answers, rank them by safety with the hidden states of a local reference LLM
and a trained scorer, pass the best one on. Names are resolved on first use: importing this
package loads neither torch nor transformers nor LangChain's runnables.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srr_guard.conversation import Conversation, Turn
    from srr_guard.core import Guard
    from srr_guard.decision import (
        Candidate,
        Decision,
        Ranking,
        ScoredCandidate,
        Timings,
        Totals,
    )
    from srr_guard.errors import (
        AllCandidatesFailedError,
        BelowThresholdError,
        IncompatibleScorerError,
        InvalidInputError,
        SRRGuardError,
    )
    from srr_guard.local.chat_model import LocalChatModel
    from srr_guard.policy import DecisionPolicy, SamplingPolicy
    from srr_guard.protocols import ResponseScorer
    from srr_guard.scorer import SRRScorer
    from srr_guard.wrappers.chat_model import SafetyRankedChatModel
    from srr_guard.wrappers.decorator import srr_guard
    from srr_guard.wrappers.ranker import SafetyRanker

__version__ = "0.1.0"

_MODULE_OF = {
    "AllCandidatesFailedError": "errors",
    "BelowThresholdError": "errors",
    "Candidate": "decision",
    "Conversation": "conversation",
    "Decision": "decision",
    "DecisionPolicy": "policy",
    "Guard": "core",
    "IncompatibleScorerError": "errors",
    "InvalidInputError": "errors",
    "LocalChatModel": "local.chat_model",
    "Ranking": "decision",
    "ResponseScorer": "protocols",
    "SRRGuardError": "errors",
    "SRRScorer": "scorer",
    "SafetyRankedChatModel": "wrappers.chat_model",
    "SafetyRanker": "wrappers.ranker",
    "SamplingPolicy": "policy",
    "ScoredCandidate": "decision",
    "Timings": "decision",
    "Totals": "decision",
    "Turn": "conversation",
    "srr_guard": "wrappers.decorator",
}

__all__ = [
    "AllCandidatesFailedError",
    "BelowThresholdError",
    "Candidate",
    "Conversation",
    "Decision",
    "DecisionPolicy",
    "Guard",
    "IncompatibleScorerError",
    "InvalidInputError",
    "LocalChatModel",
    "Ranking",
    "ResponseScorer",
    "SRRGuardError",
    "SRRScorer",
    "SafetyRankedChatModel",
    "SafetyRanker",
    "SamplingPolicy",
    "ScoredCandidate",
    "Timings",
    "Totals",
    "Turn",
    "srr_guard",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
