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

    Each decodes a tiny batch of two prompts first, and drops tracks on the way; one whose logits
    are not those of the model's own forward pass is not used. After one that runs every batch
    no other is looked at.

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
            continue
        found.append(decoder)
        if decoder.reach is None:
            break
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
    run = decoder.begin(Batch(prompts=[Prompt(p) for p in prompts], tracks=tracks, room=4))
    got: list[list[Tensor]] = [[] for _ in rows]
    live = [0, 1, 2, 3]
    for step, kept in enumerate(([0, 1, 2, 3], [0, 1, 2, 3], [0, 2, 3], [2])):
        if kept != live:
            run.keep([live.index(i) for i in kept])
            live = kept
        logits = run.step([rows[i][-1] for i in live], list(range(len(live))))
        for i, found in zip(live, logits, strict=True):
            got[i].append(found)
            rows[i].append((ids[step] + 11 * i) % size)
    worst = 0.0
    for found_ones, row in zip(got, rows, strict=True):
        whole = model(input_ids=torch.tensor([row[:-1]], device=model.device), use_cache=False)
        expected = whole.logits[0, -len(found_ones) :].float()
        worst = max(worst, _distance(torch.stack(found_ones), expected))
    return worst if worst == worst else torch.inf


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())
