"""A fake upstream and a gateway in front of it, both real servers."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from servers import Running, Upstream, gateway, upstream_server


@pytest.fixture(scope="session")
def one_upstream() -> Iterator[Upstream]:
    with upstream_server(Upstream()) as served:
        yield served


@pytest.fixture(scope="session")
def one_gateway(one_upstream: Upstream) -> Iterator[Running]:
    with gateway(one_upstream) as running:
        yield running


@pytest.fixture
def upstream(one_upstream: Upstream) -> Upstream:
    one_upstream.begin_anew()
    return one_upstream


@pytest.fixture
def served(upstream: Upstream, one_gateway: Running) -> Running:
    """A gateway with all defaults; a test that makes servers fail has one of its own."""
    one_gateway.decisions.clear()
    return one_gateway


@pytest.fixture(scope="session")
def http() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=20.0, trust_env=False) as client:
        yield client
