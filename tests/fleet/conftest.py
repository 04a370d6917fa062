"""A Ray cluster on this machine; without Ray these tests are left out (`make ray` runs them)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
collect_ignore_glob = [] if find_spec("ray") is not None else ["test_*.py", "slow_scorer.py"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    os.environ.update(
        RAY_AUTH_MODE="disabled",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S="300",
    )
    here = [str(ROOT), str(ROOT / "integrations"), str(Path(__file__).parent)]
    os.environ["PYTHONPATH"] = os.pathsep.join([*here, os.environ.get("PYTHONPATH", "")])
    import ray
    from ray import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ["SRR_GUARD_TEST_PORT"] = str(port)
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield
    serve.shutdown()
    ray.shutdown()
