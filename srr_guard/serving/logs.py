"""Log lines as JSON or text, one a record, without anybody's text."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal

from srr_guard.serving.note import Note
from srr_guard.visible import visible_line

logger = logging.getLogger("srr_guard.requests")


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the record's `fields`.

    Of an exception its type is written, not its text, which may hold a prompt.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
        return json.dumps(line)


class TextLines(logging.Formatter):
    """One line of text a record; what cannot be printed is escaped.

    Of an exception its type is written, as in `JsonLines`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        time = self.formatTime(record)
        line = f"{time} {record.levelname} {record.name}: {record.getMessage()}"
        if record.exc_info and record.exc_info[0] is not None:
            line += f" ({record.exc_info[0].__name__})"
        return visible_line(line)


def log_request(note: Note, seconds: float) -> None:
    """Write the line of a request; those for health and metrics at debug level."""
    quiet = note.endpoint in ("/healthz", "/readyz", "/metrics")
    level = logging.DEBUG if quiet else logging.ERROR if note.status >= 500 else logging.INFO
    if logger.isEnabledFor(level):
        fields = {**note.record(), "seconds": round(seconds, 4)}
        words = " ".join(f"{name}={value}" for name, value in fields.items())
        logger.log(level, words if _plain() else "request", extra={"fields": fields})


def _plain() -> bool:
    return not any(isinstance(h.formatter, JsonLines) for h in logging.getLogger().handlers)


def configure(form: Literal["json", "text"]) -> None:
    """Send the log lines of the process to standard error in this form."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("httpx2", "httpcore2"):  # a line for each call of a server
        logging.getLogger(name).setLevel(logging.WARNING)
