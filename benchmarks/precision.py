"""Does a faster precision rank alike? Scores in bfloat16 against float32, on labelled responses.

    python benchmarks/precision.py ROWS.jsonl.gz [MORE ...] [--lists 200]

Lists of up to 8 answers to one request are ranked in both precisions. Prints how often the same
answer comes first, how far `p_safe` moves, how often it crosses the default threshold, and the
time of each.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict

from srr_guard import DecisionPolicy, Ranking, SRRScorer
from srr_guard.reference.weights import DType
from srr_guard.training.data import read_rows


def lists_of(files: list[str], count: int) -> list[tuple[str, list[str]]]:
    """Lists of 2 to 8 different answers to one prompt."""
    answers: defaultdict[str, set[str]] = defaultdict(set)
    for row in read_rows(files):
        answers[row.prompt].add(row.response[:1200])
    rng = random.Random(0)
    found = [(p, sorted(texts)) for p, texts in answers.items() if len(texts) > 1]
    rng.shuffle(found)
    return [(p, rng.sample(texts, min(8, len(texts)))) for p, texts in found[:count]]


def rankings(dtype: DType, lists: list[tuple[str, list[str]]]) -> tuple[list[Ranking], float]:
    """Rankings of all lists, and the seconds they took."""
    scorer = SRRScorer.from_pretrained(dtype=dtype)
    scorer.warm_up()
    started = time.perf_counter()
    found = [scorer.score(prompt, texts) for prompt, texts in lists]
    return found, time.perf_counter() - started


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--lists", type=int, default=200)
    options = parser.parse_args()
    lists = lists_of(options.data, options.lists)
    exact, slow = rankings("float32", lists)
    rough, fast = rankings("bfloat16", lists)
    threshold = DecisionPolicy().threshold
    pairs = list(zip(exact, rough, strict=True))
    moved = [abs(a - b) for x, y in pairs for a, b in zip(x.p_safe, y.p_safe, strict=True)]
    crossed = sum(
        (a < threshold) != (b < threshold)
        for x, y in pairs
        for a, b in zip(x.p_safe, y.p_safe, strict=True)
    )
    print(f"lists {len(lists)}, answers {len(moved)}")
    print(f"same answer first     {sum(x.best == y.best for x, y in pairs) / len(pairs):.4f}")
    print(
        f"p_safe moves by       {sum(moved) / len(moved):.4f} on average, {max(moved):.4f} at most"
    )
    print(f"crosses the threshold {crossed / len(moved):.4f}")
    print(f"float32 {slow:.1f} s, bfloat16 {fast:.1f} s, ratio {slow / fast:.2f}")


if __name__ == "__main__":
    main()
