"""Fused decoding: Llama-like models on a CPU, one token of every track in few, large products.

A step is bound by reading the weights, so everything else is kept small: the prompt's keys and
values are held once for all tracks, new ones go into memory that is there already, and the
weights of each block are joined (see `joined`). Batches of few tracks are filled up with copies,
so that what a track gets does not depend on how many others there are (see `product`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from srr_guard.errors import ReferenceLoadError
from srr_guard.local.decoding.prefill import prefill
from srr_guard.local.decoding.products import FEWEST, product
from srr_guard.local.decoding.tracks import Batch, Prompt, Track, groups
from srr_guard.reference._private import attention, takes_own_attention
from srr_guard.reference.encoding.joined import JoinedBlock, is_known, joined
from srr_guard.reference.weights import decoder_blocks

if TYPE_CHECKING:
    from torch import Tensor

_NOTED = "srr_guard_noted"
"""Name in transformers' `AttentionInterface` of an attention that notes its options."""

_ROOM = 64
"""Tokens that memory is taken for at a time."""

_FIXED_ROPE = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary embeddings whose angles do not depend on how long the sequence becomes."""


class FusedDecoder:
    """Runs batches on a Llama-like model.

    Args:
        model: The causal LM, on a CPU.

    Raises:
        ReferenceLoadError: The model is of another kind; the text says how.
    """

    name = "fused"

    def __init__(self, model: Any) -> None:
        self.model = model
        self.layers = decoder_blocks(model)
        self.embedding, self.head = model.get_input_embeddings(), model.get_output_embeddings()
        self.norm: Any = getattr(model.base_model, "norm", None)
        self.rope: Any = getattr(model.base_model, "rotary_emb", None)
        if (why := self._stranger()) is not None:
            raise ReferenceLoadError(f"no fused decoding: {why}")
        asked = _asked(model)
        if any(o.get("softcap") or o.get("s_aux") is not None for o in asked):
            raise ReferenceLoadError("no fused decoding: its attention is no plain softmax")
        self.blocks = [joined(block) for block in self.layers]
        self.scales = [
            float(o.get("scaling") or b.head**-0.5) for o, b in zip(asked, self.blocks, strict=True)
        ]
        windows = [o["sliding_window"] for o in asked if o.get("sliding_window")]
        self.reach: int | None = min(windows, default=None)

    def _stranger(self) -> str | None:
        from torch import nn

        if self.model.device.type != "cpu":
            return f"it is on {self.model.device}"
        if type(self.embedding) is not nn.Embedding or type(self.head) is not nn.Linear:
            return "its embedding or its head is no plain one"
        if self.head.bias is not None or not hasattr(self.norm, "variance_epsilon"):
            return "its last norm or its head is no Llama one"
        if getattr(self.rope, "rope_type", None) not in _FIXED_ROPE:
            return "its positions are no fixed rotary ones"
        if not takes_own_attention(self.model) or not all(is_known(b) for b in self.layers):
            return "its blocks are no Llama blocks"
        return None

    def begin(self, batch: Batch) -> FusedRun:
        """Read the prompts."""
        return FusedRun(self, batch)


class FusedRun:
    """A batch under way."""

    def __init__(self, decoder: FusedDecoder, batch: Batch) -> None:
        import torch

        self._decoder = decoder
        self._tracks = list(batch.tracks)
        self._groups: list[_Group] = []
        for index, first, end in groups(batch.tracks):
            prompt = batch.prompts[index]
            cache = prefill(decoder.model, decoder.layers, prompt, pause=batch.pause)
            self._groups.append(_Group(cache, prompt, end - first))
        places = torch.arange(batch.reach)[None]
        like = decoder.embedding.weight
        self._cos, self._sin = (t[0] for t in decoder.rope(like, places))
        self._fill_up()

    def keep(self, tracks: Sequence[int]) -> None:
        """Go on with these tracks only, ascending."""
        first = 0
        for group in self._groups:
            end = first + group.rows
            group.keep([i - first for i in tracks if first <= i < end])
            first = end
        self._groups = [group for group in self._groups if group.rows]
        self._tracks = [self._tracks[i] for i in tracks]
        self._fill_up()

    def _fill_up(self) -> None:
        """Give few tracks copies of the last one."""
        self._copies = max(FEWEST - len(self._tracks), 0)
        last = self._groups[-1]
        last.keep([*range(last.rows), *[last.rows - 1] * self._copies])
        self._steering = _steering(self._tracks + self._tracks[-1:] * self._copies)

    def step(self, tokens: Sequence[int], wanted: Sequence[int]) -> Tensor:
        """Feed one token to each track; on the first call the last of its prompt."""
        import torch
        from torch.nn import functional

        decoder = self._decoder
        tokens = [*tokens, *[tokens[-1]] * self._copies]
        x: Tensor = decoder.embedding.weight[torch.tensor(tokens)]
        places = torch.tensor([group.place for group in self._groups for _ in range(group.rows)])
        turn = self._cos[places][:, None], self._sin[places][:, None]
        depths = {k for group in self._groups if group.recorder for k in group.recorder.depths}
        deepest = len(decoder.blocks) if wanted else max(depths, default=0)
        steering = self._steering
        for k in range(deepest):
            block = decoder.blocks[k]
            h = _normed(x, block.norms[0])
            qkv = product(h, block.qkv)
            if block.bias is not None:
                qkv += block.bias
            x += product(self._attend(k, block, qkv, turn), block.out)
            gate, up = product(_normed(x, block.norms[1]), block.gate_up).chunk(2, 1)
            x += product(functional.silu(gate, inplace=True).mul_(up), block.down)
            for strengths, vectors in steering:
                if k in vectors:
                    x.addr_(strengths.to(x.dtype), vectors[k].to(x.dtype))
            if k + 1 in depths:
                self._record(k + 1, x)
        for group in self._groups:
            group.place += 1
        if not wanted:
            return x.new_empty(0, 0)
        rows = list(wanted) + list(wanted[:1]) * (FEWEST - len(wanted))
        if rows != list(range(len(x))):
            x = x[rows]
        logits = product(_normed(x, decoder.norm), decoder.head.weight)
        return logits[: len(wanted)].float()

    def _record(self, depth: int, x: Tensor) -> None:
        first = 0
        for group in self._groups:
            if group.recorder is not None:
                group.recorder.read(depth, x[first : first + group.rows])
            first += group.rows

    def _attend(
        self, k: int, block: JoinedBlock, qkv: Tensor, turn: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Attention of block k for (rows, q + k + v), laid out as its output layer reads it."""
        import torch

        parts = qkv.view(len(qkv), -1, block.head)
        turned = _rotated(parts[:, : -block.groups], *turn)
        queries, keys = (
            turned[:, : block.heads].mul_(self._decoder.scales[k]),
            turned[:, block.heads :],
        )
        values = parts[:, -block.groups :]
        found = []
        first = 0
        for group in self._groups:
            rows = slice(first, first := first + group.rows)
            found.append(group.attend(k, queries[rows], keys[rows], values[rows]))
        return found[0] if len(found) == 1 else torch.cat(found)


class _Group:
    """Tracks with one prompt: its keys and values, and those of their own tokens.

    Attributes:
        rows: Tracks.
        place: Position of the token that is fed next.
        recorder: Pools the states of the first rows; None: nothing is recorded.
    """

    def __init__(self, cache: Any, prompt: Prompt, rows: int) -> None:
        self.rows = rows
        self.recorder = prompt.recorder
        self.place = self._whole = len(prompt.ids) - 1
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        for layer in cache.layers if self._whole else ():
            self._keys.append(layer.keys[0].transpose(1, 2).contiguous())  # (heads, width, tokens)
            self._values.append(layer.values[0].contiguous())
        self._own: list[tuple[Tensor, Tensor]] = []

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows, in this order."""
        rows = list(rows)
        if rows == list(range(self.rows)):
            return
        self.rows = len(rows)
        if self._own and rows:
            self._own = [(k[:, rows], v[:, rows]) for k, v in self._own]

    def attend(self, k: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of (rows, heads, width) queries to the prompt and to the rows' own tokens."""
        import torch

        heads, width = keys.shape[1:]
        new = self.place - self._whole
        if k == len(self._own):
            shape = (heads, self.rows, _ROOM, width)
            self._own.append((keys.new_empty(shape), keys.new_empty(shape)))
        own_keys, own_values = self._own[k]
        if new == own_keys.shape[2]:
            more = keys.new_empty(heads, self.rows, new, width)
            own_keys, own_values = (torch.cat([t, more], 2) for t in (own_keys, own_values))
            self._own[k] = own_keys, own_values
        own_keys[:, :, new] = keys.transpose(0, 1)
        own_values[:, :, new] = values.transpose(0, 1)
        seen_keys = own_keys[:, :, : new + 1].flatten(0, 1)
        seen_values = own_values[:, :, : new + 1].flatten(0, 1)
        # (key heads, rows, queries of one key head, width)
        asked = queries.view(self.rows, heads, -1, width).transpose(0, 1).contiguous()
        sizes = heads, self.rows, asked.shape[2]
        weights = torch.bmm(asked.view(heads * self.rows, -1, width), seen_keys.transpose(1, 2))
        weights = weights.view(*sizes, new + 1)
        if self._whole:
            before = torch.bmm(asked.view(heads, -1, width), self._keys[k])
            weights = torch.cat([before.view(*sizes, self._whole), weights], 3)
        weights = weights.softmax(3, dtype=torch.float32).to(queries.dtype)
        out = torch.bmm(weights[..., self._whole :].flatten(0, 1), seen_values).view(*sizes, width)
        if self._whole:
            shares = weights[..., : self._whole].flatten(1, 2)
            out += torch.bmm(shares, self._values[k]).view(*sizes, width)
        return out.transpose(0, 1).reshape(self.rows, -1)


def _asked(model: Any) -> list[dict[str, Any]]:
    """Options that each layer passes to its attention."""
    import torch
    from transformers import AttentionInterface

    asked: list[dict[str, Any]] = []

    def note(_module: Any, query: Tensor, *_: Any, **options: Any) -> tuple[Tensor, None]:
        asked.append(options)
        return torch.zeros_like(query).transpose(1, 2).contiguous(), None

    AttentionInterface.register(_NOTED, note)
    with torch.inference_mode(), attention(model, _NOTED):
        model.base_model(input_ids=torch.zeros(1, 2, dtype=torch.int64), use_cache=False)
    return asked


def _normed(x: Tensor, norm: Any) -> Tensor:
    import torch

    length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
    scale = (length.square_() / x.shape[1]).add_(norm.variance_epsilon).rsqrt_()
    return torch.mul(x, scale).to(x.dtype).mul_(norm.weight)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of (rows, heads, width)."""
    half = x.shape[2] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


def _steering(tracks: Sequence[Track]) -> list[tuple[Tensor, dict[int, Tensor]]]:
    """For each set of vectors, the strength of every track."""
    import torch

    sets = {id(t.steering): t.steering for t in tracks if t.steering is not None}
    return [
        (torch.tensor([t.strength * (t.steering is one) for t in tracks]), one.vectors)
        for one in sets.values()
    ]
