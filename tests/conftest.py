"""Fixtures for all tests. A test fails when something blocks an event loop in it."""

from __future__ import annotations

from collections.abc import Iterator

# Imported by LangChain on the first call of any runnable, which would block the loop once.
import langsmith.run_helpers  # noqa: F401
import pytest
from loops import blocked_loops

BLOCKED_AFTER = 0.1  # seconds


@pytest.fixture(autouse=True)
def event_loop_stays_free() -> Iterator[None]:
    with blocked_loops(BLOCKED_AFTER) as blocked:
        yield
    if blocked:
        pytest.fail(f"the event loop was blocked for {blocked} seconds")
