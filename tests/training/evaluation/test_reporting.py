from __future__ import annotations

import json
from pathlib import Path

from srr_guard.training.evaluation.reporting import logged
from srr_guard.training.progress import silent


def test_progress_and_figures_are_logged_line_by_line(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []

    def report(stage: str, done: int, total: int, **figures: float) -> None:
        seen.append((stage, done, total))

    file = tmp_path / "runs" / "log.jsonl"
    for epoch in (1, 2):
        with logged(report, file) as progress:
            progress("listwise block", epoch, 2, loss=0.5 / epoch)
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(r["stage"], r["done"], r["total"], r["loss"]) for r in records] == [
        ("listwise block", 1, 2, 0.5),
        ("listwise block", 2, 2, 0.25),
    ]
    assert all(r["time"] > 0 for r in records)
    assert seen == [("listwise block", 1, 2), ("listwise block", 2, 2)]


def test_without_a_file_nothing_is_written() -> None:
    with logged(silent, None) as progress:
        assert progress is silent
