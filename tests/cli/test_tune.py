"""`srr-guard tune` on written rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from srr_guard.cli import app
from srr_guard.testing import FakeScorer

ROW = {"prompt": "How do I boil an egg?", "prompt_type": "safe", "label": "safe"}


@pytest.mark.local
def test_the_options_reach_the_scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from srr_guard import SRRScorer

    loaded = []

    def from_pretrained(name, **options):
        loaded.append((name, options))
        return FakeScorer(lambda prompt, answer: len(answer) / 100)

    monkeypatch.setattr(SRRScorer, "from_pretrained", from_pretrained)
    data, file = tmp_path / "rows.jsonl", tmp_path / "policies.json"
    rows = [{**ROW, "response": "x" * length} for length in range(1, 60)]
    data.write_text("\n".join(json.dumps(row) for row in rows))
    named = ["--scorer", "mine", "--reference", "files", "--device", "cpu", "--dtype", "bfloat16"]
    result = CliRunner().invoke(
        app, ["tune", "--data", str(data), *named, "--output", str(file), "--json"]
    )
    assert result.exit_code == 0, result.output
    assert loaded == [
        ("mine", {"reference": "files", "device": "cpu", "dtype": "bfloat16"}),
    ]
    chosen = json.loads(result.stdout)["chosen"]["threshold"]
    assert json.loads(file.read_text())["decision"]["threshold"] == chosen == 0.02
