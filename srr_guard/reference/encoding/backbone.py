"""The backbone: a decoder as an encoder, by the fastest backend that gives its own states."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from srr_guard.reference._private import attention, takes_own_attention
from srr_guard.reference.cache.partial import Window
from srr_guard.reference.cache.prefixes import Prefix
from srr_guard.reference.encoding.fused import fuse, undo
from srr_guard.reference.encoding.packed import ATTENTION, PackedRow, Part, register
from srr_guard.reference.encoding.plain import encode_plainly
from srr_guard.reference.template import PromptIds
from srr_guard.reference.weights import decoder_blocks

if TYPE_CHECKING:
    from torch import Tensor, nn

Backend = Literal["fused", "packed", "plain"]

_log = logging.getLogger("srr_guard")


class Backbone:
    """A decoder as an encoder of packed parts; not safe for several threads.

    When it is made, a tiny request is encoded by every backend; one that gives other states than
    the model's own forward pass is not used. A pass ends after the deepest block that is read.
    The model may be part of a larger one that generates: between passes it is as it was.

    Args:
        model: The decoder, without LM head.
        name: What the log calls it.
        depth: Blocks to use; None: all.

    Attributes:
        backend: `fused`: packed rows (see `PackedRow`) through blocks with fewer products (see
            `fuse`); `packed`: through the model's own blocks; `plain`: each window has a row of
            its own (see `encode_plainly`).
        layers: Its blocks, up to `depth`.
    """

    backend: Backend

    def __init__(self, model: nn.Module, *, name: str, depth: int | None = None) -> None:
        self._model: Any = model
        self.layers = decoder_blocks(model)[:depth]
        self.backend = "plain"
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
        if self.backend == "plain":
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

    def _pack(self, parts: Sequence[Part], depths: Sequence[int]) -> PackedRow:
        row = PackedRow(parts, device=self.device, dtype=self.dtype)
        with (
            row.at_work(),
            attention(self._model, ATTENTION),
            _reading(self.layers, depths, row.pool),
        ):
            self._model(input_ids=row.ids, position_ids=row.positions, use_cache=False)
        return row

    def _speed_up(self, name: str) -> None:
        """Choose the fastest backend that gives what the model's own forward pass gives."""
        import torch

        if not takes_own_attention(self._model):
            return
        prompt, windows = _sample(int(self._model.config.get_text_config().vocab_size))
        depths = (len(self.layers),)
        tolerance = 1e-3 if self.dtype == torch.float32 else 0.05
        with torch.inference_mode():
            forward = partial(self.states, depths=depths)
            expected = encode_plainly([Part(Prefix(prompt), windows)], forward, batch_tokens=100)

            def fits(backend: Backend) -> PackedRow | None:
                try:
                    row = self._pack([Part(Prefix(prompt), windows)], depths)
                    error = max(map(_distance, row.finish(), expected))
                except Exception as failure:  # noqa: BLE001 (whatever an architecture makes of it)
                    reason = repr(failure)
                else:
                    if error < tolerance:
                        self.backend = backend
                        return row
                    reason = f"relative error {error:.1e}"
                _log.info("%s cannot be used %s: it gives other states (%s)", name, backend, reason)
                return None

            register()
            row = fits("packed")
            if row is None or self.device.type != "cpu":
                return
            if fuse(self.layers, row.asked) and not fits("fused"):
                undo(self.layers)


class _ReadEnoughError(Exception):
    """Leaves a forward pass after the deepest block that is read."""


def _sample(vocabulary: int) -> tuple[PromptIds, list[Window]]:
    """A tiny prompt and two windows."""
    ids = [(7 * i) % min(vocabulary, 100) for i in range(12)]
    return PromptIds(ids=ids[:5], request=range(1, 3)), [Window(ids[5:8]), Window(ids[7:12])]


@contextmanager
def _reading(
    layers: nn.ModuleList, depths: Sequence[int], take: Callable[[Tensor], None]
) -> Iterator[None]:
    """Hand the residual stream after these blocks to `take`, in their order, then end the pass."""

    def read(_module: nn.Module, _args: Any, output: Any) -> None:
        take(output[0] if isinstance(output, tuple) else output)

    def end(_module: nn.Module, _args: Any, _output: Any) -> None:
        raise _ReadEnoughError

    handles = [layers[k - 1].register_forward_hook(read) for k in depths]
    handles.append(layers[max(depths) - 1].register_forward_hook(end))
    try:
        yield
    except _ReadEnoughError:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _distance(a: Tensor, b: Tensor) -> float:
    """Norm of the difference, relative to that of `b`."""
    return float((a - b).norm() / b.norm())
