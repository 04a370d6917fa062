from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import Family, save_tiny_lm

from srr_guard.reference import ReferenceLLM
from srr_guard.reference.cache.partial import Window
from srr_guard.reference.cache.prefixes import Prefix
from srr_guard.reference.encoding import backbone as module
from srr_guard.reference.encoding.backbone import Backbone
from srr_guard.reference.encoding.packed import Part
from srr_guard.reference.template import PromptIds
from srr_guard.reference.weights import load_blocks

PROMPT = PromptIds(ids=list(range(5, 40)), request=range(10, 30))
WINDOWS = [list(range(40, 40 + n)) for n in (1, 20, 33)]


def backbone(folder: Path, dtype: torch.dtype = torch.float32) -> Backbone:
    model, _ = load_blocks(folder, depth=None, device=torch.device("cpu"), dtype=dtype)
    return Backbone(model, name="tiny")


def encoded(backbone: Backbone, prefix: Prefix | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    part = Part(prefix or Prefix(PROMPT), [Window(ids) for ids in WINDOWS])
    with torch.inference_mode():
        return backbone.encode([part], (1, 3), batch_tokens=1000)


@pytest.fixture(params=["llama", "qwen2", "mistral"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    family: Family = request.param
    return save_tiny_lm(tmp_path, family=family)


def test_fused_blocks_give_the_states_of_their_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = backbone(folder)
    monkeypatch.setattr(module, "fuse", lambda *_: False)
    packed = backbone(folder)
    monkeypatch.setattr(Backbone, "_speed_up", lambda *_: None)
    plain = backbone(folder)
    assert [b.backend for b in (fused, packed, plain)] == ["fused", "packed", "plain"]
    expected = encoded(plain)
    for other in (fused, packed):
        for a, b in zip(encoded(other), expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_row_after_a_longer_one_reads_nothing_of_it(folder: Path) -> None:
    fused = backbone(folder)
    first = encoded(fused)
    prefix = Prefix(PromptIds(ids=list(range(200)), request=range(1, 100)))
    encoded(fused, prefix)
    for a, b in zip(encoded(fused), first, strict=True):
        assert torch.equal(a, b)


def test_bfloat16_is_close(folder: Path) -> None:
    rough, exact = backbone(folder, torch.bfloat16), backbone(folder)
    assert rough.backend == "fused"
    for a, b in zip(encoded(rough), encoded(exact), strict=True):
        assert (a - b).norm() < 0.03 * b.norm()


def test_weights_of_a_block_are_views_of_the_fused_ones(folder: Path) -> None:
    block = backbone(folder).layers[0]
    attention, mlp = block.self_attn, block.mlp
    for linears in (
        (attention.q_proj, attention.k_proj, attention.v_proj),
        (mlp.gate_proj, mlp.up_proj),
    ):
        assert len({linear.weight.untyped_storage().data_ptr() for linear in linears}) == 1


def test_what_gives_other_states_is_not_used(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="srr_guard")
    expected = encoded(backbone(tiny_folder))
    monkeypatch.setattr(
        "srr_guard.reference.encoding.fused._rotate", lambda *_a, out, **_k: out.zero_()
    )
    other = backbone(tiny_folder)
    assert other.backend == "packed"
    assert "cannot be used fused" in caplog.text
    for a, b in zip(encoded(other), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_blocks_with_other_parts_are_left_alone(tmp_path: Path) -> None:
    llm = ReferenceLLM.load(save_tiny_lm(tmp_path, family="gemma2"))
    assert llm.backend == "packed"
    assert all("forward" not in vars(block) for block in llm.backbone.layers)
