"""A loop for the sync methods of frameworks, which take the thread's or leave one open."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

# Read when these frameworks are imported: no prices are fetched, no telemetry is sent.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")


@pytest.fixture
def own_loop() -> Iterator[None]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()
    asyncio.set_event_loop(None)
