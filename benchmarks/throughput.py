"""Requests per second of 64 concurrent callers around a model that takes 50 ms.

python benchmarks/throughput.py [SECONDS_PER_ROW]
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

from srr_guard import SafetyRanker, SamplingPolicy
from srr_guard.testing import FakeScorer, ScriptedChatModel

CALLERS = 64


async def rate(call: Callable[[], Awaitable[object]], seconds: float) -> float:
    """Requests per second, after one round to warm up."""
    await asyncio.gather(*(call() for _ in range(CALLERS)))
    done = 0
    started = time.perf_counter()
    until = started + seconds

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await call()
            done += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return done / (time.perf_counter() - started)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    model = ScriptedChatModel(answers=["one", "two", "three", "four"], delay=0.05)
    scorer = FakeScorer(lambda prompt, answer: 0.9)
    bare = asyncio.run(rate(lambda: model.ainvoke("hi"), seconds))
    print(f"bare model             {bare:6.0f} requests/s")
    adaptive = SamplingPolicy(n=8, accept_at=0.9)
    plain = [(f"n={n}", SamplingPolicy(n=n)) for n in (1, 4, 8)]
    for name, sampling in [*plain, ("n=8, first accepted", adaptive)]:
        ranker = SafetyRanker(model, scorer=scorer, sampling=sampling)
        ours = asyncio.run(rate(lambda ranker=ranker: ranker.ainvoke("hi"), seconds))
        print(f"{name:<22} {ours:6.0f} requests/s, {ours / bare:.2f} of the bare model")


if __name__ == "__main__":
    main()
