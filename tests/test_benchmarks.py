"""Benchmarks are run by hand; that they still fit the library is checked here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from without_local import needed_by

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


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_loads_and_is_listed(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    name = f"benchmark_{script.stem}"
    spec = importlib.util.spec_from_file_location(name, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    assert callable(module.main)
    assert script.name in (FOLDER / "README.md").read_text()
