"""Windows whose first tokens were read already, while an answer was still being written."""

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
class Draft:
    """The tokens of a window that were read so far, and what is known of them.

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
        draft: What is known of its beginning, perhaps of more than it.
        known: How many of its tokens are known from there.
        grown: Filled when it is encoded, for windows that may go on; None: nothing is kept.
    """

    ids: Sequence[int]
    draft: Draft | None = None
    known: int = 0
    grown: Draft | None = None

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
        if self.draft is not None:
            old = [known[: self.known] for known in self.draft.states]
            states = [torch.cat(pair) for pair in zip(old, new, strict=True)] if new else old
        if self.grown is not None:
            self.grown.states = states
        whole = torch.stack(states)
        return whole.mean(1), whole[:, -1].clone()


class DraftStore:
    """The drafts used last, within a budget of bytes; not safe for several threads."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._drafts: dict[Draft, None] = {}

    def window(self, prompt: PromptIds, ids: Sequence[int]) -> Window:
        """A window, with what is known of its beginning."""
        best, known = None, _SHORTEST - 1
        for draft in self._drafts:
            common = _common(draft.ids, ids)
            if common > known and draft.prompt == prompt:
                best, known = draft, common
        if best is None:
            return Window(ids)
        self._drafts[best] = self._drafts.pop(best)  # used last
        return Window(ids, best, known)

    def keep(self, window: Window) -> None:
        """Keep what was read of a window, in place of the draft that it continues."""
        grown, before = window.grown, window.draft
        if grown is None or grown.bytes > self.max_bytes:
            return
        if before in self._drafts and window.known == len(before.ids):
            self._forget(before)
        self._drafts[grown] = None
        self.bytes += grown.bytes
        while self.bytes > self.max_bytes:
            self._forget(next(iter(self._drafts)))

    def _forget(self, draft: Draft) -> None:
        del self._drafts[draft]
        self.bytes -= draft.bytes

    def __len__(self) -> int:
        return len(self._drafts)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    most = min(len(a), len(b))
    return next((i for i in range(most) if a[i] != b[i]), most)
