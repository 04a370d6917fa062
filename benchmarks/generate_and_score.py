"""Memory and time of a process that generates and scores with the same model.

    python benchmarks/generate_and_score.py

Prints resident and private memory after the first request, seconds per request, and how long
one score takes while a long answer is being generated beside it.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from pathlib import Path

from srr_guard import LocalChatModel, SafetyRanker, SamplingPolicy, SRRScorer

PROMPT = "What are three good habits for looking after houseplants?"
ANSWERS = ["Water them when the soil is dry, and give them light.", "I can't help with that."]


def megabytes(name: str) -> float:
    """One figure of this process's memory, in MB."""
    for file in ("status", "smaps_rollup"):
        for line in Path(f"/proc/self/{file}").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return round(int(line.split()[1]) / 1024, 1)
    raise ValueError(f"no figure {name!r}")


def timed(call: object) -> float:
    """Seconds one call takes."""
    started = time.perf_counter()
    call()  # type: ignore[operator]
    return time.perf_counter() - started


def main() -> None:
    """Generate and score, one after the other and side by side."""
    scorer = SRRScorer.from_pretrained()
    model = LocalChatModel(max_new_tokens=48, seed=0)
    guard = SafetyRanker(model, scorer=scorer, sampling=SamplingPolicy(n=4, deadline=None))
    first = timed(lambda: guard.invoke(PROMPT))
    scorer.score("Warm up.", ANSWERS)
    memory = {name: megabytes(name) for name in ("VmRSS", "Private_Dirty", "VmHWM")}
    requests = [timed(lambda: guard.invoke(PROMPT)) for _ in range(5)]
    alone = [timed(lambda i=i: scorer.score(f"Alone {i}?", ANSWERS)) for i in range(5)]

    long = threading.Thread(target=model.invoke, args=(PROMPT,), kwargs={"max_new_tokens": 192})
    started = time.perf_counter()
    long.start()
    beside = []
    while long.is_alive():
        beside.append(timed(lambda: scorer.score(f"Beside {len(beside)}?", ANSWERS)))
    generated = time.perf_counter() - started
    by_itself = timed(lambda: model.invoke(PROMPT, max_new_tokens=192))
    figures = {
        "megabytes": memory,
        "first_request_s": round(first, 2),
        "request_s": round(statistics.median(requests), 2),
        "score_alone_ms": round(1000 * statistics.median(alone), 1),
        "score_beside_generation_ms": round(1000 * statistics.median(beside), 1),
        "scores_beside_generation": len(beside),
        "generation_alone_s": round(by_itself, 2),
        "generation_beside_scores_s": round(generated, 2),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
