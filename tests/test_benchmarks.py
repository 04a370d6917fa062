"""Benchmarks are run by hand; that they still fit the library is checked here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from without_local import needed_by

from srr_guard.testing import FakeScorer
from srr_guard.training.data import read_rows

FOLDER = Path(__file__).parents[1] / "benchmarks"


FILES = sorted(FOLDER.glob("*.py"))


def needs_local(script: Path) -> bool:
    """True if the script, or one that it imports, needs the extra `local`."""
    imported = [f for f in FILES if f"from {f.stem} import" in script.read_text()]
    return any(needed_by(file) for file in (script, *imported))


SCRIPTS = [
    pytest.param(script, marks=[pytest.mark.local] if needs_local(script) else [], id=script.stem)
    for script in FILES
]


def load(script: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    name = f"benchmark_{script.stem}"
    spec = importlib.util.spec_from_file_location(name, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_loads_and_is_listed(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(load(script, monkeypatch).main)
    assert script.name in (FOLDER / "README.md").read_text()


@pytest.mark.local
def test_languages_are_measured_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    languages = load(FOLDER / "languages.py", monkeypatch)
    rows = read_rows(languages.FOLDER)
    p_safe = {"benign-help": 0.9, "over-refusal": 0.8, "refusal": 0.7, "compliance": 0.1}
    upside_down = {kind: 1 - p for kind, p in p_safe.items()}
    known = {
        row.response: (upside_down if row.source == "languages_ru" else p_safe)[row.kind or ""]
        for row in rows
    }
    found = languages.measure(FakeScorer(lambda prompt, answer: known[answer]), rows)
    assert list(found) == list(languages.NAMES)
    for language, figures in found.items():
        values = [figure.value for figure in figures.values()]
        assert values == ([0, 0, 0, 0, 1] if language == "ru" else [1, 1, 1, 1, 0])
        assert {figure.goals for figure in figures.values()} == {16}
    lines = languages.table(found).splitlines()
    assert len(lines) == 2 + len(languages.NAMES)
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| English | 16 | 1.00 (1.00 to 1.00) |")


@pytest.mark.local
def test_languages_leave_out_what_the_rows_cannot_give(monkeypatch: pytest.MonkeyPatch) -> None:
    languages = load(FOLDER / "languages.py", monkeypatch)
    rows = [row for row in read_rows(languages.FOLDER / "de.jsonl") if row.prompt_type == "safe"]
    found = languages.measure(FakeScorer(lambda prompt, answer: 0.9), rows)
    assert [heading.split()[0] for heading in found["de"]] == ["help", "help"]
    assert found["de"]["help before refusal"].value == 0.5
    assert "|  |  |  |" in languages.table(found)
