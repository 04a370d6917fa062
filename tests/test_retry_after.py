"""`seconds_to_wait`: every form in which servers name a time, and every nonsense."""

from __future__ import annotations

import doctest

import pytest

import srr_guard.retry_after as module
from srr_guard.retry_after import seconds_to_wait

NOW = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "99999999999"}, 99999999999.0),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"retry-after-ms": "-1", "retry-after": "2"}, 2.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": NOW}, 30.0),
        ({"retry-after": "Wednesday, 21-Oct-15 07:28:30 GMT", "date": NOW}, 30.0),
        ({"retry-after": "Wed Oct 21 07:28:30 2015", "date": NOW}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 09:28:30 +0200", "date": NOW}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT", "date": NOW}, 0.0),
        ({"retry-after": NOW}, 0.0),
        ({"retry-after": NOW, "date": "yesterday"}, 0.0),
    ],
    ids=str,
)
def test_a_time_is_read(headers, seconds):
    assert seconds_to_wait(headers) == seconds


@pytest.mark.parametrize(
    "said",
    [
        "",
        " ",
        "soon",
        "-1",
        "-0.5",
        "nan",
        "inf",
        "1e3",
        "1_0",
        "+5",
        "0x10",
        "5, 7",
        "5s",
        "²",
        "٣",
        "9" * 400,
        "Wed, 99 Oct 2015 07:28:00 GMT",
        "Wed, 21 Oct 99999999999 07:28:00 GMT",
    ],
)
def test_nonsense_is_no_time(said):
    assert seconds_to_wait({"retry-after": said}) is None
    assert seconds_to_wait({"retry-after-ms": said}) is None


def test_no_header_is_no_time():
    assert seconds_to_wait({"date": NOW}) is None


def test_docstring_examples():
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
