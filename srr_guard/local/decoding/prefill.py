"""Reads a prompt up to its last token, by the model's own forward pass, part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from srr_guard.local.decoding.tracks import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from srr_guard.reference.cache.states import StateRecorder

PART = 512
"""Most tokens of a prompt that are read in one pass; scoring passes get a turn in between."""


def prefill(
    model: Any,
    layers: Any,
    prompt: Prompt,
    *,
    pause: Callable[[], None] = lambda: None,
) -> Any:
    """Read all of a prompt but its last token, once for all tracks.

    Args:
        model: The causal LM; its head is not used.
        layers: Its decoder blocks.
        prompt: The prompt.
        pause: Called between parts.

    Returns:
        The cache with its keys and values; empty for a prompt of one token.
    """
    import torch
    from transformers import DynamicCache

    recorder = prompt.recorder
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    embed = model.get_input_embeddings()
    end = len(prompt.ids) - 1
    for start in range(0, end, PART):
        if start:
            pause()
        stop = min(start + PART, end)
        ids = torch.tensor([prompt.ids[start:stop]], device=model.device)
        fed = {"input_ids": ids}
        if prompt.vectors is not None:
            fed = {"inputs_embeds": _replaced(embed(ids), prompt, start, stop)}
        take = _reader(recorder, start)
        with reading(layers, recorder.depths if recorder else (), take):
            model.base_model(**fed, past_key_values=cache, use_cache=True)
    return cache


@contextmanager
def reading(
    layers: Any, depths: Sequence[int], take: Callable[[int, Tensor], None]
) -> Iterator[None]:
    """Hand the residual stream after these depths to `take`, within the block."""

    def hook(depth: int) -> Callable[[Any, Any, Any], None]:
        return lambda _module, _args, output: take(depth, stream_of(output))

    handles = [layers[k - 1].register_forward_hook(hook(k)) for k in depths]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def stream_of(output: Any) -> Tensor:
    """The residual stream (rows, tokens, d) in what a block returned."""
    stream: Tensor = output[0] if isinstance(output, tuple) else output
    return stream


def _reader(recorder: StateRecorder | None, start: int) -> Callable[[int, Tensor], None]:
    def take(depth: int, states: Tensor) -> None:
        assert recorder is not None
        recorder.read_prompt(depth, start, states[0])

    return take


def _replaced(embedded: Tensor, prompt: Prompt, start: int, stop: int) -> Tensor:
    """Embeddings of the prompt's tokens from start to stop, the vectors in their place."""
    assert prompt.vectors is not None
    begin, end = max(prompt.at, start), min(prompt.at + len(prompt.vectors), stop)
    embedded = embedded.clone()
    if begin < end:
        embedded[0, begin - start : end - start] = prompt.vectors[
            begin - prompt.at : end - prompt.at
        ]
    return embedded
