"""Chooses how a model is decoded: the fastest way that gives its own logits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from srr_guard.local.decoding.cached import CachedDecoder
from srr_guard.local.decoding.fused import FusedDecoder
from srr_guard.local.decoding.tracks import Batch, Decoder, Prompt, Track

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger("srr_guard")


def decoders(model: Any, *, name: str) -> list[Decoder]:
    """Decoders that fit a model, the fastest first; none where only `generate` is left.

    Each decodes a tiny batch of two prompts first, and drops a track on the way; one whose
    logits are not those of the model's own forward pass is not used.

    Args:
        model: The causal LM.
        name: What the log calls it.
    """
    import torch

    found: list[Decoder] = []
    kinds: list[Callable[[Any], Decoder]] = [FusedDecoder, CachedDecoder]
    for kind in kinds:
        try:
            decoder = kind(model)
            with torch.inference_mode():
                error = _error(decoder, model)
            if error > (1e-3 if model.dtype == torch.float32 else 0.05):
                raise ValueError(f"its logits are off by {error:.1e}")
        except Exception as failure:  # noqa: BLE001 (whatever an architecture makes of it)
            _log.debug("%s: %s is not used: %s", name, kind, failure)
        else:
            found.append(decoder)
    _log.debug("%s is decoded by: %s", name, [d.name for d in found] or "generate")
    return found


def _error(decoder: Decoder, model: Any) -> float:
    """How far a decoder's logits are from the model's own, relative to these."""
    import torch

    size = min(int(model.config.get_text_config(decoder=True).vocab_size), 100)
    ids = [(7 * i) % size for i in range(1, 20)]
    prompts = [ids[:7], ids[5:9]]
    tracks = [Track(0), Track(0), Track(0), Track(1)]
    rows = [list(prompts[track.prompt]) for track in tracks]
    batch = Batch(prompts=[Prompt(p) for p in prompts], tracks=tracks, room=4)
    run = decoder.begin(batch)
    worst = 0.0
    for step in range(4):
        if step == 2:
            rows = [rows[0], rows[2], rows[3]]
            run.keep([0, 2, 3])
        if step == 3:
            rows = rows[1:2]
            run.keep([1])
        got = run.step([row[-1] for row in rows], list(range(len(rows))))
        expected = [_logits(model, row) for row in rows]
        worst = max(worst, *(_distance(a, b) for a, b in zip(got, expected, strict=True)))
        rows = [[*row, (ids[step] + 11 * i) % size] for i, row in enumerate(rows)]
    return worst if worst == worst else torch.inf


def _logits(model: Any, ids: list[int]) -> Tensor:
    import torch

    found: Tensor = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    logits: Tensor = found.logits[0, -1].float()  # type: ignore[attr-defined]
    return logits


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())
