"""Parquet files as lines of JSON, and back (extra `bulk`)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from srr_guard.errors import ConfigurationError
from srr_guard.extras import require_installed

_ROWS = 1024  # that are in memory at a time


def is_parquet(path: Path) -> bool:
    """True if a file is Parquet by its name."""
    return path.suffix.lower() in (".parquet", ".pq")


def require_parquet() -> None:
    """Refuse to go on without the extra.

    Raises:
        MissingExtraError: It is not installed.
    """
    require_installed("Parquet", "pyarrow", extra="bulk")


def rows_in(path: Path) -> int:
    """How many rows a file has.

    Raises:
        ConfigurationError: It cannot be read.
    """
    return int(_open(path).metadata.num_rows)


def last(path: Path) -> dict[str, Any] | None:
    """The last row of a file; None where there is none.

    Raises:
        ConfigurationError: It cannot be read, or is not of `write`.
    """
    file = _open(path)
    if not file.metadata.num_rows:
        return None
    group = file.read_row_group(file.num_row_groups - 1)
    row: dict[str, Any] = group.slice(group.num_rows - 1).to_pylist()[0]
    if not isinstance(row.get("line"), int) or "candidates" not in row:
        raise ConfigurationError(f"{str(path)!r} holds no rankings: name another file")
    if isinstance(row["candidates"], str):
        row["candidates"] = json.loads(row["candidates"])
    return row


def lines(path: Path) -> Iterator[bytes]:
    """The rows of a file as lines of JSON, in their order.

    Raises:
        ConfigurationError: It cannot be read.
    """
    for batch in _open(path).iter_batches(batch_size=_ROWS):
        for row in batch.to_pylist():
            yield json.dumps(row, default=str).encode() + b"\n"


def write(source: Path, output: Path) -> None:
    """Write lines of JSON as Parquet; the file is there whole, or not at all.

    Columns are those of all rows; what does not fit one type is written as JSON texts.

    Raises:
        OSError: It cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    types = _types(source)
    schema = pyarrow.schema(list(types.items()))
    unfinished = output.with_name(f"{output.name}.tmp")
    with open(source, "rb") as rows, parquet.ParquetWriter(unfinished, schema) as writer:
        while batch := [json.loads(line) for line in islice(rows, _ROWS)]:
            columns = [
                pyarrow.array([_fitting(row.get(name), kind) for row in batch], type=kind)
                for name, kind in types.items()
            ]
            writer.write_batch(pyarrow.record_batch(columns, schema=schema))
    os.replace(unfinished, output)


def _types(source: Path) -> dict[str, Any]:
    """The type of each column, over all rows."""
    import pyarrow

    types: dict[str, Any] = {}
    with open(source, "rb") as rows:
        while batch := [json.loads(line) for line in islice(rows, _ROWS)]:
            for name in dict.fromkeys(name for row in batch for name in row):
                try:
                    found = pyarrow.array([row.get(name) for row in batch]).type
                    known = types.get(name, found)
                    pair = [pyarrow.schema([("x", kind)]) for kind in (known, found)]
                    merged = pyarrow.unify_schemas(pair, promote_options="permissive")
                    types[name] = merged.field("x").type
                except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, UnicodeEncodeError):
                    types[name] = pyarrow.string()
    return types


def _fitting(value: Any, kind: Any) -> Any:
    import pyarrow

    if pyarrow.types.is_string(kind) and value is not None:
        text = value if isinstance(value, str) else json.dumps(value)
        return text.encode("utf-8", "replace").decode()
    return value


def _open(path: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ConfigurationError(f"{str(path)!r} cannot be read as Parquet: {error}") from error
