"""Decoding by a model's own forward pass and cache, for any causal LM of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from srr_guard.local.decoding.prefill import prefill, reading, stream_of
from srr_guard.local.decoding.tracks import Batch, Track, groups
from srr_guard.reference.weights import decoder_blocks

if TYPE_CHECKING:
    from torch import Tensor

    from srr_guard.reference.cache.states import StateRecorder


class CachedDecoder:
    """Runs batches with `DynamicCache`: one pass a step for the tracks of each prompt.

    Args:
        model: The causal LM.

    Raises:
        ReferenceLoadError: It has no list of decoder blocks.
    """

    name = "cached"
    reach: int | None = None

    def __init__(self, model: Any) -> None:
        self.model = model
        self.layers = decoder_blocks(model)

    def begin(self, batch: Batch) -> CachedRun:
        """Read the prompts."""
        return CachedRun(self, batch)


class CachedRun:
    """A batch under way."""

    def __init__(self, decoder: CachedDecoder, batch: Batch) -> None:
        self._decoder = decoder
        self._prompts = batch.prompts
        self._tracks = list(batch.tracks)
        self._caches: list[Any] = []
        for index, first, end in groups(batch.tracks):
            prompt = batch.prompts[index]
            cache = prefill(decoder.model, decoder.layers, prompt, pause=batch.pause)
            if cache.get_seq_length():
                cache.batch_repeat_interleave(end - first)
            self._caches.append(cache)

    def keep(self, tracks: Sequence[int]) -> None:
        """Go on with these tracks only."""
        import torch

        caches = []
        for cache, (_, first, end) in zip(self._caches, groups(self._tracks), strict=True):
            kept = [i - first for i in tracks if first <= i < end]
            if kept:
                if kept != list(range(end - first)):
                    cache.batch_select_indices(
                        torch.tensor(kept, device=self._decoder.model.device)
                    )
                caches.append(cache)
        self._caches = caches
        self._tracks = [self._tracks[i] for i in tracks]

    def step(self, tokens: Sequence[int], wanted: Sequence[int]) -> Tensor:
        """Feed one token to each track; on the first call the last of its prompt."""
        import torch

        model, found = self._decoder.model, []
        layers = self._decoder.layers
        for cache, (index, first, end) in zip(self._caches, groups(self._tracks), strict=True):
            ids = torch.tensor(tokens[first:end], device=model.device)[:, None]
            recorder = self._prompts[index].recorder
            with ExitStack() as hooks:
                hooks.enter_context(_steered(layers, self._tracks[first:end]))
                if recorder is not None:
                    hooks.enter_context(reading(layers, recorder.depths, _taker(recorder)))
                out = model(input_ids=ids, past_key_values=cache, use_cache=True)
            found.append(out.logits[:, -1])
        return torch.cat(found)[list(wanted)].float()


def _taker(recorder: StateRecorder) -> Callable[[int, Tensor], None]:
    return lambda depth, states: recorder.read(depth, states[:, -1])


@contextmanager
def _steered(layers: Any, tracks: Sequence[Track]) -> Iterator[None]:
    """Add the steering vectors of these tracks to the outputs of blocks, within the block."""
    import torch

    handles = []
    try:
        for steering in {id(t.steering): t.steering for t in tracks if t.steering}.values():
            strengths = torch.tensor([t.strength * (t.steering is steering) for t in tracks])
            for k, vector in steering.vectors.items():
                handles.append(layers[k].register_forward_hook(partial(_add, strengths, vector)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add(strengths: Tensor, vector: Tensor, _module: Any, _args: Any, output: Any) -> Any:
    """A block's output, each row moved along the vector."""
    stream = stream_of(output)
    moved = stream + strengths.to(stream)[:, None, None] * vector.to(stream)
    return (moved, *output[1:]) if isinstance(output, tuple) else moved
