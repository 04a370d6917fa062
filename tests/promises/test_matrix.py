"""The matrix in the docs is that of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from doors import DOORS
from promises import PROMISES

PAGE = Path(__file__).parents[2] / "docs" / "promises.md"


def table() -> str:
    """The matrix as Markdown: yes, or the reason why a door lacks it."""
    rows = [
        "| promise | " + " | ".join(f"`{door.name}`" for door in DOORS) + " |",
        "| --- |" + " --- |" * len(DOORS),
    ]
    for name, sentence in PROMISES.items():
        cells = [door.lacks.get(name, "yes") for door in DOORS]
        rows.append(f"| **{name}**: {sentence} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def test_the_page_holds_the_matrix():
    assert table() in PAGE.read_text(), f"put this into {PAGE.name}:\n{table()}"


def test_every_promise_is_tested_through_every_door(request: pytest.FixtureRequest):
    """Held only when the whole folder runs."""
    folder = Path(__file__).parent
    items = [item for item in request.session.items if item.path.parent == folder]
    if {item.path.name for item in items} != {path.name for path in folder.glob("test_*.py")}:
        pytest.skip("a part of the suite runs")
    tested = {
        (mark.args[0], item.callspec.params["door"].name)
        for item in items
        if (mark := item.get_closest_marker("promise")) and "door" in item.fixturenames
    }
    wanted = {(name, door.name) for name in PROMISES for door in DOORS if name not in door.lacks}
    assert tested == wanted
