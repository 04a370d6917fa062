"""The public surface is pinned, cheap to import, and its examples run."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel

import srr_guard
import srr_guard.training
from srr_guard.scorer import BundleInfo, HeadConfig
from srr_guard.testing import ScriptedChatModel

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

TRAINING = ["Adaptation", "Report", "TrainingOptions", "adapt", "evaluate", "train", "tune"]

# Modules whose docstring examples need neither torch nor a model.
LIGHT = [
    "audit",
    "bulk",
    "conversation",
    "core.cutting",
    "core.guard",
    "core.observing",
    "decision",
    "errors",
    "observability",
    "playground.app",
    "policy",
    "reading",
    "recipes",
    "testing",
    "training.data.held_out",
    "training.data.hub_names",
    "training.data.loading",
    "training.data.recipes",
    "training.data.records",
    "training.data.taking",
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


def test_training_has_exported_names():
    assert srr_guard.training.__all__ == TRAINING
    assert dir(srr_guard.training) == srr_guard.training.__all__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = srr_guard.training.nonsense


@pytest.mark.local
@pytest.mark.parametrize("name", TRAINING)
def test_exported_name_of_training_resolves(name):
    assert getattr(srr_guard.training, name).__name__ == name


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


PUBLIC = [getattr(srr_guard, name) for name in EXPORTED]
MODELS = [cls for cls in PUBLIC if isinstance(cls, type) and issubclass(cls, BaseModel)]


@pytest.mark.parametrize("model", [*MODELS, ScriptedChatModel, HeadConfig, BundleInfo])
def test_no_public_field_is_any(model):
    """An editor knows what each field holds; fields that LangChain declares are its own."""
    own = [cls for cls in model.__mro__ if cls.__module__.startswith("srr_guard")]
    fields = {name for cls in own for name in vars(cls).get("__annotations__", {})}
    fields &= model.model_fields.keys()
    assert [name for name in sorted(fields) if model.model_fields[name].annotation is Any] == []
