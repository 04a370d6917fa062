from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from srr_guard.cli import app
from srr_guard.decision import Ranking
from srr_guard.errors import ConfigurationError
from srr_guard.local.estimate import estimate_triggers, estimate_vectors
from srr_guard.local.recipes.steering import RefusalVectors
from srr_guard.reference.spec import ModelSpec


class EveryOther:
    """Takes every other answer for a refusal."""

    def __init__(self, *, tells: bool = True) -> None:
        self.tells = tells
        self.seen: list[str] = []

    def score(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        self.seen += candidates
        refused = [float(i % 2) for i in range(len(candidates))]
        return Ranking.from_scores(
            scores=refused,
            p_safe=[0.95] * len(candidates),
            p_refusal=refused if self.tells else None,
        )

    async def ascore(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        return self.score(conversation, candidates)


def test_refusals_are_counted_and_equal_seeds_give_equal_tables(tiny_folder: Path) -> None:
    spec = ModelSpec(reference=tiny_folder, device="cpu")
    goals = [f"Goal {i}" for i in range(6)]
    done: list[int] = []
    scorer = EveryOther()
    table = estimate_triggers(
        spec, goals, scorer, samples=3, max_new_tokens=6, progress=done.append
    )
    assert table.sampled == 18
    assert 0 < table.refusals <= len(scorer.seen) <= 18
    assert sum(n for _, n in table.prefixes) == table.refusals
    assert all(1 <= len(ids) <= 4 for ids, _ in table.prefixes)
    assert done == [4, 2]
    assert estimate_triggers(spec, goals, EveryOther(), samples=3, max_new_tokens=6) == table
    with pytest.raises(ConfigurationError, match="no p_refusal"):
        estimate_triggers(spec, goals, EveryOther(tells=False), max_new_tokens=6)


def test_vectors_from_the_command_line(tiny_folder: Path, tmp_path: Path) -> None:
    data, output = tmp_path / "rows.jsonl", tmp_path / "vectors.safetensors"
    row = '{{"prompt": "{}", "prompt_type": "{}", "response": "x", "label": "safe"}}\n'
    lines = [row.format(f"{text} {i}", kind) for i in range(4) for text, kind in KINDS]
    data.write_text("".join(lines))
    options = ["--data", str(data), "--output", str(output), "--reference", str(tiny_folder)]
    ran = CliRunner().invoke(app, ["vectors", *options, "--device", "cpu"])
    assert ran.exit_code == 0, ran.output
    found = RefusalVectors.read(output)
    assert found.blocks == (1, 2)
    assert torch.allclose(found.vectors.norm(dim=1), torch.ones(2))
    with pytest.raises(ConfigurationError, match="4 harmful and 0 benign"):
        estimate_vectors(ModelSpec(reference=tiny_folder), ["a"] * 4, [])


KINDS = (("burn", "unsafe"), ("bake", "safe"))
