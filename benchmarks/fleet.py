"""A fleet of R scorers, by formula and by simulation: what a request costs, what a fleet holds.

    python benchmarks/fleet.py [--json FILE] [--plots FOLDER]

A discrete-event simulation: Poisson arrivals, one queue a replica, the replica with the least work
waiting is taken. A replica takes the requests that wait, up to a budget of tokens, and serves them
in one pass of `fixed + per_token * tokens` seconds, which is fitted to `results/scoring.json`, or
given.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A reference LLM, as far as the cost of reading goes.

    Attributes:
        layers: Blocks that are read: up to the deepest feature.
        width: Of the residual stream.
        hidden: Of the feed-forward part, which is gated.
        kv: Width of keys, and of values.
    """

    layers: int
    width: int
    hidden: int
    kv: int

    @property
    def weights(self) -> int:
        """Weights of the blocks; the embedding is looked up, the LM head is not read."""
        block = 2 * self.width**2 + 2 * self.width * self.kv + 3 * self.width * self.hidden
        return self.layers * block

    def flops(self, tokens: int, context: int) -> float:
        """Of reading tokens that each see a context: products with weights, and attention."""
        return tokens * (2.0 * self.weights + 4.0 * self.layers * self.width * context)

    def bytes_per_pass(self, size: int = 4) -> int:
        """Bytes of weights that one pass reads, whatever its tokens."""
        return size * self.weights

    def cache_bytes(self, tokens: int, size: int = 4) -> int:
        """Bytes of keys and values of a prompt that is kept."""
        return 2 * self.layers * self.kv * tokens * size


# Two thirds of the depth are read, as by the shipped scorer (block 20 of 30).
SHAPES = {
    "SmolLM2-135M": Shape(20, 576, 1536, 192),
    "1B (Llama 3.2)": Shape(11, 2048, 8192, 512),
    "8B (Llama 3.1)": Shape(21, 4096, 14336, 1024),
}


@dataclass(frozen=True)
class Service:
    """The time of one pass.

    Attributes:
        fixed: Seconds of a pass, whatever its tokens.
        per_token: Seconds for each token.
        budget: Most tokens of a pass.
    """

    fixed: float
    per_token: float
    budget: int = 1024

    def seconds(self, tokens: int) -> float:
        """Seconds of a pass over so many tokens."""
        return self.fixed + self.per_token * tokens

    def capacity(self, tokens: int) -> float:
        """Requests of so many tokens that one replica serves in a second, with full passes."""
        together = max(1, self.budget // tokens)
        return together / self.seconds(together * tokens)


def simulate(
    rate: float,
    replicas: int,
    seconds: Callable[[int], float],
    *,
    requests: int,
    tokens: Callable[[random.Random], int] = lambda _: 1,
    budget: int = 1,
    seed: int = 0,
) -> list[float]:
    """Latencies of requests, in seconds, without those of the first tenth.

    Args:
        rate: Arrivals a second, over all replicas.
        replicas: How many serve.
        seconds: Of one pass, from its tokens; may be random.
        requests: How many arrive.
        tokens: Of one request.
        budget: Most tokens of a pass; a larger request has a pass of its own.
        seed: Of arrivals and tokens.
    """
    chance = random.Random(seed)
    queues: list[deque[tuple[float, int, int]]] = [deque() for _ in range(replicas)]
    work = [0] * replicas
    busy = [False] * replicas
    free: list[tuple[float, int, list[tuple[float, int, int]]]] = []  # ends of passes
    least = [(0, i) for i in range(replicas)]
    found = [0.0] * requests

    def begin(i: int, now: float) -> None:
        batch: list[tuple[float, int, int]] = []
        total = 0
        while queues[i] and (not batch or total + queues[i][0][1] <= budget):
            batch.append(queues[i].popleft())
            total += batch[-1][1]
        busy[i] = bool(batch)
        if batch:
            heapq.heappush(free, (now + seconds(total), i, batch))

    def idlest() -> int:
        while work[least[0][1]] != least[0][0]:
            heapq.heapreplace(least, (work[least[0][1]], least[0][1]))
        return least[0][1]

    def end_before(now: float) -> None:
        while free and free[0][0] <= now:
            ended, i, batch = heapq.heappop(free)
            for arrived, size, number in batch:
                found[number] = ended - arrived
                work[i] -= size
            heapq.heappush(least, (work[i], i))
            begin(i, ended)

    now = 0.0
    for number in range(requests):
        now += chance.expovariate(rate)
        end_before(now)
        i = idlest()
        size = tokens(chance)
        work[i] += size
        queues[i].append((now, size, number))
        if not busy[i]:
            begin(i, now)
    end_before(float("inf"))
    return found[requests // 10 :]


def quantiles(latencies: list[float]) -> dict[str, float]:
    """p50, p95 and p99, in milliseconds."""
    ordered = sorted(latencies)
    return {f"p{p}": 1e3 * ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in PARTS}


PARTS = (50, 95, 99)

REQUEST_TOKENS = (64, 256)
"""Tokens of a request are even between these: a short question with four short answers."""

MEASURED = Path(__file__).parent / "results" / "scoring.json"


def measured(file: Path = MEASURED) -> Service:
    """The time of a pass on two CPU cores, fitted to what `scoring.py` measured.

    A line of least squares through lists of 1 to 32 candidates, their prompt read with them.
    """
    found = json.loads(file.read_text())
    growth = found["models"]["smollm2"]["growth"]["candidates"]
    points = [
        (found["prompt_tokens"] + n * found["candidate_tokens"], ms / 1e3) for n, ms in growth
    ]
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    slope = sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)
    return Service(max(0.0, y - slope * x), slope)


def table(service: Service, loads: tuple[float, ...], rates: tuple[float, ...]) -> list[Any]:
    """For each rate and load: the replicas needed, and the latencies with them."""
    mean = sum(REQUEST_TOKENS) // 2
    rows = []
    for rate in rates:
        for load in loads:
            replicas = max(1, round(rate / (load * service.capacity(mean))))
            latencies = simulate(
                rate,
                replicas,
                service.seconds,
                requests=int(min(200_000, max(20_000, 20 * rate))),
                tokens=lambda chance: chance.randint(*REQUEST_TOKENS),
                budget=service.budget,
            )
            share = rate / (replicas * service.capacity(mean))
            found = {"rate": rate, "replicas": replicas, "load": share}
            rows.append({**found, **quantiles(latencies)})
    return rows


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """p50 and p99 against load, a line for each rate."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for rate in sorted({row["rate"] for row in rows}):
        mine = [row for row in rows if row["rate"] == rate]
        for part, style in (("p50", "--"), ("p99", "-")):
            axes.plot(
                [row["load"] for row in mine],
                [row[part] for row in mine],
                style,
                label=f"{rate:g} a second, {part}",
            )
    axes.set(xlabel="load", ylabel="latency, ms", yscale="log")
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=120, bbox_inches="tight")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fixed", type=float, help="seconds of a pass")
    parser.add_argument("--per-token", type=float, help="seconds of a token")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--plots", type=Path, default=None)
    options = parser.parse_args()
    print(
        "| model | weights read, M | GFLOP, 160 tokens | weights a pass, MB | cache, KB a token |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name, shape in SHAPES.items():
        cells = (shape.weights / 1e6, shape.flops(160, 160) / 1e9, shape.bytes_per_pass() / 1e6)
        shown = " | ".join(f"{cell:,.0f}" for cell in cells)
        print(f"| {name} | {shown} | {shape.cache_bytes(1) / 1e3:,.1f} |")
    known = measured()
    service = Service(
        known.fixed if options.fixed is None else options.fixed,
        known.per_token if options.per_token is None else options.per_token,
    )
    print(f"\na pass: {1e3 * service.fixed:.1f} ms + {1e3 * service.per_token:.3f} ms a token; ")
    print(f"one replica holds {service.capacity(160):.1f} requests of 160 tokens a second")
    rows = table(service, (0.3, 0.5, 0.7, 0.8, 0.9), (10.0, 100.0, 1000.0, 10_000.0))
    print("\n| requests a second | replicas | load | p50 ms | p95 ms | p99 ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        parts = " | ".join(f"{row[f'p{p}']:.0f}" for p in PARTS)
        print(f"| {row['rate']:,.0f} | {row['replicas']} | {row['load']:.2f} | {parts} |")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.plots is not None:
        plot(rows, options.plots / "fleet.png")


if __name__ == "__main__":
    main()
