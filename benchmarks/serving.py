"""Scoring as it is used: many callers, the reference LLM's own answers, the head, memory.

    python benchmarks/serving.py --json benchmarks/results/serving.json

Everything runs on the shipped scorer and SmolLM2-135M-Instruct, in one process, memory in another.
Texts are random words, all prompts differ.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from srr_guard import LocalChatModel, SRRScorer
from srr_guard.scorer.inference import judge, list_scores

WORDS = "river stone apple winter music paper garden window silver morning bread story".split()  # noqa: SIM905
Request = tuple[str, list[str]]


def text(words: int) -> str:
    """About as many tokens as words."""
    return " ".join(random.choices(WORDS, k=words))


def requests(count: int, *, prompt: int, candidates: int, answer: int) -> list[Request]:
    """Requests that share nothing."""
    return [(text(prompt), [text(answer) for _ in range(candidates)]) for _ in range(count)]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def concurrency(scorer: SRRScorer, *, prompt: int, candidates: int, answer: int) -> dict[str, Any]:
    """32 callers at once against one after the other."""
    both = {"alone": [], "together": []}  # type: dict[str, list[float]]
    latencies: list[float] = []
    difference = 0.0

    def ask(request: Request) -> tuple[float, Any]:
        return timed(lambda: scorer.score(*request))

    with ThreadPoolExecutor(32) as pool:
        for _ in range(3):
            asked = requests(32, prompt=prompt, candidates=candidates, answer=answer)
            fresh = [(f"{p} once more", c) for p, c in asked]
            seconds, _ = timed(lambda a=asked: [scorer.score(*r) for r in a])
            both["alone"].append(seconds)
            seconds, found = timed(lambda f=fresh: list(pool.map(ask, f)))
            both["together"].append(seconds)
            latencies += [latency for latency, _ in found]
            again = [scorer.score(*r) for r in fresh]  # prompts are kept: only candidates are read
            pairs = zip(again, (ranking for _, ranking in found), strict=True)
            difference = max(
                difference,
                *(abs(x - y) for a, b in pairs for x, y in zip(a.scores, b.scores, strict=True)),
            )
    alone, together = (statistics.median(both[k]) for k in ("alone", "together"))
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return {
        "prompt_words": prompt,
        "candidates": candidates,
        "candidate_words": answer,
        "requests_per_s_alone": round(32 / alone, 1),
        "requests_per_s_together": round(32 / together, 1),
        "gain": round(alone / together, 2),
        "latency_ms": {f"p{k}": round(cuts[k - 1] * 1e3) for k in (50, 95, 99)},
        "largest_difference_of_scores": difference,
    }


def own_answers(scorer: SRRScorer) -> dict[str, Any]:
    """Answers of the reference LLM itself: time of scoring over time of generating."""
    model = LocalChatModel(max_new_tokens=64)
    rows = []
    for i in range(4):
        question = f"Tell me {i + 3} things about {random.choice(WORDS)} and {text(3)}."
        generating, answers = timed(lambda q=question: model.sample_candidates(q, 8))
        texts = [a.text for a in answers]
        scoring, _ = timed(lambda q=question, t=texts: scorer.score(q, t))
        again, _ = timed(lambda q=question, t=texts: scorer.score(f"{q} Please.", t))
        rows.append((scoring / generating, again / generating))
    return {
        "recorded_share": round(statistics.median(r[0] for r in rows), 4),
        "recorded_shares": [round(r[0], 4) for r in rows],
        "read_again_share": round(statistics.median(r[1] for r in rows), 4),
    }


def head_seconds(scorer: SRRScorer) -> float:
    """Milliseconds of head and calibration on a list of 8."""
    llm, head = scorer.engine.encoder(), scorer.bundle.load_head()
    features = llm.encode(text(20), [text(30) for _ in range(8)], depths=head.config.depths)
    prompt = {
        "instruction": features.instruction.expand(8, -1, -1),
        "request": features.request.expand(8, -1, -1),
    }
    windows = {"mean": features.mean, "last": features.last}

    def once() -> None:
        list_scores(head, judge(head, windows=windows, prompt=prompt, owner=features.owner))

    for _ in range(20):
        once()
    return statistics.median(timed(once)[0] for _ in range(200)) * 1e3


def memory() -> None:
    """Score 64 candidates of 4,000 tokens and print the peak of this process, in MB."""
    scorer = SRRScorer.from_pretrained()
    scorer.score("Hi", ["Hello"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds, _ = timed(lambda: scorer.score(text(200), [text(4000) for _ in range(64)]))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"before_mb": before, "peak_mb": after, "seconds": seconds}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory", action="store_true", help="only the memory of a huge request")
    options = parser.parse_args()
    random.seed(0)
    if options.memory:
        memory()
        return
    scorer = SRRScorer.from_pretrained()
    scorer.warm_up()
    scorer.score("Hi", ["Hello"])
    results: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "short": concurrency(scorer, prompt=20, candidates=1, answer=32),
        "large": concurrency(scorer, prompt=240, candidates=4, answer=64),
        "own_answers": own_answers(scorer),
        "head_ms": round(head_seconds(scorer), 3),
    }
    for name, found in results.items():
        print(f"{name}: {found}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
