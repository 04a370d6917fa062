"""Scores of a fleet on Ray beside those of one process, over loopback.

    python benchmarks/ray_fleet.py [--seconds 30] [--fake] [--json FILE]

`/v1/score` of one short request with four answers, at 1, 8 and 64 at a time: one process of
`srr-guard serve`, and a fleet of one gateway with two scorer replicas. All share this machine's
cores with the load, so that a fleet cannot have more of them: what is seen is what its processes
and hops cost. With `--fake` a score costs nothing, and only they are left. Needs the extra `ray`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway import (
    ANSWERS,
    ASKED,
    CONCURRENCY,
    client,
    compare,
    posting,
    process,
    ratios,
    ready,
    run_gateway,
    show,
)

from srr_guard.serving.config import GatewayConfig
from srr_guard.serving.server import listen
from srr_guard.testing import FakeScorer


@contextmanager
def ray_fleet(*, fake: bool) -> Iterator[str]:
    """Start a cluster with a fleet, and give its address."""
    import ray
    from ray import serve
    from srr_guard_integrations.ray_serve import FleetSettings, fleet

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    with listen(GatewayConfig(port=0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    make: Any = (lambda: FakeScorer(lambda prompt, answer: 0.9)) if fake else None
    serve.run(fleet(FleetSettings(scorers=2), config=GatewayConfig(), make_scorer=make))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


async def measure(places: dict[str, str], seconds: float) -> list[dict[str, Any]]:
    """The same load on each place, in turns."""
    body = {"conversation": ASKED, "candidates": ANSWERS}
    rows = []
    for url in places.values():
        await ready(url)
    async with client() as http:
        calls = {what: posting(http, f"{url}/v1/score", body) for what, url in places.items()}
        for at_a_time in CONCURRENCY:
            rows += await compare(calls, at_a_time, seconds)
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--fake", action="store_true", help="a scorer that costs nothing")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    with ray_fleet(fake=options.fake) as many, process(run_gateway, {}, not options.fake) as one:
        rows = asyncio.run(measure({"one process": one, "fleet": many}, options.seconds))
    show(rows)
    ratios(rows, "fleet", "one process")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
