"""Labelled responses: the JSON Lines schema, read and checked line by line."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from srr_guard.conversation import Conversation, Turn
from srr_guard.errors import DataError, MissingExtraError

_HELPS = frozenset({"benign-help"})
_NEEDLESS = frozenset({"over-refusal", "partial-over-refusal"})
_REFUSES = frozenset({"refusal", "over-refusal"})
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant): ")


class LabelledResponse(BaseModel):
    """One row: a response to a prompt, and whether it is safe.

    Fields that are not listed here are ignored.

    Attributes:
        prompt: The prompt; a dialogue may be written in `Human:` / `Assistant:` turns.
        response: The answer that is labelled.
        label: `safe` or `unsafe`.
        kind: What the answer does, if known: `benign-help`, `over-refusal`,
            `partial-over-refusal`, `refusal`, `compliance`, `partial`, `safe-answer`, ...
        source: The collection that it comes from; default: the name of its file.
        file: Name of the file it was read from, without endings; set by the reader.
        goal_id: Rows with one goal share it; splits never cut through it. Default: a digest
            of `goal`, or of the prompt.
        goal: The plain request behind an attack prompt.
        prompt_type: Whether the request itself is `safe` or `unsafe`, if known.
        label_conf: `preference` marks a label that only ranks rows of one prompt.
        licence: Licence of the row.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompt: str = Field(min_length=1)
    response: str
    label: Literal["safe", "unsafe"]
    kind: str | None = None
    source: str = "unnamed"
    file: str = ""
    goal: str | None = None
    goal_id: str = ""
    prompt_type: Literal["safe", "unsafe"] | None = None
    label_conf: str | None = None
    licence: str | None = None

    def model_post_init(self, _context: Any) -> None:
        """Give rows without a `goal_id` one."""
        if not self.goal_id:
            seed = (self.goal or self.prompt).strip().lower()
            object.__setattr__(self, "goal_id", hashlib.sha256(seed.encode()).hexdigest()[:12])

    @property
    def conversation(self) -> Conversation:
        """The prompt as turns."""
        return dialogue(self.prompt)

    @property
    def safe(self) -> bool:
        """Whether the label says safe."""
        return self.label == "safe"

    @property
    def absolute(self) -> bool:
        """Whether the label stands by itself, not only against its neighbour."""
        return self.label_conf != "preference"

    @property
    def helps(self) -> bool | None:
        """Whether it helps a benign request; None where that is not known."""
        if self.kind in _HELPS:
            return True
        return False if self.kind in _NEEDLESS else None

    @property
    def refuses(self) -> bool:
        """Whether it is a plain refusal."""
        return self.kind in _REFUSES


def dialogue(prompt: str) -> Conversation:
    """Read `Human:` / `Assistant:` turns; any other text is one user turn."""
    if not prompt.startswith("Human: "):
        return Conversation.of(prompt)
    parts = _SPEAKER.split(prompt)[1:]
    turns = tuple(
        Turn(role="user" if who == "Human" else "assistant", text=text.strip())
        for who, text in zip(parts[::2], parts[1::2], strict=True)
    )
    return Conversation(turns=turns)


def read_rows(data: Iterable[str | os.PathLike[str]]) -> list[LabelledResponse]:
    """Read labelled responses.

    Args:
        data: Files (`.jsonl`, `.jsonl.gz`), folders of them, or names of Hugging Face data
            sets as `hf:owner/name` or `hf:owner/name:split`.

    Raises:
        DataError: A file is missing or a row is malformed; the text names file and line.
        MissingExtraError: A data set is asked for and `datasets` is not installed.
    """
    rows: list[LabelledResponse] = []
    for item in data:
        if isinstance(item, str) and item.startswith("hf:"):
            rows += _hub_rows(item.removeprefix("hf:"))
        else:
            for file in _files(Path(item)):
                rows += _file_rows(file)
    if not rows:
        raise DataError(f"no rows in {[str(d) for d in data]!r}: give JSON Lines files")
    return rows


def data_digests(data: Iterable[str | os.PathLike[str]]) -> dict[str, str]:
    """SHA-256 of every file's uncompressed text, by name; hub data sets have none."""
    digests: dict[str, str] = {}
    for item in data:
        if isinstance(item, str) and item.startswith("hf:"):
            digests[item] = ""
        else:
            for file in _files(Path(item)):
                with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as content:
                    digests[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return digests


def by_prompt(rows: Iterable[LabelledResponse]) -> dict[str, list[LabelledResponse]]:
    """Group rows by prompt, so that each prompt is encoded once."""
    groups: defaultdict[str, list[LabelledResponse]] = defaultdict(list)
    for row in rows:
        groups[row.prompt].append(row)
    return dict(groups)


def sample_rows(
    rows: Sequence[LabelledResponse], *, per_source: int | None, seed: int
) -> list[LabelledResponse]:
    """Take at most `per_source` rows of each source, whole prompts, shuffled by seed."""
    if per_source is None:
        return list(rows)
    chosen: list[LabelledResponse] = []
    for source in sorted({row.source for row in rows}):
        groups = list(by_prompt(r for r in rows if r.source == source).values())
        random.Random(f"{seed}:{source}").shuffle(groups)
        # at most eight answers per prompt, so that a few prompts do not fill the quota
        taken = [row for group in groups for row in _spread(group, most=8, seed=seed)]
        chosen += taken[:per_source]
    return chosen


def split_by_goal(
    rows: Sequence[LabelledResponse], *, held_back: float, seed: int
) -> tuple[list[LabelledResponse], list[LabelledResponse]]:
    """Split rows so that no goal is on both sides.

    Args:
        rows: Labelled responses.
        held_back: Share of the goals that goes to the second list, in (0, 1).
        seed: Changes which goals they are.
    """

    def is_held_back(row: LabelledResponse) -> bool:
        digest = hashlib.sha256(f"{seed}:{row.goal_id}".encode()).digest()
        return int.from_bytes(digest[:4]) / 2**32 < held_back

    return [r for r in rows if not is_held_back(r)], [r for r in rows if is_held_back(r)]


def _spread(group: Sequence[LabelledResponse], *, most: int, seed: int) -> list[LabelledResponse]:
    """Up to `most` rows of one prompt, unsafe and safe in turn."""
    shuffled = random.Random(seed).sample(group, len(group))
    safe = [r for r in shuffled if r.safe]
    unsafe = [r for r in shuffled if not r.safe]
    mixed = [r for pair in zip(safe, unsafe, strict=False) for r in pair]
    rest = safe[len(mixed) // 2 :] + unsafe[len(mixed) // 2 :]
    return [*mixed, *rest][:most]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(f for p in ("*.jsonl", "*.jsonl.gz") for f in path.glob(p))
        if not files:
            raise DataError(f"no .jsonl or .jsonl.gz files in the folder {str(path)!r}")
        return files
    if not path.is_file():
        raise DataError(f"no such file or folder: {str(path)!r}")
    return [path]


def _file_rows(file: Path) -> Iterator[LabelledResponse]:
    name = file.name.removesuffix(".gz").removesuffix(".jsonl")
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _row(line, where=f"{file.name}, line {number}", name=name)


def _row(line: str, *, where: str, name: str) -> LabelledResponse:
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise DataError(f"{where}: a row must be a JSON object, got {type(record).__name__}")
        return LabelledResponse(**{"source": name, **record, "file": name})
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DataError(f"{where}: {field}={first['input']!r:.80}: {first['msg']}") from error


def _hub_rows(name: str) -> Iterator[LabelledResponse]:
    try:
        load_dataset = import_module("datasets").load_dataset
    except ImportError as error:
        raise MissingExtraError(
            package="datasets", extra="datasets", purpose=f"reading the data set {name!r}"
        ) from error
    path, _, split = name.partition(":")
    try:
        records = load_dataset(path, split=split or "train")
    except Exception as error:
        raise DataError(
            f"the data set {name!r} could not be loaded ({type(error).__name__}: {error}): check "
            "the name and the network, or give a local file"
        ) from error
    for number, record in enumerate(records, start=1):
        yield _row(json.dumps(record, default=str), where=f"{name}, row {number}", name=path)
