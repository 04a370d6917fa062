"""Fixtures for all tests. A test fails when something blocks an event loop in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# Imported by LangChain on the first call of any runnable, which would block the loop once.
import langsmith.run_helpers  # noqa: F401
import pytest
from loops import blocked_loops
from tiny import save_tiny_lm

from srr_guard.reference import ReferenceLLM

BLOCKED_AFTER = 0.1  # seconds


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "may_block: an async test that calls a blocking function itself, on purpose"
    )


@pytest.fixture(autouse=True)
def event_loop_stays_free(request: pytest.FixtureRequest) -> Iterator[None]:
    with blocked_loops(BLOCKED_AFTER) as blocked:
        yield
    if blocked and request.node.get_closest_marker("may_block") is None:
        pytest.fail(f"the event loop was blocked for {blocked} seconds")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_lm(tmp_path_factory.mktemp("llama"), layers=4)


@pytest.fixture(scope="session")
def tiny_llm(tiny_folder: Path) -> ReferenceLLM:
    return ReferenceLLM.load(tiny_folder)
