"""Labelled responses: the JSON Lines schema, read and checked line by line."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from srr_guard.conversation import Conversation, Turn
from srr_guard.errors import DataError, MissingExtraError

CONTRAST = "contrast"
"""Name of the set of look-alike requests that comes with the package."""

_PACKAGED = {CONTRAST: Path(__file__).parent / "contrast"}
_HELPS = frozenset({"benign-help", "partial-help"})
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
        kind: What the answer does, if known: `benign-help`, `partial-help`, `over-refusal`,
            `partial-over-refusal`, `refusal`, `compliance`, `partial`, `safe-answer`, ...
        source: The collection that it comes from; default: the name of its file.
        file: Name of the file it was read from, without endings; set by the reader, empty for
            the sets that come with the package.
        goal_id: Rows with one goal share it; splits never cut through it. Default: a digest
            of `goal`, or of the prompt.
        goal: The plain request behind an attack prompt.
        prompt_type: Whether the request itself is `safe` or `unsafe`, if known.
        label_conf: `preference` marks a label that only ranks rows of one prompt.
        licence: Licence of the row.
        pair: Rows of two look-alike requests share it (see the contrast set).
        made: How `augment` made it; empty for a row of the data.
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
    pair: str = ""
    made: str = ""

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
    def harmful(self) -> bool:
        """Whether it does harm, by a label that stands by itself."""
        return self.absolute and not self.safe

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
        data: Files (`.jsonl`, `.jsonl.gz`), folders of them, names of Hugging Face data
            sets as `hf:owner/name` or `hf:owner/name:split`, or `contrast`, the set of
            look-alike requests that comes with the package.

    Raises:
        DataError: A file is missing or a row is malformed; the text names file and line.
        MissingExtraError: A data set is asked for and `datasets` is not installed.
    """
    rows: list[LabelledResponse] = []
    for item in data:
        if isinstance(item, str) and item.startswith("hf:"):
            rows += _hub_rows(item.removeprefix("hf:"))
        else:
            for file in _files(item):
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
            for file in _files(item):
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
    rows: Sequence[LabelledResponse],
    *,
    per_source: int | None = None,
    limits: Mapping[str, int] | None = None,
    seed: int,
) -> list[LabelledResponse]:
    """Take a limited number of rows of each source, from all its prompts in turn.

    Args:
        rows: Labelled responses.
        per_source: Most rows of each source; None: all.
        limits: Most rows of the sources named here, in place of that.
        seed: Makes the choice repeatable.
    """
    if per_source is None and not limits:
        return list(rows)
    chosen: list[LabelledResponse] = []
    for source in sorted({row.source for row in rows}):
        own = [r for r in rows if r.source == source]
        most = (limits or {}).get(source, per_source)
        if most is not None and most < len(own):
            groups = list(by_prompt(own).values())
            random.Random(f"{seed}:{source}").shuffle(groups)
            rounds = zip_longest(*(_mixed(group, seed=seed) for group in groups))
            own = list(islice((r for turn in rounds for r in turn if r is not None), most))
        chosen += own
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


def _mixed(group: Sequence[LabelledResponse], *, seed: int) -> list[LabelledResponse]:
    """The rows of one prompt, shuffled, safe and unsafe in turn while there are both."""
    rng = random.Random(f"{seed}:{group[0].prompt}")
    shuffled = rng.sample(group, len(group))
    sides = [[r for r in shuffled if r.safe], [r for r in shuffled if not r.safe]]
    turns = zip_longest(*rng.sample(sides, 2))
    return [r for turn in turns for r in turn if r is not None]


def _files(item: str | os.PathLike[str]) -> list[Path]:
    path = Path(item)
    if item in _PACKAGED and not path.exists():
        path = _PACKAGED[str(item)]
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
                own = "" if file.parent in _PACKAGED.values() else name
                yield _row(line, where=f"{file.name}, line {number}", name=name, file=own)


def _row(line: str, *, where: str, name: str, file: str) -> LabelledResponse:
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise DataError(f"{where}: a row must be a JSON object, got {type(record).__name__}")
        return LabelledResponse(**{"source": name, **record, "file": file})
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
        yield _row(
            json.dumps(record, default=str), where=f"{name}, row {number}", name=path, file=path
        )
