"""Disguised characters made plain, for scoring only: what a reader sees, a scorer should read.

Outputs are never changed. Ordinary text of any language stays as it is.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Characters that show nothing, beside those of the category Cf and variation selectors."""

_LATIN = re.compile(r"[A-Za-z]")
_LETTERS = re.compile(r"[^\W\d_]+")
_MARKS = re.compile(r"([\u0300-\u036f]{2})[\u0300-\u036f]+")

# Cyrillic, Greek and Armenian letters, and the Latin ones they look like.
_FOREIGN = "аеорсухіјѕһԁԛԝвкмнтгпАВЕКМНОРСТУХІЈЅԚԜαεικνορτυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧոսօցզ"
_ALIKE = "aeopcyxijshdqwbkmhtrnABEKMHOPCTYXIJSQWaeiknoptuxABEZHIKMNOPTYXnuogq"
_LOOK_ALIKES = str.maketrans(_FOREIGN, _ALIKE)


def plain_characters(text: str) -> str:
    """Make disguised characters plain.

    - Characters that show nothing (zero width, bidirectional controls, tags, variation selectors)
      are left out, and marks stacked on a letter beyond two.
    - Letters and digits in other dress (full width, mathematical, circled, ligatures) become plain.
    - In a text that is mostly Latin, Cyrillic, Greek and Armenian letters that look like Latin
      ones become these, in words of two letters or more that hold no other foreign letter.

    Example:
        >>> plain_characters("h\\u200ba\\u0440m, \\uff48\\uff41\\uff52\\uff4d")
        'harm, harm'
        >>> plain_characters("Привет, мир — 5 m²…")
        'Привет, мир — 5 m²…'
    """
    if text.isascii():
        return text
    text = _MARKS.sub(r"\1", "".join(map(_plain, text)))
    latin, letters = len(_LATIN.findall(text)), sum(map(str.isalpha, text))
    if 2 * latin > letters > latin:
        text = _LETTERS.sub(lambda word: _as_latin(word.group()), text)
    return text


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    if character < "\u0100":  # but the soft hyphen
        return "" if character == "\xad" else character
    if (
        unicodedata.category(character) == "Cf"
        or character in _FILLERS
        or "\ufe00" <= character <= "\ufe0f"
        or "\U000e0100" <= character <= "\U000e01ef"
        or "\u180b" <= character <= "\u180f"
    ):
        return ""
    plain = unicodedata.normalize("NFKC", character)
    single = len(plain) == 1 or "\ufb00" <= character <= "\ufb06"
    return plain if single and plain.isascii() and plain.isalnum() else character


def _as_latin(word: str) -> str:
    plain = word.translate(_LOOK_ALIKES)
    return plain if plain.isascii() and len(word) > 1 else word
