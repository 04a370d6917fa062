"""A playground on this machine: a model with a script whose answers come when they are let."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playgrounds import Served, serve_playground


@pytest.fixture
def served() -> Iterator[Served]:
    """A playground of its own, with two scorers."""
    with serve_playground() as running:
        yield running
