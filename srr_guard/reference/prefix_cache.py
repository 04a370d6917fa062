"""Prompts whose keys and values are kept, so that what comes back is not encoded again."""

from __future__ import annotations

from collections import OrderedDict
from weakref import WeakValueDictionary

from srr_guard.reference.packing import Stem
from srr_guard.reference.template import PromptIds

_Key = tuple[tuple[int, ...], range]

_SHORTEST = 16
"""A shared beginning of fewer tokens than this is not worth looking up."""


class PrefixCache:
    """The prompts used last, within a budget of bytes; not safe for several threads.

    A prompt that was there before is found whole: a second round of candidates, or a second
    request for the same prompt, encodes its candidates only. A prompt that begins like one of
    them, such as a later turn of the same conversation, takes over the common beginning.

    Args:
        max_bytes: Keys and values of all prompts together; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._stems: OrderedDict[_Key, Stem] = OrderedDict()
        # those that are being encoded: requests for one prompt encode it once
        self._begun: WeakValueDictionary[_Key, Stem] = WeakValueDictionary()

    def stem(self, prompt: PromptIds) -> Stem:
        """The stem of a prompt: the one that is kept, or a new one with what is known of it."""
        key = _key(prompt)
        if key in self._stems:
            self._stems.move_to_end(key)
            return self._stems[key]
        if (begun := self._begun.get(key)) is not None:
            return begun
        self._begun[key] = stem = Stem(prompt)
        # the states of the latest turn are needed, so at most what comes before it is taken
        usable = min(prompt.request.start, len(prompt.ids) - 1)
        nearest, common = None, _SHORTEST - 1
        for other in self._stems.values():
            length = _common(prompt.ids, other.prompt.ids, usable)
            if length > common:
                nearest, common = other, length
        if nearest is not None:
            stem.keys = [t[:, :, :common] for t in nearest.keys]
            stem.values = [t[:, :, :common] for t in nearest.values]
            stem.known = common
        return stem

    def keep(self, stem: Stem) -> None:
        """Keep an encoded stem; those used least recently give way."""
        key = _key(stem.prompt)
        if stem.bytes > self.max_bytes or key in self._stems:
            return
        self._stems[key] = stem
        self.bytes += stem.bytes
        while self.bytes > self.max_bytes:
            _, oldest = self._stems.popitem(last=False)
            self.bytes -= oldest.bytes

    def __len__(self) -> int:
        return len(self._stems)


def _key(prompt: PromptIds) -> _Key:
    return tuple(prompt.ids), prompt.request


def _common(a: list[int], b: list[int], most: int) -> int:
    """Length of the common beginning of two lists, at most `most`."""
    most = min(most, len(a), len(b))
    if a[:most] == b[:most]:
        return most
    return next(i for i in range(most) if a[i] != b[i])
