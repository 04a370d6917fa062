"""The private names of transformers, held against the versions in use."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch
from tiny import save_tiny_lm

from srr_guard.reference import _private
from srr_guard.reference.weights import load_blocks


def test_versions_these_names_were_written_for() -> None:
    assert (5, 17) <= tuple(map(int, version("transformers").split(".")[:2])) < (6, 0)


def test_takes_own_attention(tmp_path: Path) -> None:
    for family, takes in (("llama", True), ("bloom", False)):
        folder = save_tiny_lm(tmp_path / family, family=family)  # type: ignore[arg-type]
        model, _ = load_blocks(folder, depth=None, device=torch.device("cpu"), dtype=torch.float32)
        assert _private.takes_own_attention(model) is takes


def test_attention_is_set_for_a_block_only(tiny_folder: Path) -> None:
    model, _ = load_blocks(tiny_folder, depth=None, device=torch.device("cpu"), dtype=torch.float32)
    config = model.config
    own = config._attn_implementation
    with _private.attention(model, "eager"):
        assert config._attn_implementation == "eager"
        assert model.layers[0].self_attn.config._attn_implementation == "eager"  # type: ignore[union-attr]
    assert config._attn_implementation == own
