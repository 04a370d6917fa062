"""Tiny causal LMs with random weights, written to a folder in the Hugging Face layout.

They are built in well under a second and load like any reference LLM or chat model:

    from tiny import save_tiny_lm

    @pytest.fixture(scope="session")
    def tiny_folder(tmp_path_factory):
        return save_tiny_lm(tmp_path_factory.mktemp("llama"), family="llama")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

Family = Literal["llama", "gpt2", "qwen2", "gemma", "gemma2", "mistral", "bloom"]
FAMILIES: tuple[Family, ...] = ("llama", "gpt2", "qwen2", "gemma", "gemma2", "mistral", "bloom")

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def save_tiny_lm(
    folder: Path,
    *,
    family: Family = "llama",
    layers: int = 3,
    hidden: int = 32,
    context: int = 512,
    chat_template: str | None = CHAT_TEMPLATE,
    seed: int = 0,
) -> Path:
    """Write a model with random weights and a byte-level tokenizer.

    Args:
        folder: An empty folder.
        family: The architecture.
        layers: Decoder blocks.
        hidden: Width of the hidden states; a multiple of 8.
        context: Most tokens the model takes.
        chat_template: None leaves the tokenizer without one.
        seed: Seed of the weights; equal seeds give equal files.

    Returns:
        The folder.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    tokenizer = tiny_tokenizer(chat_template=chat_template)
    config = _config(
        family,
        layers=layers,
        hidden=hidden,
        context=context,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        auto: Any = AutoModelForCausalLM
        model = auto.from_config(config)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
    finally:
        if bars:
            logging.enable_progress_bar()
    tokenizer.save_pretrained(folder)
    return folder


def save_telling_lm(folder: Path, *, family: Family, layers: int, context: int) -> Path:
    """Write a model whose blocks say more than its embeddings: not one token over and over."""
    from safetensors.torch import load_file, save_file

    save_tiny_lm(folder, family=family, layers=layers, context=context)
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if weight.ndim == 2 and (".layers." in name or ".h." in name):
            weight.mul_(8.0)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def tiny_tokenizer(
    *,
    chat_template: str | None = CHAT_TEMPLATE,
    special: Sequence[str] = (),
    plain: Sequence[str] = (),
    merges: Sequence[tuple[str, str]] = (),
    bos: str = "<|im_start|>",
    eos: str = "<|im_end|>",
) -> Any:
    """A byte-level tokenizer: one token for each byte, and the three control tokens.

    Args:
        chat_template: None leaves it without one.
        special: More control tokens.
        plain: Added tokens that are not special, as `<think>` often is.
        merges: Pairs of tokens that are merged into one, in the byte-level alphabet.
        bos: The token at the beginning, one of the control tokens.
        eos: The token at the end, one of the control tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = dict.fromkeys([*CONTROL_TOKENS, *alphabet, *map("".join, merges)])
    vocabulary = {name: i for i, name in enumerate(names)}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(name, special=True) for name in (*CONTROL_TOKENS, *special)])
    bpe.add_tokens([AddedToken(name, special=False, normalized=False) for name in plain])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=bos,
        eos_token=eos,
        pad_token=eos,
        unk_token="<|endoftext|>",
    )
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return tokenizer


def _config(family: Family, *, layers: int, hidden: int, context: int, **tokens: Any) -> Any:
    if family == "gpt2":
        from transformers import GPT2Config

        return GPT2Config(
            n_layer=layers, n_embd=hidden, n_head=4, n_positions=context, n_inner=64, **tokens
        )
    if family == "bloom":
        from transformers import BloomConfig

        return BloomConfig(n_layer=layers, hidden_size=hidden, n_head=4, **tokens)
    import transformers

    kinds: Any = {
        "llama": transformers.LlamaConfig,
        "qwen2": transformers.Qwen2Config,
        "gemma": transformers.GemmaConfig,
        "gemma2": transformers.Gemma2Config,
        "mistral": transformers.MistralConfig,
    }
    own: dict[Family, dict[str, Any]] = {
        "gemma": {"head_dim": hidden // 4},
        "gemma2": {"head_dim": hidden // 4, "sliding_window": 24, "query_pre_attn_scalar": 8},
        "mistral": {"head_dim": hidden // 4, "sliding_window": 24},
    }
    return kinds[family](
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        **own.get(family, {}),
        **tokens,
    )
