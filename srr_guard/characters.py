"""Disguised characters made plain, for scoring only: what a reader sees, a scorer should read.

Outputs are never changed. Ordinary text of any language stays as it is, but for spaces of other
widths and the composition of accents.
"""

# ruff: noqa: RUF001 (look-alikes are what this file is about)

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2065\u2800\u3164\uffa0")
"""Characters that show nothing, beside those of the category Cf and variation selectors."""
_SHOWN = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2")
"""Characters of the category Cf that do show: signs of Arabic and Syriac."""

# Joiners and variation selectors that shape letters of Arabic, Indic, Khmer and Mongolian.
_SHAPING = "\u180b-\u180f\u200c\u200d"
_SHAPER = re.compile(f"([{_SHAPING}])[{_SHAPING}]*")
_SHAPED = re.compile(f"[\u0600-\u0dff\u1780-\u18af{_SHAPING}]+")
_LETTERS_PER_SHAPER = 3

# Diacritics of the Latin, Greek and Cyrillic alphabets, and those that are lines and frames.
_DIACRITICS = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20f0\ufe20-\ufe2f"
_MARKED = re.compile(f".[{_DIACRITICS}]+", re.DOTALL)
_STACKED = re.compile(f"([{_DIACRITICS}]{{2}})[{_DIACRITICS}]+")
_LINES = re.compile(
    "[\u0305\u0332-\u0338\u033f\u0488\u0489\u20d2\u20d3\u20d8-\u20da\u20dd-\u20e0\u20e2-\u20e6"
    "\u20ea\u20eb]"
)

# Letters in other dress that NFKC gives back, where they are not ASCII: Chinese radicals and
# compatibility forms, Arabic presentation forms, mathematical Greek and Arabic.
_DRESSED = re.compile(
    "[\u2e80-\u2fd5\uf900-\ufaff\ufb50-\ufdef\ufe80-\ufefc\U0001d6a8-\U0001d7cb"
    "\U0001ee00-\U0001eeff\U0002f800-\U0002fa1f]"
)
# Letters in brackets, on black, in flags: NFKC leaves them or gives more than the letter.
_BOXED = {
    chr(start + i): chr(ord(first) + i)
    for start, first in (
        (0x249C, "a"),
        (0x1F110, "A"),
        (0x1F150, "A"),
        (0x1F170, "A"),
        (0x1F1E6, "A"),
    )
    for i in range(26)
}
_SMALL_CAPITALS = dict(zip("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghijklmnoprstuvwyz", strict=True))
_PLAIN = _BOXED | _SMALL_CAPITALS

# Letters that look the same as Latin ones, and those that look much like them: Cyrillic, Greek,
# Armenian, phonetic; Cherokee; Lisu.
_SAME = {
    "аеорсухіјѕһԁԛԝӏο": "aeopcyxijshdqwlo",
    "АВЕКМНОРСТУХІЈЅԚԜӀ": "ABEKMHOPCTYXIJSQWI",
    "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ": "ABEZHIKMNOPTYX",
}
_MUCH_LIKE = {
    "вкмнтгпαεικνρτυχոսօցզɑɡ": "bkmhtrnaeiknptuxnuogqag",
    "ᎪᏴᏟᎠᎬᏀᎻᎫᏦᏞᎷᏢᏒᏚᎢᏙᎳᏃ": "ABCDEGHJKLMPRSTVWZ",
    "ꓮꓐꓚꓓꓰꓝꓖꓧꓲꓙꓗꓡꓟꓠꓳꓑꓣꓢꓔꓴꓦꓪꓫꓬꓜ": "ABCDEFGHIJKLMNOPRSTUVWXYZ",
}
_TO_LATIN = {
    ord(a): b
    for table in (_SAME, _MUCH_LIKE)
    for foreign, latin in table.items()
    for a, b in zip(foreign, latin, strict=True)
}
_TO_CYRILLIC = str.maketrans("aeopcyxABEKMHOPCTX", "аеорсухАВЕКМНОРСТХ")

_LATIN = re.compile(r"[A-Za-z]")
_WORDS = re.compile(r"[^\W\d_]+")
_CYRILLIC = re.compile("[\u0400-\u04ff]+")
_STEM_AND_ENDING = re.compile("[A-Za-z]{2,}[\u0400-\u04ff]+")
_FOREIGN = re.compile(r"[^\W\d_\x00-\u036f\u1e00-\u1eff" + "".join(_SAME) + "]")
"""A letter of another alphabet that no Latin one is the same as."""


def plain_characters(text: str) -> str:
    """Make disguised characters plain.

    - Characters that show nothing (controls, zero width, bidirectional, tags, variation
      selectors, fillers) are left out; joiners stay in words of the scripts that need them,
      unless there is more than one for three letters.
    - Lines and frames around letters are left out, and marks stacked on a letter beyond two.
      Letters and their accents are composed. Spaces of any width become plain ones.
    - Letters and digits in other dress (full width, mathematical, circled, small capitals,
      ligatures, Arabic presentation forms, Chinese radicals) become plain.
    - In words of mixed alphabets, Cyrillic, Greek, Armenian, Cherokee and Lisu letters that look
      like Latin ones become these, in a text that is mostly Latin; where that happens, words of
      such letters alone do too. In a Cyrillic text it is the other way about.

    Not changed: words written in one alphabet, digits for letters ("h4rm"), an accent on every
    letter, spaces between letters.

    Example:
        >>> plain_characters("h\\u200b\\u0430rm, \\uff48\\uff41\\uff52\\uff4d")
        'harm, harm'
        >>> plain_characters("Привет, мир — 5 m²…")
        'Привет, мир — 5 m²…'
    """
    if text.isascii():
        return _CONTROLS.sub("", text) if _CONTROLS.search(text) else text
    text = "".join(map(_plain, text))
    if _SHAPER.search(text):
        text = _SHAPED.sub(_few_shapers, text)
    text = _MARKED.sub(_plain_marks, text)
    unmixed = _one_alphabet(text)
    return text if unmixed == text else _MARKED.sub(_plain_marks, unmixed)


def is_blank(text: str) -> bool:
    """True if a text shows nothing: it is empty, or holds spaces and invisible characters only.

    Example:
        >>> is_blank("\\u200b\\ufeff "), is_blank("\\u200b.")
        (True, False)
    """
    return not plain_characters(text).strip()


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    if character < "\xa0":
        return _CONTROLS.sub("", character)
    category = unicodedata.category(character)
    if category in ("Zs", "Zl", "Zp") and character != "\u1680":  # a space that shows
        return " " if category == "Zs" else "\n"
    if character < "\u0100":  # but the soft hyphen
        return "" if character == "\xad" else character
    if _SHAPER.match(character):  # the word decides
        return character
    if (
        (category == "Cf" and character not in _SHOWN)
        or character in _FILLERS
        or "\ufe00" <= character <= "\ufe0f"
        or "\ufff0" <= character <= "\ufff8"
        or "\U000e0000" <= character <= "\U000e0fff"
    ):
        return ""
    if character in _PLAIN:
        return _PLAIN[character]
    plain = unicodedata.normalize("NFKC", character)
    if plain.isascii():
        single = len(plain) == 1 or "\ufb00" <= character <= "\ufb06"
        return plain if single and plain.isalnum() else character
    return plain if _DRESSED.match(character) and plain.isalpha() else character


def _few_shapers(run: re.Match[str]) -> str:
    """Keep joiners that follow a letter, unless the word is strewn with them."""
    word = _SHAPER.sub(r"\1", run.group())
    if _SHAPER.match(word):
        word = word[1:]
    bare = _SHAPER.sub("", word)
    return bare if _LETTERS_PER_SHAPER * (len(word) - len(bare)) > len(bare) else word


def _plain_marks(letter: re.Match[str]) -> str:
    composed = _LINES.sub("", unicodedata.normalize("NFC", letter.group()))
    return _STACKED.sub(r"\1", unicodedata.normalize("NFC", composed))


def _one_alphabet(text: str) -> str:
    latin, foreign = len(_LATIN.findall(text)), len(_FOREIGN.findall(text))
    if not latin:
        return text
    if latin > foreign:
        if any(_LATIN.search(word) and _as_latin(word) != word for word in _WORDS.findall(text)):
            return _WORDS.sub(lambda word: _as_latin(word.group()), text)
        return text
    return _WORDS.sub(lambda word: _as_cyrillic(word.group()), text)


def _as_latin(word: str) -> str:
    plain = word.translate(_TO_LATIN)
    return plain if plain.isascii() and len(word) > 1 else word


def _as_cyrillic(word: str) -> str:
    if word.isascii() or _STEM_AND_ENDING.fullmatch(word):  # a Latin stem with an ending
        return word
    plain = word.translate(_TO_CYRILLIC)
    return plain if _CYRILLIC.fullmatch(plain) else word
