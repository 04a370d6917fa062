"""Where the time of a whole request goes: generation, scoring, overhead.

    python benchmarks/request.py --json benchmarks/results/request.json \
        --plots benchmarks/results

8 candidates of about 64 tokens after a prompt of about 256, as `Decision.timings` has it; the
median of the rounds. The API model streams 40 tokens a second for each candidate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
from pathlib import Path

from read_ahead import ANSWER, CANDIDATES, PROMPT, StreamingModel
from serving import text

from srr_guard import DecisionPolicy, LocalChatModel, SafetyRanker, SamplingPolicy, SRRScorer

PARTS = ("generation", "scoring", "overhead")


def rankers(scorer: SRRScorer) -> dict[str, SafetyRanker]:
    """The kinds of requests."""
    api = StreamingModel(words_per_s=40)
    local = LocalChatModel(max_new_tokens=ANSWER)
    kinds = {
        "API model": (api, False),
        "API model, read ahead": (api, True),
        "reference LLM itself": (local, False),
    }
    return {
        name: SafetyRanker(
            model,
            scorer=scorer,
            sampling=SamplingPolicy(n=CANDIDATES, read_ahead=ahead),
            decision=DecisionPolicy(threshold=0.0),
        )
        for name, (model, ahead) in kinds.items()
    }


def milliseconds(ranker: SafetyRanker, rounds: int) -> dict[str, float]:
    """Median of each part."""
    asyncio.run(ranker.adecide("Hi"))
    found = [asyncio.run(ranker.adecide(text(PROMPT))).timings for _ in range(rounds)]
    return {
        part: round(statistics.median(getattr(t, part) for t in found) * 1e3, 1) for part in PARTS
    }


def plot(results: dict[str, dict[str, float]], folder: Path) -> None:
    """One bar for each kind of request."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 2.5))
    left = [0.0] * len(results)
    for part in PARTS:
        widths = [parts[part] for parts in results.values()]
        axis.barh(list(results), widths, left=left, label=part)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.invert_yaxis()
    axis.set_xlabel("milliseconds")
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "request.png", dpi=120)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plots", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    random.seed(0)
    scorer = SRRScorer.from_pretrained()
    scorer.warm_up()
    results = {}
    for name, ranker in rankers(scorer).items():
        results[name] = milliseconds(ranker, options.rounds)
        print(f"{name}: {results[name]}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.plots:
        plot(results, options.plots)


if __name__ == "__main__":
    main()
