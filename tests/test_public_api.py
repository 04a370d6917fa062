"""The public surface is pinned, cheap to import, and its examples run."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys

import pytest

import srr_guard

EXPORTED = [
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

# Modules whose docstring examples need neither torch nor a model.
LIGHT = [
    "audit",
    "conversation",
    "core.guard",
    "decision",
    "errors",
    "observability",
    "policy",
    "testing",
    "wrappers.chat_model",
    "wrappers.decorator",
    "wrappers.ranker",
]


def test_exported_names_are_pinned():
    assert srr_guard.__all__ == EXPORTED
    assert set(srr_guard._MODULE_OF) == set(EXPORTED)


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_name_resolves(name):
    assert getattr(srr_guard, name).__name__ == name


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = srr_guard.nonsense
    assert set(EXPORTED) < set(dir(srr_guard))


def loaded_after(code: str) -> set[str]:
    script = f"import sys; {code}; print('\\n'.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(result.stdout.split())


def test_import_is_light():
    loaded = loaded_after("import srr_guard")
    assert loaded.isdisjoint({"torch", "transformers", "langchain_core.runnables", "pydantic"})


def test_decorating_needs_no_runnables():
    loaded = loaded_after("from srr_guard import Guard, srr_guard")
    assert loaded.isdisjoint({"torch", "transformers", "langchain_core.runnables.base"})


def test_wrapping_needs_no_torch():
    loaded = loaded_after("from srr_guard import SafetyRanker, srr_guard, testing")
    assert loaded.isdisjoint({"torch", "transformers"})


@pytest.mark.parametrize("name", LIGHT)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(f"srr_guard.{name}"))
    assert result.failed == 0
