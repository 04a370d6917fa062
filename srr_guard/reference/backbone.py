"""The decoder that encodes: it finds the fastest way that gives the model's own states."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from srr_guard.reference.drafts import Window
from srr_guard.reference.fused import fuse, undo
from srr_guard.reference.packing import ATTENTION, Packing, Part, Stem, register
from srr_guard.reference.plain import encode_plainly
from srr_guard.reference.template import PromptIds
from srr_guard.reference.weights import decoder_blocks

if TYPE_CHECKING:
    from torch import Tensor, nn

Way = Literal["fused", "packed", "plain"]

_log = logging.getLogger("srr_guard")


class Backbone:
    """A decoder without LM head, as an encoder of packed parts; not safe for several threads.

    A tiny request is encoded in every way when it is made; one that gives other states than the
    model's own forward pass is not used.

    Args:
        model: The decoder, cut at depth.
        name: What the log calls it.

    Attributes:
        way: `fused`: packed rows (see `Packing`) through blocks with fewer products (see
            `fuse`); `packed`: through the model's own blocks; `plain`: each window has a row of
            its own (see `encode_plainly`).
        layers: Its blocks.
    """

    way: Way

    def __init__(self, model: nn.Module, *, name: str) -> None:
        self._model: Any = model
        self.layers = decoder_blocks(model)
        self.way = "plain"
        self._speed_up(name)

    @property
    def device(self) -> Any:
        """Where the weights are."""
        return self._model.device

    @property
    def dtype(self) -> Any:
        """Their precision."""
        return self._model.dtype

    def encode(
        self, parts: Sequence[Part], depths: Sequence[int], *, batch_tokens: int
    ) -> tuple[Tensor, Tensor]:
        """Encode the windows of the parts, and their prompts where these are new.

        Args:
            parts: Prompts and windows.
            depths: Depths to read, ascending.
            batch_tokens: Most tokens of one call where windows have rows of their own.

        Returns:
            `mean` and `last` of all windows, (windows, D, d) each, float32 on the CPU.
        """
        if self.way == "plain":
            forward = partial(self.states, depths=depths)
            return encode_plainly(parts, forward, batch_tokens=batch_tokens)
        return self._pack(parts, depths).finish()

    def states(self, ids: Tensor, *, depths: Sequence[int]) -> Tensor:
        """States (D, B, T, d) of rows of token ids, each row by itself."""
        import torch

        states: list[Tensor] = []
        with _reading(self.layers, depths, states.append):
            self._model(input_ids=ids.to(self.device), use_cache=False)
        return torch.stack(states)

    def _pack(self, parts: Sequence[Part], depths: Sequence[int]) -> Packing:
        row = Packing(parts, device=self.device, dtype=self.dtype)
        with row.at_work(), _reading(self.layers, depths, row.pool):
            self._model(input_ids=row.ids, position_ids=row.positions, use_cache=False)
        return row

    def _speed_up(self, name: str) -> None:
        """Take the fastest way that gives what the model's own forward pass gives."""
        import torch

        if not self._model._supports_attention_backend:
            return
        prompt, windows = _sample(int(self._model.config.get_text_config().vocab_size))
        depths = (len(self.layers),)
        tolerance = 1e-3 if self.dtype == torch.float32 else 0.05
        own = self._model.config._attn_implementation
        with torch.inference_mode():
            forward = partial(self.states, depths=depths)
            expected = encode_plainly([Part(Stem(prompt), windows)], forward, batch_tokens=100)

            def fits(way: Way) -> Packing | None:
                try:
                    row = self._pack([Part(Stem(prompt), windows)], depths)
                    error = max(map(_distance, row.finish(), expected))
                except Exception as failure:  # noqa: BLE001 (whatever an architecture makes of it)
                    reason = repr(failure)
                else:
                    if error < tolerance:
                        self.way = way
                        return row
                    reason = f"relative error {error:.1e}"
                _log.info("%s cannot be used %s: it gives other states (%s)", name, way, reason)
                return None

            register()
            self._model.set_attn_implementation(ATTENTION)
            row = fits("packed")
            if row is None:
                self._model.set_attn_implementation(own)
            elif self.device.type == "cpu" and fuse(self.layers, row.asked) and not fits("fused"):
                undo(self.layers)


def _sample(vocabulary: int) -> tuple[PromptIds, list[Window]]:
    """A tiny prompt and two windows."""
    ids = [(7 * i) % min(vocabulary, 100) for i in range(12)]
    return PromptIds(ids=ids[:5], request=range(1, 3)), [Window(ids[5:8]), Window(ids[7:12])]


@contextmanager
def _reading(
    layers: nn.ModuleList, depths: Sequence[int], take: Callable[[Tensor], None]
) -> Iterator[None]:
    """Hand the residual stream after the blocks named to `take`, in their order."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        take(output[0] if isinstance(output, tuple) else output)

    handles = [layers[k - 1].register_forward_hook(hook) for k in depths]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _distance(a: Tensor, b: Tensor) -> float:
    """Norm of the difference, relative to that of `b`."""
    return float((a - b).norm() / b.norm())
