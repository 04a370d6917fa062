"""`AuditLog`: every decision as one line of a JSON Lines file."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from srr_guard.decision import Candidate, Decision
from srr_guard.errors import ConfigurationError

Redact = Literal["texts", "nothing"] | Callable[[str], str]
"""What becomes of the candidates' texts.

- `"texts"`: each is replaced by its SHA-256 and its length, so that equal ones can be found.
- `"nothing"`: they are written as they are.
- a function from a text to what is written in its place.
"""


class AuditLog:
    """Writes decisions to a file that rotates; to be given as `on_decision`.

    A line holds the time (UTC), `Decision.summary()`, the failures' types and for each
    candidate its index, text (redacted by default) and scores. The prompt is not part of a
    Decision, and no line holds it. A line is written before the answer takes effect: when it
    cannot be written, the request fails with the OSError.

    Safe to share between threads. A line is one write without waiting for the disk, so async
    callers are not held up. Each file belongs to one process: rotation is not coordinated.
    The file is readable for its owner only.

    Args:
        path: The file; lines are appended. Older files are `<path>.1`, `<path>.2`, ...
        max_bytes: Size that starts a new file; a longer line gets a file of its own.
        backups: How many older files are kept.
        redact: What becomes of the candidates' texts.

    Raises:
        ConfigurationError: The folder does not exist, or an argument is out of range.

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
            raise ConfigurationError(f"path={str(path)!r} is in no folder: make it first")
        if max_bytes < 1 or backups < 0:
            raise ConfigurationError(
                f"max_bytes={max_bytes!r}, backups={backups!r}: give a size above 0 and a number "
                "of files from 0 on"
            )
        if not callable(redact) and redact not in ("texts", "nothing"):
            raise ConfigurationError(
                f"redact={redact!r} is not known: give 'texts', 'nothing' or a function"
            )
        self._max_bytes = max_bytes
        self._backups = backups
        self._redact = redact
        self._lock = threading.Lock()
        self._file: int | None = None
        self._size = 0

    def __call__(self, decision: Decision) -> None:
        """Write one line.

        Raises:
            OSError: It cannot be written.
        """
        line = json.dumps(self._record(decision), ensure_ascii=False).encode() + b"\n"
        with self._lock:
            if self._file is None:
                self._open()
            if self._size and self._size + len(line) > self._max_bytes:
                self._rotate()
            self._write(line)

    def close(self) -> None:
        """Close the file; the next decision opens it again."""
        with self._lock:
            self._close()

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
        text = record.pop("text")
        if callable(self._redact):
            return {**record, "text": self._redact(text)}
        if self._redact == "nothing":
            return {**record, "text": text}
        digest = hashlib.sha256(text.encode()).hexdigest()
        return {**record, "sha256": digest, "characters": len(text)}

    # ---- the file; all of this with the lock held ----

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._size = os.fstat(self._file).st_size

    def _write(self, line: bytes) -> None:
        assert self._file is not None
        left = memoryview(line)
        while left:
            written = os.write(self._file, left)
            self._size += written
            left = left[written:]

    def _rotate(self) -> None:
        self._close()
        for i in range(self._backups, 0, -1):
            newer = self._older(i - 1)
            if newer.exists():
                newer.replace(self._older(i))
        if self._backups == 0:
            self._path.unlink()
        self._open()

    def _older(self, i: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{i}") if i else self._path

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
