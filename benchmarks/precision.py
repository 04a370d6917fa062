"""Does a faster precision rank alike? bfloat16 and int8 against float32, on labelled responses.

    python benchmarks/precision.py ROWS.jsonl.gz [MORE ...] [--lists 200]

Lists of up to 8 answers to one request are ranked in each precision. Prints how often the same
answer comes first, how far `p_safe` moves, how often it crosses the default threshold, and the
time of each. int8 is torch's dynamic quantisation of all linear layers, which scorers do not offer.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections import defaultdict

import torch
from rich.progress import track
from torch import nn
from torch.ao.quantization import quantize_dynamic

from srr_guard import DecisionPolicy, Ranking, SRRScorer
from srr_guard.reference.encoding.fused import undo
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


def rankings(scorer: SRRScorer, lists: list[tuple[str, list[str]]]) -> tuple[list[Ranking], float]:
    """Rankings of all lists, and the seconds they took."""
    scorer.warm_up()
    started = time.perf_counter()
    found = [scorer.score(prompt, texts) for prompt, texts in track(lists, transient=True)]
    return found, time.perf_counter() - started


def quantise(scorer: SRRScorer) -> None:
    """Turn the linear layers of its loaded reference LLM into int8 ones, in place."""
    backbone = scorer.engine.encoder().backbone
    undo(backbone.layers)
    quantize_dynamic(backbone._model, {nn.Linear}, dtype=torch.qint8, inplace=True)


def compare(name: str, exact: list[Ranking], rough: list[Ranking], speed: float) -> None:
    """Print how far two precisions agree."""
    threshold = DecisionPolicy().threshold
    pairs = list(zip(exact, rough, strict=True))
    values = [(a, b) for x, y in pairs for a, b in zip(x.p_safe, y.p_safe, strict=True)]
    first = [x.best == y.best for x, y in pairs]
    moved = [abs(a - b) for a, b in values]
    crossed = [(a < threshold) != (b < threshold) for a, b in values]
    print(f"{name} against float32: {len(first)} lists, {len(values)} answers")
    print(f"  same answer first     {statistics.mean(first):.4f}")
    print(f"  p_safe moves by       {statistics.mean(moved):.4f}, at most {max(moved):.4f}")
    print(f"  crosses the threshold {statistics.mean(crossed):.4f}")
    print(f"  {speed:.2f} x as fast", flush=True)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--lists", type=int, default=200)
    options = parser.parse_args()
    lists = lists_of(options.data, options.lists)
    scorer = SRRScorer.from_pretrained(dtype="float32")
    exact, slow = rankings(scorer, lists)
    rough, fast = rankings(SRRScorer.from_pretrained(dtype="bfloat16"), lists)
    compare("bfloat16", exact, rough, slow / fast)
    quantise(scorer)
    # prompts that are kept would be read for nothing
    scorer.engine.encoder().clear_caches()
    rough, fast = rankings(scorer, lists)
    compare("int8", exact, rough, slow / fast)


if __name__ == "__main__":
    main()
