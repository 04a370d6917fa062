"""How fast a fleet on Ray grows under load and shrinks when idle, and whether a request is lost.

    python benchmarks/ray_autoscaling.py [--patience 90] [--grow-after 5] [--shrink-after 20]

A real Ray cluster on this machine: one gateway, one to three scorer replicas, whose scorer waits
two seconds in place of computing, so that the cores are left to the replicas that start.
`/v1/score` is asked 16 at a time, and then one at a time until one replica is left, so that
replicas stop while requests come. Needs the extra `ray`, and three minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from gateway import client, ready

from srr_guard.serving.config import GatewayConfig
from srr_guard.serving.server import listen
from srr_guard.testing import FakeScorer

MOST = 3
AT_A_TIME = 16
BODY = {"candidates": ["an answer", "another one"]}


def light() -> FakeScorer:
    """Make a scorer that takes its time, and no core."""
    return FakeScorer(lambda prompt, answer: 0.9, delay=2.0)


@contextmanager
def small_fleet(options: argparse.Namespace) -> Iterator[str]:
    """Start a cluster with a fleet that may grow, and give its address."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import serve
    from srr_guard_integrations.ray_serve import FleetSettings, fleet

    settings = FleetSettings(
        scorers=1,
        max_scorers=MOST,
        scorer_cpus=0.1,
        busy_at=4.0,
        grow_after=options.grow_after,
        shrink_after=options.shrink_after,
    )
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    with listen(GatewayConfig(port=0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(fleet(settings, config=GatewayConfig(), make_scorer=light), name="fleet")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def running() -> int:
    """Scorer replicas that run now."""
    from ray import serve

    states: dict[Any, int] = (
        serve.status().applications["fleet"].deployments["scorer"].replica_states
    )
    return sum(count for state, count in states.items() if str(state).endswith("RUNNING"))


class Load:
    """Requests that are sent until they are told to stop, and what came back."""

    def __init__(self, http: httpx2.AsyncClient, url: str) -> None:
        self._http, self._url = http, f"{url}/v1/score"
        self.outcomes: Counter[str] = Counter()
        self.sent = 0

    async def one(self) -> None:
        """Send one request of a conversation of its own."""
        self.sent += 1
        try:
            answer = await self._http.post(
                self._url, json={"conversation": f"q{self.sent}", **BODY}
            )
            self.outcomes[str(answer.status_code)] += 1
        except httpx2.HTTPError as error:
            self.outcomes[type(error).__name__] += 1

    async def full(self, until: asyncio.Event) -> None:
        """Send one request after another."""
        while not until.is_set():
            await self.one()


async def watched(until: int, limit: float) -> dict[int, float]:
    """When each number of replicas was first seen, in seconds; until one of them, or the limit."""
    started = time.perf_counter()
    seen: dict[int, float] = {}
    while until not in seen and (now := time.perf_counter() - started) < limit:
        seen.setdefault(await asyncio.to_thread(running), now)
        await asyncio.sleep(0.5)
    return seen


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Load, growth, a trickle, shrinking."""
    await ready(url)
    async with client() as http:
        load, stop = Load(http, url), asyncio.Event()
        tasks = [asyncio.create_task(load.full(stop)) for _ in range(AT_A_TIME)]
        grown = await watched(MOST, options.patience)
        stop.set()
        await asyncio.gather(*tasks)
        under_load = load.sent
        shrinking = asyncio.create_task(watched(1, options.shrink_after + 60.0))
        while not shrinking.done():
            await asyncio.gather(load.one(), asyncio.sleep(0.5))
    return {
        "grown": grown,
        "shrunk": shrinking.result(),
        "sent": {"under load": under_load, "idle": load.sent - under_load},
        "outcomes": dict(load.outcomes),
    }


def main() -> None:
    """Measure and print; a request that is not answered makes the exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patience", type=float, default=90.0, help="seconds of growing at most")
    parser.add_argument("--grow-after", type=float, default=5.0)
    parser.add_argument("--shrink-after", type=float, default=20.0)
    options = parser.parse_args()
    with small_fleet(options) as url:
        found = asyncio.run(measure(url, options))
    for name in ("grown", "shrunk"):
        said = ", ".join(f"{count} after {t:.0f} s" for count, t in found[name].items())
        print(f"replicas, {name}: {said}")
    print(f"sent: {found['sent']}; came back: {found['outcomes']}")
    whole = MOST in found["grown"] and 1 in found["shrunk"]
    sys.exit(0 if whole and set(found["outcomes"]) == {"200"} else 1)


if __name__ == "__main__":
    main()
