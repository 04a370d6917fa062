from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FAMILIES, Family, save_tiny_lm

from srr_guard.conversation import Conversation
from srr_guard.errors import InvalidInputError
from srr_guard.reference import ReferenceLLM
from srr_guard.reference.encoding.request import cut
from srr_guard.reference.features import FeatureSpec
from srr_guard.reference.weights import pick_dtype

PROMPT = [("system", "Be kind."), ("user", "How do tides work?")]
CANDIDATES = ["The moon pulls.", "No.", "", "A longer answer about the sea " * 4]


def naive(
    folder: Path, llm: ReferenceLLM, candidate: str, depths: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """States of a whole model, prompt and candidate in one pass: prompt's end, candidate's."""
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = llm.template.prompt(Conversation.of(PROMPT), limit=400).ids
    ids = torch.tensor([prompt + llm.template.candidate_ids(candidate)])
    states: dict[int, torch.Tensor] = {}
    blocks = next(
        m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == llm.blocks
    )
    for k in depths:
        blocks[k - 1].register_forward_hook(
            lambda _m, _a, out, k=k: states.update(
                {k: (out[0] if isinstance(out, tuple) else out)[0]}
            )
        )
    with torch.inference_mode():
        model(input_ids=ids)
    stacked = torch.stack([states[k] for k in depths])
    return stacked[:, len(prompt) - 1], stacked[:, len(prompt) :]


WAYS = {
    "llama": "fused",
    "qwen2": "fused",
    "mistral": "fused",
    "gpt2": "packed",
    "gemma": "packed",
    "gemma2": "packed",
    "bloom": "plain",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_features_equal_the_naive_encoding(family: Family, tmp_path: Path) -> None:
    folder = save_tiny_lm(tmp_path, family=family, layers=4)
    llm = ReferenceLLM.load(folder, depth=3)
    assert (llm.depth, llm.blocks) == (3, 4)
    assert llm.backend == WAYS[family]
    features = llm.encode(PROMPT, CANDIDATES, depths=(1, 3))
    assert features.owner.tolist() == [0, 1, 2, 3]
    for i, text in enumerate(CANDIDATES):
        instruction, answer = naive(folder, llm, text, (1, 3))
        torch.testing.assert_close(features.instruction, instruction, atol=1e-4, rtol=1e-4)
        if text:
            torch.testing.assert_close(features.mean[i], answer.mean(1), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(features.last[i], answer[:, -1], atol=1e-4, rtol=1e-4)
        else:
            torch.testing.assert_close(features.mean[i], instruction, atol=1e-4, rtol=1e-4)


def test_the_head_and_later_blocks_are_not_loaded(tiny_folder: Path) -> None:
    llm = ReferenceLLM.load(tiny_folder, depth=2)
    names = [name for name, _ in llm.backbone._model.named_parameters()]
    assert not any("lm_head" in name or "layers.2" in name for name in names)


def test_long_candidates_become_overlapping_windows(tiny_llm: ReferenceLLM) -> None:
    text = "".join(chr(ord("a") + i % 26) for i in range(100))
    features = tiny_llm.encode("Hi", ["x", text], depths=(2,), window=40, overlap=10)
    assert features.owner.tolist() == [0, 1, 1, 1]
    assert features.lengths.tolist() == [1, 40, 40, 40]
    second = tiny_llm.encode("Hi", [text[30:70]], depths=(2,))
    torch.testing.assert_close(features.mean[2], second.mean[0], atol=1e-5, rtol=1e-5)


def test_every_character_of_a_long_candidate_is_in_a_window() -> None:
    for length in range(60):
        ids = list(range(length))
        windows, owner = cut([ids], size=10, overlap=3)
        assert sorted({i for w in windows for i in w}) == ids
        assert len(owner) == len(windows) >= 1
        assert all(a[-3:] == b[:3] for a, b in pairwise(windows))


def test_batches_do_not_change_features(tiny_llm: ReferenceLLM) -> None:
    texts = ["a" * n for n in (1, 30, 7, 90, 30)]
    together = tiny_llm.encode("Hi", texts, depths=(1, 4))
    apart = tiny_llm.encode("Hi", texts, depths=(1, 4), batch_tokens=1)
    torch.testing.assert_close(together.mean, apart.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.last, apart.last, atol=1e-5, rtol=1e-5)


def test_many_conversations_at_once_give_the_same_features(tiny_llm: ReferenceLLM) -> None:
    long = "".join(chr(ord("a") + i % 26) for i in range(100))
    requests = [
        ("Hi", ["x", long, ""]),
        (PROMPT, CANDIDATES),
        ("A much longer request " * 3, ["y"]),
    ]
    shape = {"depths": (1, 4), "window": 40, "overlap": 10}
    for batch_tokens in (1, 10_000):
        many = tiny_llm.encode_many(requests, FeatureSpec(**shape), batch_tokens=batch_tokens)
        for (talk, texts), features in zip(requests, many, strict=True):
            alone = tiny_llm.encode(talk, texts, **shape)
            assert features.owner.tolist() == alone.owner.tolist()
            assert features.lengths.tolist() == alone.lengths.tolist()
            for name in ("instruction", "request", "mean", "last"):
                got, expected = getattr(features, name), getattr(alone, name)
                torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_the_request_is_the_latest_turn(tiny_llm: ReferenceLLM) -> None:
    talk = [("user", "Hi"), ("assistant", "Hello"), ("user", "Why?")]
    prompt = tiny_llm.template.prompt(Conversation.of(talk), limit=500)
    span = prompt.ids[prompt.request.start : prompt.request.stop]
    assert span == tiny_llm.template.text_ids("Why?")
    before = tiny_llm.encode(
        [("user", "Hi"), ("assistant", "Hello"), ("user", "Why? ")], ["x"], depths=(1,)
    )
    after = tiny_llm.encode(talk, ["x"], depths=(1,))
    assert not torch.allclose(before.request, after.request)


def test_candidates_do_not_see_each_other(tiny_llm: ReferenceLLM) -> None:
    alone = tiny_llm.encode("Hi", ["my answer"], depths=(4,))
    among = tiny_llm.encode("Hi", ["other", "my answer", "a third one"], depths=(4,))
    torch.testing.assert_close(alone.mean[0], among.mean[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("depths", [(), (0,), (5,), (1, 9)])
def test_depths_that_are_not_loaded_are_named(
    tiny_llm: ReferenceLLM, depths: tuple[int, ...]
) -> None:
    with pytest.raises(InvalidInputError, match="loaded blocks"):
        tiny_llm.encode("Hi", ["x"], depths=depths)


def test_overlap_must_be_shorter_than_the_window(tiny_llm: ReferenceLLM) -> None:
    with pytest.raises(InvalidInputError, match="overlap"):
        tiny_llm.encode("Hi", ["x"], depths=(1,), window=8, overlap=8)


def test_a_depth_beyond_the_model_is_named(tiny_folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="1 to 4"):
        ReferenceLLM.load(tiny_folder, depth=5)


def test_auto_precision_is_float32_on_a_cpu() -> None:
    assert pick_dtype("auto", torch.device("cpu")) is torch.float32
    assert pick_dtype("bfloat16", torch.device("cpu")) is torch.bfloat16


@pytest.mark.model
def test_golden_values_of_the_feature_convention() -> None:
    """Depth k is the residual stream after block k; whoever changes that breaks bundles."""
    llm = ReferenceLLM.load(depth=16)
    assert (llm.name, llm.width, llm.blocks) == ("SmolLM2-135M-Instruct.Q4_1.gguf", 576, 30)
    f = llm.encode("How do tides work?", ["The moon pulls."], depths=(8, 16))
    # float32 on a CPU; the digests say of which files
    golden = [
        (f.instruction[0, :4], [2.399, 2.935, -3.077, 2.05]),
        (f.mean[0, 0, :4], [-3.294, -1.633, -1.924, -7.195]),
        (f.mean[0, 1, :4], [-3.875, -1.499, -3.917, -11.02]),
        (f.last[0, 1, :4], [4.171, -1.896, -1.426, -9.788]),
    ]
    assert llm.digest.startswith("b179c9523d0e6a0f")
    assert llm.template_digest == "28af7a6481325b10"
    for got, expected in golden:
        torch.testing.assert_close(got, torch.tensor(expected), atol=1e-2, rtol=1e-3)
