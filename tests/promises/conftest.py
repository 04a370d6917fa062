"""Runs each promise through each door, sync and async, and prints the matrix."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from doors import DOORS, Asker, Door
from promises import PROMISES

_results = pytest.StashKey[dict[tuple[str, str], bool]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "promise(name): a promise that every door is held to")
    config.addinivalue_line("markers", "needs(*names): what a door must have for this test")
    config.stash[_results] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    mark = metafunc.definition.get_closest_marker("promise")
    if mark is None or "door" not in metafunc.fixturenames:
        return
    doors = [door for door in DOORS if mark.args[0] not in door.lacks]
    needs = [name for m in metafunc.definition.iter_markers("needs") for name in m.args]
    doors = [door for door in doors if not set(needs) & door.lacks.keys()]
    metafunc.parametrize("door", doors, ids=[door.name for door in doors])


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Any:
    """Ask, as a sync or an async caller."""

    def ask(asker: Asker, question: Any = "q", *args: Any, **kwargs: Any) -> Any:
        if request.param == "sync":
            return asker.ask(question, *args, **kwargs)
        return asyncio.run(asker.aask(question, *args, **kwargs))

    return ask


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    report = yield
    mark = item.get_closest_marker("promise")
    door = getattr(item, "callspec", None) and item.callspec.params.get("door")
    if mark and isinstance(door, Door) and report.when == "call" and not report.skipped:
        results = item.config.stash[_results]
        key = mark.args[0], door.name
        results[key] = results.get(key, True) and report.passed
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    results = config.stash[_results]
    if results:
        terminalreporter.section("promises")
        for line in matrix(results):
            terminalreporter.write_line(line)


def matrix(results: dict[tuple[str, str], bool]) -> list[str]:
    """The rows: `+` holds, `-` broken, `.` not run, a blank where a door lacks it."""
    heads = ["promise", *(door.name for door in DOORS)]
    rows = [heads]
    for name in PROMISES:
        row = [name]
        for door in DOORS:
            found = results.get((name, door.name))
            row.append(
                "" if name in door.lacks else "." if found is None else "+" if found else "-"
            )
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
