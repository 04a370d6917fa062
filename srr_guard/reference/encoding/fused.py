"""Fused blocks: Llama-like decoder blocks with fewer, larger matrix products, for CPUs.

transformers calls seven linear layers and a dozen elementwise operations per block. Here products
that read the same input are joined, residual sums are part of the products, and intermediate
results are written in place, into memory that all blocks share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from srr_guard.reference.encoding.joined import is_known, joined
from srr_guard.reference.encoding.packed import PackedRow, current

if TYPE_CHECKING:
    from torch import Tensor, nn


def fuse(blocks: Iterable[nn.Module], options: Sequence[dict[str, Any]]) -> bool:
    """Give blocks a faster forward pass, which they use for packed rows only.

    Their weights are joined (see `joined`); any other forward pass is as before.

    Args:
        blocks: All blocks of a model on a CPU.
        options: What each asks of its attention, as its own packed pass did (`PackedRow.asked`).

    Returns:
        True if all blocks are of a known kind; otherwise none is changed.
    """
    if not all(is_known(block) for block in blocks):
        return False
    scratch = _Scratch()
    for block, asked in zip(blocks, options, strict=True):
        if not isinstance(block.forward, _Fused):  # fused before, for another encoder
            block.forward = _Fused(block, asked, scratch)
    return True


def undo(blocks: Iterable[nn.Module]) -> None:
    """Give blocks their own forward pass back."""
    for block in blocks:
        vars(block).pop("forward", None)


class _Scratch:
    """Memory for what lies between the products; it grows to the largest row there was."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def room(self, name: str, like: Tensor, width: int) -> Tensor:
        """(tokens, width) for one purpose; what was there is gone."""
        held = self._buffers.get(name)
        if held is None or len(held) < len(like):
            held = self._buffers[name] = like.new_empty(len(like), width)
        return held[: len(like)]


class _Fused:
    """The forward pass of one block."""

    def __init__(self, block: Any, options: dict[str, Any], scratch: _Scratch) -> None:
        weights = joined(block)
        self._own = block.forward
        self._options = options
        self._scratch = scratch
        self._width = weights.head
        self._values = weights.groups
        self._norms = weights.norms
        self._qkv, self._bias = weights.qkv.t(), weights.bias
        self._out, self._gate_up = weights.out.t(), weights.gate_up.t()
        self._down = weights.down.t()

    def __call__(self, hidden_states: Tensor, **options: Any) -> Tensor:
        row = current()
        if row is None:
            own: Tensor = self._own(hidden_states, **options)
            return own
        x = hidden_states[0]  # changed in place: nobody else reads it
        x.addmm_(self._attend(row, self._normed(0, x), *options["position_embeddings"]), self._out)
        x.addmm_(self._gated(self._normed(1, x)), self._down)
        return hidden_states

    def _normed(self, which: int, x: Tensor) -> Tensor:
        import torch

        norm: Any = self._norms[which]
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
        scale = (length.square_() / x.shape[1]).add_(norm.variance_epsilon).rsqrt_()
        out = self._scratch.room("normed", x, x.shape[1])
        return torch.mul(x, scale, out=out).mul_(norm.weight)

    def _attend(self, row: PackedRow, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        import torch

        qkv = self._scratch.room("qkv", x, self._qkv.shape[1])
        if self._bias is None:
            torch.mm(x, self._qkv, out=qkv)
        else:
            torch.addmm(self._bias, x, self._qkv, out=qkv)
        heads = qkv.view(len(x), -1, self._width)
        qk, values = heads[:, : -self._values], heads[:, -self._values :]
        rotated = self._scratch.room("rotated", x, qk.shape[1] * self._width).view_as(qk)
        _rotate(qk, cos[0, :, None], sin[0, :, None], out=rotated)
        query, key, value = (
            t.transpose(0, 1)[None]
            for t in (rotated[:, : -self._values], rotated[:, -self._values :], values)
        )
        return row.attend(query, key, value, self._options)[0].transpose(0, 1).flatten(1)

    def _gated(self, x: Tensor) -> Tensor:
        import torch
        from torch.nn import functional

        both = self._scratch.room("gate_up", x, self._gate_up.shape[1])
        torch.mm(x, self._gate_up, out=both)
        gate, up = both.chunk(2, 1)
        return functional.silu(gate, inplace=True).mul_(up)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, *, out: Tensor) -> None:
    """Rotary position embedding of (tokens, heads, width); the two halves turn together."""
    import torch

    half = x.shape[2] // 2
    torch.mul(x, cos, out=out)
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
