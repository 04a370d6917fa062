"""Load on the gateway, over loopback: what HTTP costs beside the engine, the guard beside a server.

    python benchmarks/gateway.py [--seconds 10] [--json FILE]

Scores: `/v1/score` of one short request with four answers, at 1, 8 and 64 at a time, beside the
same calls of the same scorer in one process. The gateway runs in a process of its own, the load in
this one, so that both share the machine's cores.

Overhead: `/v1/chat/completions` behind a fake upstream that answers at once, with a fake scorer, at
n=1 and n=4, beside the bare upstream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from srr_guard import SRRScorer
from srr_guard.serving.app import GatewayApp
from srr_guard.serving.config import GatewayConfig
from srr_guard.serving.server import gateway_server, listen
from srr_guard.testing import FakeScorer

ASKED = "How do I keep basil alive indoors?"
ANSWERS = [
    "Give it six hours of light a day, and water it when the soil is dry.",
    "I can't help with that.",
    "Basil likes warmth; pinch off its flowers and turn the pot now and then.",
    "Put it on a sunny window sill and do not let it stand in water.",
]
CONCURRENCY = (1, 8, 64)
Call = Callable[[], Awaitable[None]]


async def upstream(scope: Any, receive: Any, send: Any) -> None:
    """Answer at once, always the same."""
    message = await receive()
    while message.get("more_body"):
        message = await receive()
    choice = {"index": 0, "message": {"role": "assistant", "content": ANSWERS[0]}}
    choice["finish_reason"] = "stop"
    usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    body = json.dumps({**answer, "choices": [choice], "usage": usage}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def run_upstream(port: Any) -> None:
    """Serve the fake upstream; in a process of its own."""
    bound = listen(GatewayConfig(port=0))
    port.put(bound.getsockname()[1])
    options = uvicorn.Config(upstream, lifespan="off", log_config=None, access_log=False, ws="none")
    uvicorn.Server(options).run(sockets=[bound])


def run_gateway(port: Any, settings: dict[str, Any], real: bool) -> None:
    """Serve the gateway; in a process of its own."""
    config = GatewayConfig(port=0, **settings)
    scorer: Any = SRRScorer.from_pretrained() if real else FakeScorer(lambda prompt, answer: 0.9)
    bound = listen(config)
    app = GatewayApp(config, scorer=scorer)
    port.put(bound.getsockname()[1])
    gateway_server(app, config).run(sockets=[bound])


@contextmanager
def process(target: Any, *arguments: Any) -> Any:
    """Run a server and give its address."""
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    child = context.Process(target=target, args=(port, *arguments), daemon=True)
    child.start()
    try:
        yield f"http://127.0.0.1:{port.get(timeout=60)}"
    finally:
        child.terminate()
        child.join(30)


class Load:
    """Calls that were made, so many at a time, over several slices of time."""

    def __init__(self, call: Call, at_a_time: int) -> None:
        self.took: list[float] = []
        self.spent = 0.0
        self._call = call
        self._at_a_time = at_a_time

    async def slice(self, seconds: float) -> None:
        """Make calls for a while; those that have begun are waited for."""
        started = time.perf_counter()
        end = started + seconds

        async def worker() -> None:
            while (begun := time.perf_counter()) < end:
                await self._call()
                self.took.append(time.perf_counter() - begun)

        await asyncio.gather(*(worker() for _ in range(self._at_a_time)))
        self.spent += time.perf_counter() - started

    def row(self, what: str) -> dict[str, Any]:
        """Quantiles in milliseconds, and calls a second."""
        if len(self.took) < 2:
            raise SystemExit(f"{len(self.took)} calls came back: give more --seconds")
        cuts = statistics.quantiles(self.took, n=100, method="inclusive")
        names = {"p50_ms": cuts[49], "p95_ms": cuts[94], "p99_ms": cuts[98]}
        figures = {k: 1000 * v for k, v in names.items()}
        rate = len(self.took) / self.spent
        return {"what": what, "at_a_time": self._at_a_time, **figures, "per_second": rate}


async def compare(calls: dict[str, Call], at_a_time: int, seconds: float) -> list[dict[str, Any]]:
    """Measure calls in turns of a third of the time each, so that noise meets all of them."""
    loads = {what: Load(call, at_a_time) for what, call in calls.items()}
    for call in calls.values():
        await call()
    for _ in range(3):
        for load in loads.values():
            await load.slice(seconds / 3)
    return [load.row(what) for what, load in loads.items()]


def posting(client: httpx2.AsyncClient, url: str, body: Any) -> Call:
    """A call that posts."""
    content = json.dumps(body).encode()

    async def call() -> None:
        headers = {"content-type": "application/json"}
        answer = await client.post(url, content=content, headers=headers)
        answer.raise_for_status()

    return call


def client() -> httpx2.AsyncClient:
    """A client with a connection for each call at a time."""
    most = httpx2.Limits(max_connections=64, max_keepalive_connections=64)
    return httpx2.AsyncClient(timeout=120, limits=most, trust_env=False)


async def ready(url: str) -> None:
    """Wait until a score has been made."""
    async with client() as http:
        while (await http.get(f"{url}/readyz")).status_code != 200:
            await asyncio.sleep(0.2)


async def scores(seconds: float) -> list[dict[str, Any]]:
    """`/v1/score`, and the same scorer in this process."""
    scorer = SRRScorer.from_pretrained()
    scorer.warm_up()

    async def in_process() -> None:
        await scorer.ascore(ASKED, ANSWERS)

    rows = []
    with process(run_gateway, {}, True) as url:
        await ready(url)
        async with client() as http:
            body = {"conversation": ASKED, "candidates": ANSWERS}
            calls = {"in process": in_process, "/v1/score": posting(http, f"{url}/v1/score", body)}
            for at_a_time in CONCURRENCY:
                rows += await compare(calls, at_a_time, seconds)
    return rows


async def overhead(seconds: float) -> list[dict[str, Any]]:
    """The gateway in front of a fake upstream, and the upstream alone."""
    rows = []
    body = {"model": "m", "messages": [{"role": "user", "content": ASKED}]}
    with process(run_upstream) as bare, ExitStack() as stack:
        places = {"bare upstream": bare}
        for n in (1, 4):
            policies = {"default": {"sampling": {"n": n}}}
            settings = {"upstreams": [{"url": f"{bare}/v1"}], "policies": policies}
            places[f"gateway, n={n}"] = stack.enter_context(process(run_gateway, settings, False))
            await ready(places[f"gateway, n={n}"])
        async with client() as http:
            calls = {
                what: posting(http, f"{url}/v1/chat/completions", body)
                for what, url in places.items()
            }
            for at_a_time in (1, 8):
                rows += await compare(calls, at_a_time, seconds)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    print(f"{'':16} {'at a time':>9} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} {'per s':>8}")
    for row in rows:
        figures = (f"{row[k]:8.1f}" for k in ("p50_ms", "p95_ms", "p99_ms", "per_second"))
        print(f"{row['what']:16} {row['at_a_time']:9}", *figures)


def ratios(rows: list[dict[str, Any]], of: str, to: str) -> None:
    """Print how many calls a second one makes for each of another."""
    rate = {(row["what"], row["at_a_time"]): row["per_second"] for row in rows}
    for (what, at_a_time), value in rate.items():
        if what == of:
            print(f"{of} / {to}, {at_a_time} at a time: {value / rate[to, at_a_time]:.2f}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    guarded = asyncio.run(overhead(options.seconds))
    show(guarded)
    for n in (1, 4):
        ratios(guarded, f"gateway, n={n}", "bare upstream")
    sys.stdout.flush()
    scored = asyncio.run(scores(options.seconds))
    show(scored)
    ratios(scored, "/v1/score", "in process")
    if options.json is not None:
        options.json.write_text(json.dumps({"overhead": guarded, "scores": scored}, indent=2))


if __name__ == "__main__":
    main()
