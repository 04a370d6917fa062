"""Every example in the README and in the docstrings of the model's side runs."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
MODULES = [
    "srr_guard.reference.model",
    "srr_guard.scorer.bundle",
    "srr_guard.training.calibration",
    "srr_guard.scorer.config",
    "srr_guard.scorer.head",
    "srr_guard.training.fit.loss",
    "srr_guard.scorer.srr_scorer",
    "srr_guard.training.run",
    "srr_guard.training.evaluation.ngrams",
    "srr_guard.training.evaluation.policies",
    "srr_guard.training.evaluation.report",
]


@pytest.mark.model
@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    results = doctest.testmod(module, optionflags=flags)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.model
def test_the_readme_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
