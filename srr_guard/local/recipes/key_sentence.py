"""The key sentence of a reasoning trace: where it turns from reading to judging (SafeKey)."""

from __future__ import annotations

import re

_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+(?=\s|\Z)|\n|\Z)|[.!?]+")
_WORD = re.compile(r"\w+")
_OPENED = re.compile(r"\s*<(?:think|thinking)>\s*", re.IGNORECASE)
_ANY_QUESTION = frozenset(
    ("and", "are", "can", "does", "for", "how", "that", "the", "this", "what", "why", "with", "you")
)
_OVERLAP = 0.3
_MOST = 4


def key_sentence(answer: str, request: str) -> tuple[int, int] | None:
    """Where the key sentence of an answer's reasoning begins and ends, in characters.

    The reasoning's first sentences, four at most and of its first paragraph, restate the request
    as long as each shares 0.3 of its words with it. The key sentence is the next one (SafeKey,
    arXiv 2505.16186, gives its indices with the data; this rule is ours).

    Args:
        answer: The answer so far, from `<think>` on.
        request: What was asked.

    Returns:
        None where there is no reasoning, it restates nothing, or the sentence is not whole yet.

    Example:
        >>> key_sentence("<think>You ask how bees fly. That is harmless. So", "How do bees fly?")
        (29, 46)
    """
    opened = _OPENED.match(answer)
    if opened is None:
        return None
    asked = set(_words(request))
    end: int | None = None
    for number, found in enumerate(_SENTENCE.finditer(answer, opened.end())):
        text = found.group()
        if not text.strip() or "</think" in text.lower():
            return None if end is None or "</think" in text.lower() else _next(answer, end)
        words = _words(text)
        restates = bool(words) and len(asked.intersection(words)) / len(set(words)) >= _OVERLAP
        if not restates or number == _MOST:
            return None if end is None else _next(answer, end)
        end = found.end()
        if text.endswith("\n"):
            return _next(answer, end)
    return None


def _next(answer: str, end: int) -> tuple[int, int] | None:
    """The sentence after a place, once something follows it."""
    found = _SENTENCE.search(answer, end)
    while found is not None and not found.group().strip():
        found = _SENTENCE.search(answer, found.end())
    if found is None or found.end() == len(answer) or "</think" in found.group().lower():
        return None
    start = found.start() + len(found.group()) - len(found.group().lstrip())
    return start, found.end()


def _words(text: str) -> list[str]:
    """The words that say something: not the shortest, nor those of any question."""
    return [w for w in _WORD.findall(text.lower()) if len(w) > 2 and w not in _ANY_QUESTION]
