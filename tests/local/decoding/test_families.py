"""Greedy ids equal those of `generate`, whatever the architecture and the way it is decoded."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import transformers

from srr_guard.local.decoding.cached import CachedDecoder
from srr_guard.local.decoding.choice import decoders
from srr_guard.local.decoding.rows import Layout, Row, decode
from srr_guard.local.decoding.sampling import Draw
from srr_guard.local.decoding.tracks import Batch, Prompt, Track
from srr_guard.local.decoding.transformers import generate

SHAPE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
GPT = {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
KINDS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "llama": ("LlamaConfig", SHAPE, ["fused"]),
    "llama_mha_bias": (
        "LlamaConfig",
        SHAPE | {"num_key_value_heads": 4, "vocab_size": 333},
        ["fused"],
    ),
    "llama_rope3": (
        "LlamaConfig",
        SHAPE
        | {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
        ["fused"],
    ),
    "llama_dynamic": (
        "LlamaConfig",
        SHAPE | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        ["cached"],
    ),
    "qwen2": ("Qwen2Config", SHAPE, ["fused"]),
    "qwen3": ("Qwen3Config", SHAPE | {"head_dim": 8}, ["cached"]),
    "mistral": ("MistralConfig", SHAPE | {"sliding_window": 24}, ["fused", "cached"]),
    "gemma": ("GemmaConfig", SHAPE | {"head_dim": 8}, ["cached"]),
    "gemma2": (
        "Gemma2Config",
        SHAPE | {"head_dim": 8, "sliding_window": 24, "query_pre_attn_scalar": 8},
        ["cached"],
    ),
    "gemma3": (
        "Gemma3TextConfig",
        SHAPE | {"head_dim": 8, "sliding_window": 24, "query_pre_attn_scalar": 8},
        ["cached"],
    ),
    "phi3": ("Phi3Config", SHAPE, ["cached"]),
    "granite": (
        "GraniteConfig",
        SHAPE | {"residual_multiplier": 0.5, "embedding_multiplier": 3.0, "logits_scaling": 2.0},
        ["cached"],
    ),
    "cohere": ("CohereConfig", SHAPE, ["cached"]),
    "olmo2": ("Olmo2Config", SHAPE, ["cached"]),
    "gpt2": ("GPT2Config", GPT | {"n_embd": 32, "n_layer": 3, "n_head": 4}, ["cached"]),
    "gpt_neox": ("GPTNeoXConfig", SHAPE, ["cached"]),
    "bloom": ("BloomConfig", GPT | {"hidden_size": 32, "n_layer": 3, "n_head": 4}, ["cached"]),
    "mixtral": ("MixtralConfig", SHAPE | MOE, ["cached"]),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        SHAPE | MOE | {"moe_intermediate_size": 16, "head_dim": 8},
        ["cached"],
    ),
    "mamba": (
        "MambaConfig",
        {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        [],
    ),
}
LENGTH = 40


def tiny(kind: str) -> Any:
    name, options, _ = KINDS[kind]
    config = getattr(transformers, name)(**options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data.mul_(3.0)  # livelier than at birth: not one token over and over
    return model.eval().requires_grad_(False)


def rows(count: int, *, temperature: float = 0.0) -> list[Row]:
    return [
        Row(
            [Track(0)],
            Draw(temperature, 0.95, random.Random(i)),
            limit=LENGTH,
            ends=frozenset(),
            stopped=lambda _: False,
            cancelled=lambda: False,
        )
        for i in range(count)
    ]


def run(decoder: Any, prompt: list[int], asked: list[Row]) -> list[list[int]]:
    layout = Layout(asked)
    batch = Batch(prompts=[Prompt(prompt)], tracks=layout.tracks, room=LENGTH)

    def nothing(*_: object) -> None:
        pass

    with torch.inference_mode():
        first = [prompt[-1]] * len(batch.tracks)
        decode(decoder.begin(batch), layout, first, after_step=nothing, on_done=nothing)
    return [row.ids for row in asked]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_ids_are_those_of_generate(kind: str) -> None:
    model = tiny(kind)
    prompt = [(7 * i) % 290 + 5 for i in range(12)]
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=LENGTH,
            min_new_tokens=LENGTH,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    expected = out[0, len(prompt) :].tolist()
    assert len(set(expected)) > 3
    found = decoders(model, name=kind)
    assert [decoder.name for decoder in found] == KINDS[kind][2]
    if found and found[-1].name == "fused":
        found.append(CachedDecoder(model))
    for decoder in found:
        if decoder.reach is None:
            assert run(decoder, prompt, rows(1)) == [expected]
        else:
            assert (kind, decoder.reach) == ("mistral", 24)
    last = rows(2)
    with torch.inference_mode():
        generate(model, prompt, last, after_step=lambda: None, on_done=lambda _: None)
    assert [row.ids for row in last] == [expected, expected]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3", "gpt2"])
def test_a_row_depends_on_its_seed_alone(kind: str) -> None:
    decoder = decoders(tiny(kind), name=kind)[0]
    prompt = list(range(5, 20))
    many = run(decoder, prompt, rows(8, temperature=1.0))
    assert len(set(map(tuple, many))) == 8
    for i in (0, 5):
        assert run(decoder, prompt, [rows(8, temperature=1.0)[i]]) == [many[i]]
    assert run(decoder, prompt, rows(8, temperature=1.0)[::-1]) == many[::-1]
