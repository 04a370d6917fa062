"""`AuditLog`: every decision as one line of a JSON Lines file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Literal

from typing_extensions import override

from srr_guard.decision import Candidate, Decision
from srr_guard.errors import ConfigurationError
from srr_guard.settings import require_function

Redact = Literal["texts", "nothing"] | Callable[[str], str]
"""How the candidates' texts are redacted.

- `"texts"`: each is replaced by its SHA-256 and its length, so that equal ones can be found.
- `"nothing"`: they are written unchanged.
- a function from a text to what is written in its place.
"""


class AuditLog:
    """Writes decisions to a rotating file; pass it as `on_decision`.

    A line holds the time (UTC), `Decision.summary()`, the failures' types and, for each
    candidate, its index, text and reasoning (redacted by default) and scores. No line holds the
    prompt, which is not part of a Decision. A line is written before the answer takes effect: if
    it cannot be written, the request fails with the OSError.

    Safe to share between threads. Writing does not wait for the disk, so async callers are not
    blocked. Each file belongs to one process: rotation is not coordinated. Only its owner can
    read the file.

    Args:
        path: The file; lines are appended. Older files are `<path>.1`, `<path>.2`, ...
        max_bytes: Size that starts a new file; a longer line gets a file of its own.
        backups: How many older files are kept.
        redact: How the candidates' texts are redacted.

    Raises:
        ConfigurationError: The folder does not exist, the path is one, or an argument is out of
            range.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from srr_guard import SafetyRanker
        >>> from srr_guard.testing import FakeScorer, ScriptedChatModel
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with AuditLog(Path(folder) / "audit.jsonl", redact="nothing") as audit:
        ...         ranker = SafetyRanker(
        ...             ScriptedChatModel(answers=["fine"]),
        ...             scorer=FakeScorer(lambda prompt, answer: 0.9),
        ...             on_decision=audit,
        ...         )
        ...         answer = ranker.invoke("a question")
        ...     line = json.loads((Path(folder) / "audit.jsonl").read_text())
        >>> line["reason"], line["candidates"][0]["text"]
        ('best_of_n', 'fine')
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_bytes: int = 10_000_000,
        backups: int = 5,
        redact: Redact = "texts",
    ) -> None:
        self._path = Path(path)
        if not self._path.parent.is_dir():
            raise ConfigurationError(
                f"the folder of path={str(path)!r} does not exist: create it first"
            )
        if self._path.is_dir():
            raise ConfigurationError(f"path={str(path)!r} is a folder: name a file in it")
        if max_bytes < 1 or backups < 0:
            raise ConfigurationError(
                f"max_bytes={max_bytes!r}, backups={backups!r}: give a size above 0 and a number "
                "of files from 0 on"
            )
        if callable(redact):
            require_function("redact", redact, "a function from a text to a str")
        elif redact not in ("texts", "nothing"):
            raise ConfigurationError(
                f"redact={redact!r} is not known: give 'texts', 'nothing' or a function"
            )
        self._redact = redact
        self._file = _AuditFile(self._path, max_bytes=max_bytes, backups=backups)
        weakref.finalize(self, self._file.close)

    def __call__(self, decision: Decision) -> None:
        """Write one line.

        Raises:
            OSError: It cannot be written.
        """
        self._file.write(json.dumps(self._record(decision), ensure_ascii=False))

    def close(self) -> None:
        """Close the file; the next decision opens it again."""
        self._file.close()

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _record(self, decision: Decision) -> dict[str, Any]:
        return {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **decision.summary(),
            "failures": list(decision.failures),
            "candidates": [self._candidate(candidate) for candidate in decision.candidates],
        }

    def _candidate(self, candidate: Candidate) -> dict[str, Any]:
        record = candidate.model_dump(mode="json")
        text, trace = record.pop("text"), record.pop("trace")
        record |= self._redacted("text", text)
        return record | ({"trace": self._redacted("text", trace)} if trace else {})

    def _redacted(self, name: str, text: str) -> dict[str, Any]:
        if callable(self._redact):
            return {name: self._redact(text)}
        if self._redact == "nothing":
            return {name: text}
        digest = hashlib.sha256(text.encode()).hexdigest()
        return {"sha256": digest, "characters": len(text)}


class _AuditFile(RotatingFileHandler):
    """A rotating file for its owner only, whose errors reach the caller."""

    def __init__(self, path: Path, *, max_bytes: int, backups: int) -> None:
        super().__init__(
            path, maxBytes=max_bytes, backupCount=backups, encoding="utf-8", delay=True
        )

    def write(self, line: str) -> None:
        """Append one line, in a new file where the old one is full."""
        self.handle(logging.makeLogRecord({"msg": line}))

    @override
    def shouldRollover(self, record: logging.LogRecord) -> bool:
        """Count bytes, and let a longer line have a file of its own."""
        path = Path(self.baseFilename)
        size = path.stat().st_size if path.is_file() else 0
        return size > 0 and size + len(record.msg.encode()) + 1 > self.maxBytes

    @override
    def doRollover(self) -> None:
        """Without backups, begin the file anew."""
        super().doRollover()
        if self.backupCount == 0:
            Path(self.baseFilename).unlink()

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        """Raise what went wrong; logging would only print it."""
        raise

    @override
    def _open(self) -> Any:
        path = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return os.fdopen(path, self.mode, encoding=self.encoding)
