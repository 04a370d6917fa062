"""Ranks the rows of a file: resumable, no row lost or doubled, bad rows set aside."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from srr_guard import parquet
from srr_guard.conversation import Conversation
from srr_guard.errors import ConfigurationError, DataError, InvalidInputError
from srr_guard.json_lines import foreign_form, not_utf8, strict_json
from srr_guard.protocols import ProgressCallback, ResponseScorer

_PROMPTS = ("prompt", "conversation", "messages")
_OWN = ("line", "ranking")


@dataclass(frozen=True)
class BulkResult:
    """What was done.

    Attributes:
        ranked: Rows ranked now.
        bad: Rows set aside now.
        skipped: Rows that an earlier run had done.
        bad_rows: File of the rows set aside.
        in_vain: There are rows, and none could be ranked, now or by an earlier run.
    """

    ranked: int
    bad: int
    skipped: int
    bad_rows: Path
    in_vain: bool = False


def rank_file(
    source: Path,
    output: Path,
    *,
    scorer: ResponseScorer,
    bad_rows: Path | None = None,
    at_once: int = 64,
    progress: ProgressCallback | None = None,
) -> BulkResult:
    """Rank the candidates of each row of a JSON Lines or Parquet file.

    A row has `prompt` (a text; or `conversation` or `messages`) and `candidates`, a list of texts.
    It is written to `output` unchanged, with `ranking` (order, scores, `p_safe`, verdicts) and
    `line`, its number in the file; fields of its own with these names are kept as `input_ranking`
    and `input_line`. Rows stand in their order; a row that cannot be ranked stands
    in `bad_rows`, with `line` and `reason`.

    A run that was interrupted, by whatever, goes on after the last whole row that is in either
    file; what was cut off in the middle of a row is written anew.

    Args:
        source: JSON Lines, or Parquet by its name (`.parquet`, `.pq`).
        output: JSON Lines, made or continued; or Parquet, written from `OUTPUT.part` at the end.
        scorer: Ranks the candidates.
        bad_rows: File for rows that cannot be ranked; None: `output` with `.bad` behind it.
        at_once: Rows that are with the scorer together.
        progress: Told of the bytes of `source` that are done, with `rows_per_second`.

    Raises:
        ConfigurationError: A file cannot be read or written, or `output` is of another run.
        MissingExtraError: A file is Parquet, and the extra `bulk` is not installed.
        ScorerError: The scorer cannot be used; what is written stays, and a further run goes on.

    Example:
        >>> import json, tempfile
        >>> from srr_guard.testing import FakeScorer
        >>> folder = Path(tempfile.mkdtemp())
        >>> row = {"prompt": "q", "candidates": ["a bad answer", "a good answer"]}
        >>> _ = (folder / "in.jsonl").write_text(json.dumps(row))
        >>> scorer = FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1)
        >>> rank_file(folder / "in.jsonl", folder / "out.jsonl", scorer=scorer).ranked
        1
        >>> json.loads((folder / "out.jsonl").read_text())["ranking"]["order"]
        [1, 0]
    """
    aside = bad_rows or output.with_name(f"{output.name}.bad")
    if parquet.is_parquet(source) or parquet.is_parquet(output):
        parquet.require_parquet()
    if len({path.resolve() for path in (source, output, aside)}) < 3:
        raise ConfigurationError(
            f"--input {str(source)!r}, --output {str(output)!r} and --bad-rows {str(aside)!r}: "
            "give three different files"
        )
    if source.is_dir():
        raise ConfigurationError(f"{str(source)!r} is a folder: name a file")
    # Parquet is written at the end, from lines that can be continued
    written = output.with_name(f"{output.name}.part") if parquet.is_parquet(output) else output
    if packed := [path for path in (source, output, aside) if path.suffix == ".gz"]:
        raise ConfigurationError(f"{str(packed[0])!r}: compressed files are not supported")
    try:
        if written != output and output.exists() and not written.exists():
            _require_same(source, output, parquet.last(output))
            there = parquet.rows_in(output)
            in_vain = not there and aside.exists() and aside.stat().st_size > 0
            return BulkResult(0, 0, there, aside, in_vain)
        rows = _Rows(source)
        done = 0
        for file in (written, aside):
            last = _resume(file)
            _require_same(source, file, last)
            done = max(done, 0 if last is None else last["line"])
        with _append(written) as good, _append(aside) as bad:
            run = _Run(scorer, at_once, progress)
            asyncio.run(run.all(rows, good, bad, done))
        in_vain = run.seen > 0 and not written.stat().st_size and aside.stat().st_size > 0
        if written != output:
            parquet.write(written, output)
            written.unlink()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"{_file_of(error) or str(source)!r}: {why}") from error
    return BulkResult(run.ranked, run.bad, min(done, run.seen), aside, in_vain)


class _Rows:
    """The rows of a file as lines, and how far they are read: in bytes, or rows of Parquet."""

    def __init__(self, source: Path) -> None:
        self._read = 0
        self._bytes = not parquet.is_parquet(source)
        if parquet.is_parquet(source):
            self.size = parquet.rows_in(source)
            self._lines: Iterator[bytes] = parquet.lines(source)
        else:
            self.size = source.stat().st_size
            self._lines = self._of_file(source)

    @property
    def done(self) -> int:
        """How much of `size` is read."""
        return min(self._read, self.size)

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            self._read += len(line) if self._bytes else 1
            yield line

    @staticmethod
    def _of_file(source: Path) -> Iterator[bytes]:
        with open(source, "rb") as file:
            if (form := foreign_form(file.read(1024))) is not None:
                raise ConfigurationError(
                    f"{str(source)!r} cannot be read: it is {form}; give JSON Lines in UTF-8"
                )
            file.seek(0)
            yield from file


class _Run:
    """One run over a file."""

    def __init__(
        self,
        scorer: ResponseScorer,
        at_once: int,
        progress: ProgressCallback | None,
    ) -> None:
        self.ranked = self.bad = self.seen = 0
        self._scorer = scorer
        self._at_once = at_once
        self._progress = progress
        self._started = time.perf_counter()

    async def all(self, rows: _Rows, good: IO[bytes], bad: IO[bytes], done: int) -> None:
        """Rank all rows after the first `done` ones, and write them in their order."""
        async for number, line, outcome in self._outcomes(rows, done):
            row, reason = await outcome
            if reason is None:
                _write(good, row)
                self.ranked += 1
            else:
                _write(bad, {"line": number, "reason": reason, "row": _shown(line)})
                self.bad += 1
            self._report(rows)

    async def _outcomes(
        self, rows: _Rows, done: int
    ) -> AsyncIterator[tuple[int, bytes, asyncio.Task[tuple[dict[str, Any], str | None]]]]:
        """Rows in their order, with the task of each; so many tasks at a time."""
        ahead: list[tuple[int, bytes, asyncio.Task[tuple[dict[str, Any], str | None]]]] = []
        try:
            for number, line in enumerate(rows, start=1):
                self.seen = number
                if number <= done or not line.strip():
                    continue
                ahead.append((number, line, asyncio.create_task(self._rank(number, line))))
                if len(ahead) >= self._at_once:
                    yield ahead.pop(0)
            while ahead:
                yield ahead.pop(0)
        finally:
            for _, _, task in ahead:
                task.cancel()
            await asyncio.gather(*(task for _, _, task in ahead), return_exceptions=True)

    async def _rank(self, number: int, line: bytes) -> tuple[dict[str, Any], str | None]:
        """The row with its ranking; or why it has none."""
        try:
            row, asked, candidates = _read(line)
            ranking = await self._scorer.ascore(asked, candidates)
        except (InvalidInputError, DataError, ConfigurationError) as error:
            return {}, str(error)
        own = {"line": number, "ranking": {**ranking.model_dump(), "verdicts": ranking.verdicts}}
        return {**_renamed(row, own), **own}, None

    def _report(self, rows: _Rows) -> None:
        if self._progress is not None:
            count = self.ranked + self.bad
            rate = count / max(1e-9, time.perf_counter() - self._started)
            self._progress("rank", rows.done, rows.size, rows_per_second=rate)


def _renamed(row: dict[str, Any], own: Collection[str]) -> dict[str, Any]:
    """The row, with `input_` before the names that the output needs itself."""
    return {f"input_{name}" if name in own else name: value for name, value in row.items()}


def _read(line: bytes) -> tuple[dict[str, Any], Conversation, list[str]]:
    """A row, what was asked, and its candidates.

    Raises:
        DataError: It is no JSON object, or a part is missing or of the wrong kind.
        InvalidInputError: What was asked cannot be read.
    """
    try:
        row = strict_json(line)
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(error)) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"no JSON object but {type(row).__name__!r}")
    asked = next((row[name] for name in _PROMPTS if row.get(name) is not None), None)
    if taken := [name for name in _OWN if name in row and f"input_{name}" in row]:
        raise DataError(
            f"there are {taken[0]} and input_{taken[0]}, and the output keeps the first under the "
            "name of the second: rename one"
        )
    if asked is None:
        raise DataError(f"there is no prompt: give one of {', '.join(_PROMPTS)}")
    candidates = row.get("candidates")
    if not isinstance(candidates, list) or not candidates:
        raise DataError("candidates: give a list with at least one text")
    if wrong := [i for i, text in enumerate(candidates) if not isinstance(text, str)]:
        raise DataError(f"candidates.{wrong[0]} is no text")
    return row, Conversation.of(asked), candidates


def _write(file: IO[bytes], row: dict[str, Any]) -> None:
    """One line, by one call, so that a kill cuts off the last line at most."""
    try:
        file.write(json.dumps(row).encode() + b"\n")
        file.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, file.name) from error


def _file_of(error: BaseException | None) -> str | None:
    """The file of an error, or of the one that came before it: closing a file fails once more."""
    while error is not None:
        if name := getattr(error, "filename", None):
            return str(name)
        error = error.__context__
    return None


def _append(path: Path) -> IO[bytes]:
    return open(path, "ab", buffering=1 << 20)


def _shown(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\n")


def _resume(path: Path) -> dict[str, Any] | None:
    """The last row in a file that an earlier run has written; None without one.

    A last line without an end was cut off, and is removed.

    Raises:
        ConfigurationError: The file was not written by this command.
    """
    if not path.exists():
        return None
    last, cut = None, None
    with open(path, "rb+") as file:
        for line, end in _lines(file):
            if line.endswith(b"\n"):
                last = line
            else:
                cut = line, end - len(line)
        found = None if last is None else _written(last, path)
        if cut is not None:
            _require_ours(cut[0], path)
            file.truncate(cut[1])
    return found


def _written(line: bytes, path: Path) -> dict[str, Any]:
    """A row that this command has written."""
    with suppress(ValueError):
        row = json.loads(line)
        if isinstance(row, dict) and type(row.get("line")) is int and row["line"] > 0:
            return row
    raise _foreign(path)


def _require_ours(cut: bytes, path: Path) -> None:
    """Refuse to remove what this command did not begin to write."""
    try:
        whole = json.loads(cut)
    except ValueError:
        is_ours = cut.startswith(b"{")
    else:
        is_ours = isinstance(whole, dict) and "line" in whole
    if not is_ours:
        raise _foreign(path)


def _foreign(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{str(path)!r} was not written by this command: name another file, or remove it"
    )


def _require_same(source: Path, path: Path, last: dict[str, Any] | None) -> None:
    """Refuse to go on with rows of another file.

    Raises:
        ConfigurationError: The last row was not made of the row with its number in `source`.
    """
    if last is None:
        return
    line = next(islice(_Rows(source), last["line"] - 1, None), b"")
    if "ranking" not in last:  # it stands in the file for bad rows
        same = last.get("row") == _shown(line)
    else:
        row: Any = None
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
        same = isinstance(row, dict) and _identity(row) == _identity(last)
    if not same:
        raise ConfigurationError(
            f"{str(path)!r} holds other rows than {str(source)!r}: line {last['line']} differs; "
            "name another output, or remove it"
        )


def _identity(row: dict[str, Any]) -> tuple[Any, Any]:
    """What tells rows apart, also after they went through Parquet."""
    asked = row.get("prompt")
    said = asked.encode("utf-8", "replace") if isinstance(asked, str) else None
    return said, row.get("candidates")


def _lines(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """The last lines of a file, each with the place of its end."""
    file.seek(0, os.SEEK_END)
    size = file.tell()
    step = 1 << 16
    while True:
        begin = max(0, size - step)
        file.seek(begin)
        block = file.read(size - begin)
        whole = block if begin == 0 else block[block.find(b"\n") + 1 :]
        if begin == 0 or whole.count(b"\n") >= 1:
            break
        step *= 2
    end = size - len(whole)
    for line in whole.splitlines(keepends=True):
        end += len(line)
        yield line, end
