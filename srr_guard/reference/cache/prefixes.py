"""Prefixes: prompts whose keys and values are kept for requests to come."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from srr_guard.reference.template import PromptIds

if TYPE_CHECKING:
    from torch import Tensor

_Key = tuple[tuple[int, ...], range]

_SHORTEST = 16
"""A shared beginning of fewer tokens than this is not worth looking up."""


@dataclass(eq=False)
class Prefix:
    """A prompt and its encoded states.

    Attributes:
        prompt: Its token ids.
        keys: (1, heads, tokens, width) of each attention layer; for the first `known` tokens
            before it is encoded, for all of them after.
        values: Likewise.
        known: Tokens whose keys and values are there.
        instruction: (D, d) states of the last token; None until encoded.
        request: (D, d) mean over the latest turn; None until encoded.
    """

    prompt: PromptIds
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    known: int = 0
    instruction: Tensor | None = None
    request: Tensor | None = None

    @property
    def encoded(self) -> bool:
        """True if nothing of it is left to encode."""
        return self.instruction is not None

    def reset(self) -> None:
        """Undo what a failed pass left in it."""
        if not self.encoded:
            self.keys = [t[:, :, : self.known] for t in self.keys if self.known]
            self.values = [t[:, :, : self.known] for t in self.values if self.known]

    @property
    def bytes(self) -> int:
        """Memory of its keys and values."""
        return sum(t.nbytes for t in (*self.keys, *self.values))


class PrefixCache:
    """The most recent prompts, within a budget of bytes; not safe for several threads.

    A prompt that returns is found whole: a second round of candidates, or a second request for
    the same prompt, encodes its candidates only. A prompt that begins like one of them, such as
    a later turn of the same conversation, takes over the common beginning.

    Args:
        max_bytes: Keys and values of all prompts together; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._prefixes: OrderedDict[_Key, Prefix] = OrderedDict()
        # under way: requests for one prompt encode it once
        self._begun: WeakValueDictionary[_Key, Prefix] = WeakValueDictionary()

    def prefix(self, prompt: PromptIds) -> Prefix:
        """Find the prefix of a prompt, or make one with the states already known."""
        key = _key(prompt)
        if key in self._prefixes:
            self._prefixes.move_to_end(key)
            return self._prefixes[key]
        if (begun := self._begun.get(key)) is not None:
            return begun
        self._begun[key] = prefix = Prefix(prompt)
        # the states of the latest turn are needed, so at most what comes before it is taken
        usable = min(prompt.request.start, len(prompt.ids) - 1)
        nearest, common = None, _SHORTEST - 1
        for other in self._prefixes.values():
            length = _common(prompt.ids, other.prompt.ids, usable)
            if length > common:
                nearest, common = other, length
        if nearest is not None:
            prefix.keys = [t[:, :, :common] for t in nearest.keys]
            prefix.values = [t[:, :, :common] for t in nearest.values]
            prefix.known = common
        return prefix

    def keep(self, prefix: Prefix) -> None:
        """Keep an encoded prefix; drop those used least recently."""
        key = _key(prefix.prompt)
        if prefix.bytes > self.max_bytes or key in self._prefixes:
            return
        self._prefixes[key] = prefix
        self.bytes += prefix.bytes
        while self.bytes > self.max_bytes:
            _, oldest = self._prefixes.popitem(last=False)
            self.bytes -= oldest.bytes

    def __len__(self) -> int:
        return len(self._prefixes)


def _key(prompt: PromptIds) -> _Key:
    return tuple(prompt.ids), prompt.request


def _common(a: list[int], b: list[int], most: int) -> int:
    """Length of the common beginning of two lists, at most `most`."""
    most = min(most, len(a), len(b))
    if a[:most] == b[:most]:
        return most
    return next(i for i in range(most) if a[i] != b[i])
