"""What the shipped gate says of requests of every kind.

    python benchmarks/gate_verdicts.py TEST --json benchmarks/results/gate_verdicts.json

TEST is the folder of test rows; up to --requests requests of each set are assessed. Of xstest the
harmful ones are told from those that only sound so. Prints the shares of each verdict by the
default `GatePolicy`, the shares above two points of `refuse_above`, and how many would be benign at
other values of `min_familiarity`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

from srr_guard import SRRScorer
from srr_guard.decision import PromptAssessment
from srr_guard.gates.rulings import verdict_on
from srr_guard.policy import GatePolicy
from srr_guard.training.data import read_rows

POINTS = (0.95, 0.99)
FAMILIARITIES = (0.0, 0.02, 0.1)


def figures(found: Sequence[PromptAssessment]) -> dict[str, float]:
    """Shares of the verdicts on these prompts."""
    verdicts = [verdict_on(one, GatePolicy()) for one in found]
    shares = {name: verdicts.count(name) / len(found) for name in ("benign", "harmful")}
    for point in POINTS:
        shares[f"above {point}"] = sum(one.p_harmful > point for one in found) / len(found)
    for least in FAMILIARITIES:
        policy = GatePolicy(min_familiarity=least)
        benign = sum(verdict_on(one, policy) == "benign" for one in found)
        shares[f"benign at familiarity {least:g}"] = benign / len(found)
    return {name: round(share, 2) for name, share in shares.items()}


def main() -> None:
    """Print one line a set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--requests", type=int, default=100, help="of each set, at most")
    options = parser.parse_args()
    sets: dict[str, dict[str, object]] = {}
    for row in read_rows([options.data]):
        name = f"{row.source}, {row.prompt_type}" if row.prompt_type else row.source
        sets.setdefault(name, {}).setdefault(row.prompt, row.conversation)
    scorer = SRRScorer.from_pretrained()
    table = {}
    for name, prompts in sorted(sets.items()):
        chosen = random.Random(0).sample(sorted(prompts), min(options.requests, len(prompts)))
        table[name] = figures([scorer.assess(prompts[prompt]) for prompt in chosen])
        if len(table) == 1:
            print(f"| prompts | n | {' | '.join(table[name])} |")
            print(f"| --- | --- |{' --- |' * len(table[name])}")
        cells = " | ".join(f"{share:.2f}" for share in table[name].values())
        print(f"| {name} | {len(chosen)} | {cells} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
