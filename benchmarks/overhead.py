"""What srr_guard adds: per call around an instant model, and to an import.

python benchmarks/overhead.py [CALLS]
"""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from srr_guard import SafetyRanker, SamplingPolicy
from srr_guard.testing import FakeScorer, ScriptedChatModel

IMPORT = (
    "import time; t = time.perf_counter(); import langchain_core.runnables; "
    "a = time.perf_counter(); import srr_guard; "
    "print((a - t) * 1e3, (time.perf_counter() - a) * 1e3)"
)


def milliseconds(call: Callable[[], object], calls: int) -> list[float]:
    for _ in range(20):
        call()
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1e3)
    return times


def main() -> None:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    model = ScriptedChatModel(answers=["one", "two", "three", "four"])
    scorer = FakeScorer(lambda prompt, answer: 0.9)
    bare = statistics.median(milliseconds(lambda: model.invoke("hi"), calls))
    print(f"bare model           {bare:6.2f} ms")
    for n in (1, 4, 8):
        ranker = SafetyRanker(model, scorer=scorer, sampling=SamplingPolicy(n=n))
        sync = milliseconds(lambda ranker=ranker: ranker.invoke("hi"), calls)
        with asyncio.Runner() as runner:
            loop = milliseconds(lambda r=ranker: runner.run(r.ainvoke("hi")), calls)
        for kind, times in (("invoke ", sync), ("ainvoke", loop)):
            p50, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
            print(f"{kind} n={n}          {p50:6.2f} ms, p95 {p95:.2f}, {p50 / bare:.1f} x bare")
    runs = [
        [float(x) for x in subprocess.check_output([sys.executable, "-c", IMPORT]).split()]
        for _ in range(5)
    ]
    base, added = (statistics.median(column) for column in zip(*runs, strict=True))
    print(f"import langchain_core.runnables {base:.0f} ms, srr_guard adds {added:.1f} ms")


if __name__ == "__main__":
    main()
