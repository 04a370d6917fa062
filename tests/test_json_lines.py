"""Files that are not what they should be are named, with the line and the mend."""

from __future__ import annotations

import pytest

from srr_guard.errors import InvalidInputError
from srr_guard.json_lines import foreign_form, strict_json, utf8_text

TEXT = '{"a": "é"}\n{"b": 2}\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf8_is_read_without_its_mark(encoding: str) -> None:
    content = TEXT.encode(encoding)
    assert foreign_form(content) is None
    assert utf8_text(content, "a.json") == TEXT
    assert strict_json(TEXT.splitlines()[0].encode(encoding)) == {"a": "é"}


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (TEXT.encode("utf-16"), "UTF-16"),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), "UTF-16"),
        (TEXT.encode("utf-16-le"), "UTF-16 or binary"),
        (TEXT.encode("utf-32"), "UTF-32"),
        (b"\x1f\x8b\x08", "packed with gzip"),
        (b"PAR1", "Parquet"),
    ],
)
def test_other_forms_are_named(content: bytes, form: str) -> None:
    with pytest.raises(InvalidInputError, match=f"a.json cannot be read: it is {form}; give .*UTF"):
        utf8_text(content, "a.json")


def test_the_line_of_a_byte_that_is_not_utf8() -> None:
    with pytest.raises(InvalidInputError, match=r"a.json, line 2: not UTF-8 \(byte 0xe9\): save"):
        utf8_text("ok\né\n".encode("latin-1"), "a.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "'a' is there twice"),
        ('[{"b": {"c": 1, "c": 1}}]', "'c' is there twice"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": -Infinity}', "-Infinity is not JSON"),
        ('{"a": 1e999}', "1e999 is too large"),
    ],
)
def test_strict_json(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        strict_json(text)
