"""One request on its way through the reference LLM, pass by pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from srr_guard.reference.cache.partial import Window
from srr_guard.reference.cache.prefixes import Prefix
from srr_guard.reference.cache.states import RecordedAnswer
from srr_guard.reference.features import Features

if TYPE_CHECKING:
    from torch import Tensor

LookUp = Callable[[Sequence[int], Sequence[int]], RecordedAnswer | None]
"""From the ids of prompt and answer to what was recorded."""


class EncodingRequest:
    """The windows of one request's candidates, and those that are encoded so far.

    Attributes:
        prefix: The prompt.
        pending: Indices of the windows that are left, the shortest first.
    """

    def __init__(self, prefix: Prefix, windows: Sequence[Window], owner: list[int]) -> None:
        self.prefix = prefix
        self.windows = windows
        left = [i for i, window in enumerate(windows) if len(window)]
        self.pending = sorted(left, key=lambda i: len(windows[i]))
        self._owner = owner
        self._done = {i: w.pooled() for i, w in enumerate(windows) if w.known and not len(w)}

    @property
    def finished(self) -> bool:
        """True if the prompt and all windows are encoded."""
        return not self.pending and self.prefix.encoded

    @property
    def left(self) -> int:
        """Tokens left to encode."""
        return self.cost(self.pending)

    @property
    def _prompt_left(self) -> int:
        return 0 if self.prefix.encoded else len(self.prefix.prompt.ids) - self.prefix.known

    def take(self, budget: int) -> list[int]:
        """Take windows of at most `budget` tokens off the pending ones."""
        taken: list[int] = []
        while self.pending and len(self.windows[self.pending[0]]) <= budget:
            taken.append(self.pending.pop(0))
            budget -= len(self.windows[taken[-1]])
        return taken

    def take_one(self, budget: int) -> list[int]:
        """Take one window; none where it is over the budget and the prompt alone is a start."""
        if self.pending and (self.prefix.encoded or self.cost([self.pending[0]]) <= budget):
            return [self.pending.pop(0)]
        return []

    def cost(self, windows: Sequence[int]) -> int:
        """Tokens of a pass with these windows, and with the prompt where it is new."""
        return self._prompt_left + sum(len(self.windows[i]) for i in windows)

    def store(self, window: int, mean: Tensor, last: Tensor) -> None:
        """Take note of a window's states, (D, d) each."""
        self._done[window] = (mean, last)

    def recall(self, look_up: LookUp) -> None:
        """Take over what was recorded of whole answers while they were generated.

        Args:
            look_up: Finds it.
        """
        single = [i for i in self.pending if self._owner.count(self._owner[i]) == 1]
        found = {i: look_up(self.prefix.prompt.ids, self.windows[i].ids) for i in single}
        for i, answer in found.items():
            if answer is not None:
                self.store(i, answer.mean, answer.last)
                self.pending.remove(i)
                if not self.pending and not self.prefix.encoded:
                    # one of its own: it has no keys and values that others could use
                    self.prefix = Prefix(
                        self.prefix.prompt, instruction=answer.instruction, request=answer.request
                    )

    def features(self) -> Features:
        """The features, once `finished`; an empty window has the instruction's states."""
        import torch

        prefix = self.prefix
        assert prefix.instruction is not None
        assert prefix.request is not None
        empty = (prefix.instruction, prefix.instruction)
        states = [self._done.get(i, empty) for i in range(len(self.windows))]
        return Features(
            instruction=prefix.instruction,
            request=prefix.request,
            mean=torch.stack([mean for mean, _ in states]),
            last=torch.stack([last for _, last in states]),
            owner=torch.tensor(self._owner),
            lengths=torch.tensor([len(window.ids) for window in self.windows]),
        )


def cut(
    texts: Sequence[list[int]], *, size: int, overlap: int
) -> tuple[list[list[int]], list[int]]:
    """Split each text into overlapping windows; a short text is one window.

    Returns:
        The windows, and which text each of them belongs to.
    """
    windows: list[list[int]] = []
    owner: list[int] = []
    for i, ids in enumerate(texts):
        starts = range(0, max(len(ids) - overlap, 1), size - overlap)
        windows += [ids[s : s + size] for s in starts]
        owner += [i] * len(starts)
    return windows, owner


def shares(
    encodings: Sequence[EncodingRequest], budget: int
) -> list[tuple[EncodingRequest, list[int]]]:
    """Share the next pass among requests, in windows.

    The request that has waited longest gets something in every pass; beyond that those with
    the least left to do come first, so that a huge one holds up nobody.

    Args:
        encodings: Requests that are not finished, the one that has waited longest first.
        budget: Most tokens of the pass; a prompt or window that is larger goes alone.
    """
    first, *others = encodings
    windows = first.take_one(budget)
    found = [(first, windows)]
    room = budget - first.cost(windows)
    for encoding in sorted(others, key=lambda e: e.left):
        if room > 0 and encoding.cost([]) <= room:
            windows = encoding.take(room - encoding.cost([]))
            if windows or not encoding.prefix.encoded:
                found.append((encoding, windows))
                room -= encoding.cost(windows)
    found[0][1].extend(first.take(room))
    return found
