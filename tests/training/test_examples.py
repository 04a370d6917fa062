"""The Python of the pages on training and of the docstrings runs, here on a tiny random LM."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from rows import labelled, write_rows

from srr_guard.training import evaluate, train

DOCS = Path(__file__).parents[2] / "docs"
TRAIN, EVALUATE = (inspect.getdoc(function) or "" for function in (train, evaluate))
TEXTS = {
    "training": (DOCS / "training.md").read_text(),
    "evaluation": f"{TRAIN}\n\n{(DOCS / 'evaluation.md').read_text()}",
    "docstrings": f"{TRAIN}\n\n{EVALUATE}",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_examples_run(
    text: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rows", "held-out", "test"):
        own = [{**row, "source": name} for row in labelled(9)]
        write_rows(tmp_path / f"{name}.jsonl", own)
    others = [{**row, "prompt": f"{row['prompt']} Soon."} for row in labelled(9)]
    write_rows(tmp_path / "train.jsonl", others)
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
