"""Partial windows: states of answers that were pre-encoded while they were streamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from srr_guard.reference.template import PromptIds

if TYPE_CHECKING:
    from torch import Tensor

_SHORTEST = 4
"""A shared beginning of fewer tokens than this is not worth looking up."""


@dataclass(eq=False)
class PartialWindow:
    """The first tokens of a window and their states.

    Attributes:
        prompt: What they continue.
        ids: Their ids.
        keys: (1, heads, tokens, width) of each attention layer.
        values: Likewise.
        states: (tokens, d) of each depth, float32 on the CPU.
    """

    prompt: PromptIds
    ids: list[int]
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Memory of its tensors."""
        return sum(t.nbytes for t in (*self.keys, *self.values, *self.states))


@dataclass(eq=False)
class Window:
    """A window on its way through the model.

    Attributes:
        ids: Its token ids.
        start: Cached states for a prefix of this window; may extend past it.
        known: How many of its tokens have states in `start`.
        partial: Filled while encoding, for windows that may go on; None: nothing is kept.
    """

    ids: Sequence[int]
    start: PartialWindow | None = None
    known: int = 0
    partial: PartialWindow | None = None

    def __len__(self) -> int:
        """Tokens that are left to encode."""
        return len(self.ids) - self.known

    def pooled(self, new: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        """`mean` and `last`, (D, d) each, once all of it was read.

        Args:
            new: States of the tokens that were not known, (tokens, d) of each depth.
        """
        import torch

        states = list(new)
        if self.start is not None:
            old = [known[: self.known] for known in self.start.states]
            states = [torch.cat(pair) for pair in zip(old, new, strict=True)] if new else old
        if self.partial is not None:
            self.partial.states = states
        whole = torch.stack(states)
        return whole.mean(1), whole[:, -1].clone()


class PartialWindowCache:
    """The most recent partial windows, within a budget of bytes; not safe for several threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._partials: dict[PartialWindow, None] = {}

    def window(self, prompt: PromptIds, ids: Sequence[int]) -> Window:
        """Make a window, with the cached states of its beginning."""
        best, known = None, _SHORTEST - 1
        for partial in self._partials:
            common = _common(partial.ids, ids)
            if common > known and partial.prompt == prompt:
                best, known = partial, common
        if best is None:
            return Window(ids)
        self._partials[best] = self._partials.pop(best)  # used last
        return Window(ids, best, known)

    def keep(self, window: Window) -> None:
        """Keep the states of a window, in place of the partial window that it continues."""
        grown, before = window.partial, window.start
        if grown is None or grown.bytes > self.max_bytes:
            return
        if before in self._partials and window.known == len(before.ids):
            self._forget(before)
        self._partials[grown] = None
        self.bytes += grown.bytes
        while self.bytes > self.max_bytes:
            self._forget(next(iter(self._partials)))

    def _forget(self, partial: PartialWindow) -> None:
        del self._partials[partial]
        self.bytes -= partial.bytes

    def __len__(self) -> int:
        return len(self._partials)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    most = min(len(a), len(b))
    return next((i for i in range(most) if a[i] != b[i]), most)
