"""The Python of docs/training.md and of the docstrings runs, here on a tiny random LM."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from rows import labelled, write_rows

from srr_guard.training import evaluate, train

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
DOCSTRINGS = "\n\n".join(inspect.getdoc(function) or "" for function in (train, evaluate))


@pytest.mark.parametrize("text", [PAGE.read_text(), DOCSTRINGS], ids=["page", "docstrings"])
def test_the_examples_run(
    text: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rows", "held-out", "test"):
        write_rows(tmp_path / f"{name}.jsonl", labelled(9))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SRR_GUARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SRR_GUARD_REFERENCE", str(tiny_folder))
    blocks = re.findall(r"```python\n(.*?)```", inspect.cleandoc(text), re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(inspect.cleandoc(block), "<example>", "exec"), names)
    assert (tmp_path / "my-scorer" / "model.safetensors").is_file()
    assert any("my-scorer" in methods for methods in names["report"].sets.values())  # type: ignore[attr-defined]
