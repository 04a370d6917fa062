"""Packed rows: prompts and windows in one row of tokens, with an attention that knows the tree.

Every window of every candidate continues its prompt and sees nothing else. All tokens stand in
one row, so linear layers see no padding and no prompt twice. The attention, registered with
transformers, lets each window read its prompt's keys and values, computed in the same pass or
in an earlier one (`Prefix`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from srr_guard.reference.cache.partial import Window
from srr_guard.reference.cache.prefixes import Prefix

if TYPE_CHECKING:
    from torch import Tensor

ATTENTION = "srr_guard_packed"
"""Name of the attention in transformers' `AttentionInterface`."""

_row: ContextVar[PackedRow | None] = ContextVar("srr_guard_packed_row", default=None)


@dataclass(frozen=True, eq=False)
class Part:
    """One request's share of a row: its prompt, if that is new, and some of its windows.

    Only tokens that are not known yet stand in the row.
    """

    prefix: Prefix
    windows: Sequence[Window]


class PackedRow:
    """The row of one forward pass.

    Args:
        parts: What it holds; windows are not empty, and a prompt that is not encoded yet is
            part of the row.
        device: Where the model is.
        dtype: Its precision.

    Attributes:
        asked: Options that each layer passed to its attention so far.
    """

    def __init__(self, parts: Sequence[Part], *, device: Any, dtype: Any) -> None:
        import torch

        self._parts = [_Placed(part) for part in parts]
        ids: list[int] = []
        positions: list[int] = []
        segment: list[int] = []  # which mean each token belongs to; the last of them is not used
        lasts: list[int] = []
        windows = sum(len(part.windows) for part in parts)
        nowhere = windows + len(parts)
        seen = 0
        begun: set[Prefix] = set()  # parts may share a prompt: the first of them brings it
        for number, placed in enumerate(self._parts):
            prefix = placed.part.prefix
            prompt = prefix.prompt
            if not prefix.encoded and prefix not in begun:
                begun.add(prefix)
                placed.prompt = range(len(ids), len(ids) + len(prompt.ids) - prefix.known)
                ids += prompt.ids[prefix.known :]
                positions += range(prefix.known, len(prompt.ids))
                segment += [
                    windows + number if k in prompt.request else nowhere
                    for k in range(prefix.known, len(prompt.ids))
                ]
            for window in placed.part.windows:
                placed.spans.append(range(len(ids), len(ids) + len(window)))
                lasts.append(len(ids) + len(window) - 1)
                ids += window.ids[window.known :]
                whole = len(prompt.ids)
                positions += range(whole + window.known, whole + len(window.ids))
                segment += [seen] * len(window)
                seen += 1
            placed.look_up(device, dtype)
        self.ids = torch.tensor([ids], device=device)
        self.positions = torch.tensor([positions], device=device)
        self._segment = torch.tensor(segment, device=device)
        self._counts = torch.bincount(self._segment, minlength=nowhere + 1).clamp(min=1)
        self._lasts = torch.tensor(lasts, dtype=torch.int64, device=device)
        self.asked: list[dict[str, Any]] = []
        self._means: list[Tensor] = []
        self._ends: list[Tensor] = []
        self._instructions: list[Tensor] = []
        # states of the new tokens, depth by depth, of windows that were begun or will go on
        self._new: dict[Window, list[Tensor]] = defaultdict(list)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Make this the current row, within the block."""
        token = _row.set(self)
        try:
            yield
        finally:
            _row.reset(token)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
        """Attention of the next layer: (1, heads, tokens, width) as given."""
        import torch

        # laid out token by token, as the linear layer after it reads it
        out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        out = out.transpose(1, 2)
        for placed in self._parts:
            placed.attend(len(self.asked), query, key, value, out, options)
        self.asked.append(options)
        return out

    def pool(self, states: Tensor) -> None:
        """Pool the (1, tokens, d) states of the next depth."""
        row = states[0].float()
        sums = row.new_zeros(len(self._counts), row.shape[1]).index_add_(0, self._segment, row)
        self._means.append((sums / self._counts[:, None]).cpu())
        self._ends.append(row[self._lasts].cpu())
        starts = [p.prompt.stop - 1 for p in self._parts if p.prompt]
        self._instructions.append(row[starts].cpu())
        for placed in self._parts:
            for window, span in zip(placed.part.windows, placed.spans, strict=True):
                if window.start or window.partial:
                    self._new[window].append(row[span.start : span.stop].cpu().clone())

    def finish(self) -> tuple[Tensor, Tensor]:
        """Complete the prefixes; `mean` and `last` of all windows, (windows, D, d) each."""
        import torch

        means, ends = torch.stack(self._means, 1), torch.stack(self._ends, 1)
        instructions = iter(torch.stack(self._instructions, 1))
        windows = len(ends)
        for number, placed in enumerate(self._parts):
            if placed.prompt:
                prefix = placed.part.prefix
                prefix.instruction = next(instructions).clone()
                prefix.request = means[windows + number].clone()
                prefix.known = len(prefix.prompt.ids)
        in_order = (window for placed in self._parts for window in placed.part.windows)
        for i, window in enumerate(in_order):
            if window in self._new:
                means[i], ends[i] = window.pooled(self._new[window])
        return means[:windows], ends


class _Placed:
    """A part and its place in the row."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.prompt = range(0)
        self.spans: list[range] = []

    def look_up(self, device: Any, dtype: Any) -> None:
        """Make the masks, once for all layers."""
        whole = len(self.part.prefix.prompt.ids)
        self._longest = max((len(window.ids) for window in self.part.windows), default=0)
        self._window_mask = _causal(self._longest, whole + self._longest, device, dtype)
        continued = self.prompt and self.part.prefix.known
        self._prompt_mask = _causal(len(self.prompt), whole, device, dtype) if continued else None

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        options: dict[str, Any],
    ) -> None:
        """Fill this part's tokens of `out`, and keep the prompt's keys and values."""
        import torch

        prefix, span = self.part.prefix, slice(self.prompt.start, self.prompt.stop)
        if self.prompt:
            keys, values = key[:, :, span], value[:, :, span]
            if prefix.known:
                keys = torch.cat([prefix.keys[layer], keys], 2)
                values = torch.cat([prefix.values[layer], values], 2)
                prefix.keys[layer], prefix.values[layer] = keys, values
            else:
                prefix.keys.append(keys.clone())
                prefix.values.append(values.clone())
            out[:, :, span] = _attention(
                query[:, :, span], keys, values, self._prompt_mask, options
            )
        if self.spans:
            whole = len(prefix.prompt.ids)
            # the prompt is copied once; each window takes the place of the one before it
            room = [_with_room(t[layer], self._longest) for t in (prefix.keys, prefix.values)]
            for window, new in zip(self.part.windows, self.spans, strict=True):
                at = slice(new.start, new.stop)
                begin, end = whole + window.known, whole + len(window.ids)
                if start := window.start:
                    for buffer, old in zip(room, (start.keys, start.values), strict=True):
                        buffer[:, :, whole:begin] = old[layer][:, :, : window.known]
                for buffer, computed in zip(room, (key, value), strict=True):
                    buffer[:, :, begin:end] = computed[:, :, at]
                keys, values = (buffer[:, :, :end] for buffer in room)
                mask = self._window_mask[window.known : len(window.ids), :end]
                out[:, :, at] = _attention(query[:, :, at], keys, values, mask, options)
                if window.partial:
                    window.partial.keys.append(keys[:, :, whole:].clone())
                    window.partial.values.append(values[:, :, whole:].clone())


def _with_room(prompt: Tensor, tokens: int) -> Tensor:
    """(1, heads, prompt + tokens, width): a copy of the prompt's, and room after it."""
    buffer = prompt.new_empty(1, prompt.shape[1], prompt.shape[2] + tokens, prompt.shape[3])
    buffer[:, :, : prompt.shape[2]] = prompt
    return buffer


def current() -> PackedRow | None:
    """The row of the forward pass under way; None if it is no packed one."""
    return _row.get()


def register() -> None:
    """Make the attention known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _attend)


def _attend(
    _module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, **options: Any
) -> tuple[Tensor, None]:
    row = current()
    assert row is not None, "the packed attention runs within a PackedRow only"
    return row.attend(query, key, value, options).transpose(1, 2), None


def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict[str, Any]
) -> Tensor:
    """Softmax attention; without a mask it is causal."""
    import torch
    from torch.nn import functional

    near, softcap = options.get("sliding_window"), options.get("softcap")
    q, k = query.shape[2], key.shape[2]
    if mask is None and (near is not None or softcap is not None):
        mask = _causal(q, k, query.device, query.dtype)
    if near is not None and mask is not None:
        place = torch.arange(k, device=query.device)
        mask = mask.masked_fill(place <= place[k - q :, None] - near, -torch.inf)
    groups = query.shape[1] // key.shape[1]
    if softcap is not None and mask is not None:
        key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        weights = (query @ key.transpose(2, 3)) * scale
        softened: Tensor = ((weights / softcap).tanh() * softcap + mask).softmax(-1) @ value
        return softened
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=options.get("scaling"),
        enable_gqa=groups > 1,
    )


def _causal(queries: int, keys: int, device: Any, dtype: Any) -> Tensor:
    """(queries, keys) to add: 0 where the last `queries` of `keys` tokens may look, else -inf."""
    import torch

    seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return torch.zeros(queries, keys, dtype=dtype, device=device).masked_fill(~seen, -torch.inf)
