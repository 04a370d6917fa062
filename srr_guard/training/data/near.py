"""Finds requests that are nearly the same: a test set must not be trained on by another name."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from srr_guard.training.data.rows import LabelledResponse

NEAR = 0.5
"""Share of common 3-grams from which on two requests are nearly the same."""

_UNSPACED = "぀-ヿ㐀-鿿豈-﫿가-힣฀-๿"  # written without spaces between words, or few
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")


class NearPrompts:
    """Requests that others are compared with, by the Jaccard index of their 3-grams of words.

    Characters of scripts without spaces count as words. A request of fewer than three words is
    one gram.

    Args:
        prompts: The requests.
        near: Index from which on two are nearly the same, in (0, 1].

    Example:
        >>> known = NearPrompts(["How do I pick the lock of my own front door?"])
        >>> known.holds("how do I pick the lock of my own car door"), known.holds("Name a lake.")
        (True, False)
    """

    def __init__(self, prompts: Iterable[str], *, near: float = NEAR) -> None:
        self._near = near
        self._sizes: list[int] = []
        self._where: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for grams in {_grams(prompt) for prompt in prompts}:
            for gram in grams:
                self._where[gram].append(len(self._sizes))
            self._sizes.append(len(grams))

    def holds(self, prompt: str) -> bool:
        """True if one of the requests is nearly this one."""
        grams = _grams(prompt)
        common = Counter(i for gram in grams for i in self._where.get(gram, ()))
        return any(
            shared >= self._near * (len(grams) + self._sizes[i] - shared)
            for i, shared in common.items()
        )


def without_near(
    rows: Sequence[LabelledResponse], others: Iterable[LabelledResponse]
) -> tuple[list[LabelledResponse], dict[str, int]]:
    """Leave out rows whose request is nearly one of other rows'.

    Args:
        rows: Labelled responses.
        others: Rows that are measured on.

    Returns:
        The rows that stay, and how many of each source do not.
    """
    known = NearPrompts(row.prompt for row in others)
    near = {prompt for prompt in {row.prompt for row in rows} if known.holds(prompt)}
    left_out = Counter(row.source for row in rows if row.prompt in near)
    return [row for row in rows if row.prompt not in near], dict(sorted(left_out.items()))


def _grams(text: str) -> frozenset[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return frozenset(tuple(words[i : i + 3]) for i in range(max(len(words) - 2, 1)))
