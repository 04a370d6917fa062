"""The real `datasets` library reads files of the published shapes."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import public_records as given
import pytest

from srr_guard.training.data.loading import load_recipe
from srr_guard.training.data.reading import read_rows

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRR_GUARD_CACHE", str(tmp_path / "rows"))
    datasets.disable_progress_bars()


def write(folder: Path, key: tuple[str, str | None, str], records: list[dict[str, Any]]) -> Path:
    """Write records as the set has them: parquet, jsonl, jsonl.gz or csv."""
    path, config, split = key
    stem = folder / f"{path.replace('/', '_')}-{config}-{split}"
    if "hh-rlhf" in path or "HelpSteer3" in path:
        file = Path(f"{stem}.jsonl.gz")
        file.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in records).encode()))
    elif "dolly" in path or "Aegis" in path or "HarmfulQA" in path:
        file = Path(f"{stem}.jsonl")
        file.write_text("".join(json.dumps(r) + "\n" for r in records))
    elif "diasafety" in path:
        file = Path(f"{stem}.csv")
        with file.open("w", newline="") as out:
            table = csv.DictWriter(out, records[0])
            table.writeheader()
            table.writerows(records)
    else:
        file = Path(f"{stem}.parquet")
        datasets.Dataset.from_list(records).to_parquet(file)
    return file


def test_the_recipe_reads_every_format(tmp_path: Path) -> None:
    files = {key: write(tmp_path, key, records) for key, records in given.hub().items()}
    kinds = {".gz": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}

    def load(
        path: str, name: str | None = None, data_dir: str | None = None, **options: Any
    ) -> Any:
        file = files.get((path, name or data_dir, options.pop("split")))
        if file is None:
            raise FileNotFoundError(path)
        kind, cache = kinds[file.suffix], str(tmp_path / "hf")
        return datasets.load_dataset(
            kind, data_files=str(file), split="train", cache_dir=cache, **options
        )

    recipe = load_recipe("public", load_dataset=load)
    assert recipe.warnings == []
    counts = {one.source.name: len(one.rows) for one in recipe.sources}
    assert counts == {
        "polyguardmix": 30,
        "polyguardmix_languages": 60,
        "aegis2": 24,
        "harmfulqa": 12,
        "hh_harmless": 12,
        "coconot": 12,
        "coconot_pref": 12,
        "helpsteer3": 12,
        "ultrachat": 6,
        "dolly": 6,
        "diasafety": 12,
        "tulu3_safety": 1,
    }
    recipe.require_kinds(recipe.rows)


def test_own_sets_are_read_with_config_and_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": "p", "response": "r", "label": "safe"}]
    for config in ("easy", "hard"):
        folder = tmp_path / "owner" / "name" / config
        folder.mkdir(parents=True)
        (folder / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "owner" / "name" / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(
            f"- config_name: {config}\n  data_files:\n  - split: test\n"
            f"    path: {config}/test.jsonl\n"
            for config in ("easy", "hard")
        )
        + "---\n"
    )
    monkeypatch.chdir(tmp_path)
    (row,) = read_rows("hf:owner/name/hard:test")
    assert (row.source, row.label) == ("owner/name/hard", "safe")
