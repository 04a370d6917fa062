"""Reads labelled responses from files, folders and the hub, and checks them line by line."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from srr_guard.errors import DataError, MissingExtraError
from srr_guard.json_lines import foreign_form, not_utf8, strict_json
from srr_guard.reading import valid_unicode
from srr_guard.reference.cache_folder import cached
from srr_guard.training.data.hub_names import HubName
from srr_guard.training.data.rows import LabelledResponse

CONTRAST = "contrast"
"""Name of the project's set of look-alike requests."""


Data = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""One file, folder or data set, or several of them."""


def read_rows(data: Data) -> list[LabelledResponse]:
    """Read labelled responses.

    Args:
        data: Files (`.jsonl`, `.jsonl.gz`), folders of them, names of Hugging Face data
            sets as `hf:owner/name`, `hf:owner/name:split` or `hf:owner/name/config:split`, or
            `contrast`, the project's set of look-alike requests (see `contrast_folder`).

    Raises:
        DataError: A file is missing or a row is malformed; the text names file and line.
        MissingExtraError: A data set is asked for and `datasets` is not installed.
    """
    rows: list[LabelledResponse] = []
    items = data_items(data)
    for item in items:
        if isinstance(item, str) and item.startswith("hf:"):
            rows += _hub_rows(item.removeprefix("hf:"))
        else:
            for file in _files(item):
                rows += _file_rows(file)
    if not rows:
        raise DataError(f"no rows in {[str(item) for item in items]!r}: give JSON Lines files")
    return rows


def data_digests(data: Data) -> dict[str, str]:
    """SHA-256 of every file's uncompressed text, by name; hub data sets have none."""
    digests: dict[str, str] = {}
    for item in data_items(data):
        if isinstance(item, str) and item.startswith("hf:"):
            digests[item] = ""
        else:
            for file in _files(item):
                with _opened(file) as content:
                    digests[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return digests


def contrast_folder() -> Path:
    """Find the contrast set: in the project's repository, or in the cache.

    Raises:
        DataError: It is in neither place; the text says where to get it.
    """
    places = (Path(__file__).parents[3] / "data" / CONTRAST, cached(CONTRAST))
    for place in places:
        if any(place.glob("*.jsonl")):
            return place
    raise DataError(
        f"the contrast set is not on this machine: copy the folder data/{CONTRAST} of srr_guard's "
        f"repository to {str(places[1])!r}"
    )


def data_items(data: Data) -> list[str | os.PathLike[str]]:
    """The files, folders and data sets as a list."""
    return [data] if isinstance(data, (str, os.PathLike)) else list(data)


def _files(item: str | os.PathLike[str]) -> list[Path]:
    path = Path(item)
    if item == CONTRAST and not path.exists():
        path = contrast_folder()
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
    own = "" if file.parent.name == CONTRAST else name
    with _opened(file) as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{file.name}, line {number}"
            if number == 1 and (form := foreign_form(line)) is not None:
                raise DataError(
                    f"{str(file)!r} cannot be read: it is {form}; give JSON Lines in UTF-8"
                )
            if line.strip():
                yield _row(_record(line, where), where=where, name=name, file=own)


@contextmanager
def _opened(file: Path) -> Iterator[BufferedIOBase]:
    """Open a file, unpacked.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as content:
            yield content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{str(file)!r} cannot be read: {error}") from error


def _record(line: bytes, where: str) -> Any:
    try:
        return strict_json(line)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: {not_utf8(error)}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error})") from error


def _row(record: Any, *, where: str, name: str, file: str) -> LabelledResponse:
    if not isinstance(record, dict):
        raise DataError(
            f"{where}: a row must be a JSON object, got {type(record).__name__}: give JSON Lines, "
            "an object on each line"
        )
    try:
        texts: dict[str, Any] = {
            name: valid_unicode(value) if isinstance(value, str) else value
            for name, value in record.items()
        }
        return LabelledResponse(**{"source": name, **texts, "file": file})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DataError(f"{where}: {field}={first['input']!r:.80}: {first['msg']}") from error


def _hub_rows(name: str) -> Iterator[LabelledResponse]:
    wanted = HubName.parse(name)
    try:
        load_dataset = import_module("datasets").load_dataset
    except ImportError as error:
        raise MissingExtraError(
            package="datasets", extra="datasets", purpose=f"reading the data set {name!r}"
        ) from error
    config = (wanted.config,) if wanted.config else ()
    try:
        records = load_dataset(wanted.path, *config, split=wanted.split)
    except Exception as error:
        raise DataError(
            f"the data set {name!r} could not be loaded ({type(error).__name__}: {error}): check "
            "the name and the network, or give a local file"
        ) from error
    own = f"{wanted.path}/{wanted.config}" if wanted.config else wanted.path
    for number, record in enumerate(records, start=1):
        plain = json.loads(json.dumps(record, default=str))
        yield _row(plain, where=f"{name}, row {number}", name=own, file=own)
