"""Text that is shown in a terminal or a log: nothing in it steers what shows it."""

from __future__ import annotations

import logging
import re
from typing import Any

# Controls but for tab and newline; line and paragraph separators, embeddings, overrides and
# isolates of bidirectional text; halves of surrogate pairs, which no encoding has.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKING = re.compile("[\t\n]")


def visible(text: str) -> str:
    """Write control characters as escapes, so that they are seen and do nothing.

    Tabs and line ends stay. Characters that turn the direction of a text, as in "trojan source",
    count as controls.

    Example:
        >>> visible("a\\x1b[31m\\u202e b\\r\\n")
        'a\\\\x1b[31m\\\\u202e b\\n'
    """
    return _STEERING.sub(_escape, text.replace("\r\n", "\n"))


def visible_line(text: str) -> str:
    """The same, on one line: tabs and line ends are escapes too.

    Example:
        >>> visible_line("one\\nINFO two")
        'one\\\\nINFO two'
    """
    return _BREAKING.sub(_escape, _STEERING.sub(_escape, text))


def _escape(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode()


class VisibleLines(logging.Formatter):
    """Log lines as text: what a stranger wrote cannot begin a line of its own or steer a terminal.

    Example:
        >>> record = logging.makeLogRecord({"msg": "held: %s", "args": ("a\\nINFO b",)})
        >>> VisibleLines("%(message)s").format(record)
        'held: a\\\\nINFO b'
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own name)
        """Write the line of a record."""
        return visible_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Write a traceback, on its many lines."""
        return visible(super().formatException(ei))
