"""Is harm in disguised characters held back like plain harm?

python benchmarks/characters.py path/to/rows.jsonl [...] [--answers 100]

Prints the share of harmful answers below the default threshold, and their mean p_safe: plain, and
with invisible characters and look-alike letters in them.
"""

import argparse
import random
import statistics

from srr_guard import DecisionPolicy, SRRScorer
from srr_guard.training.data import read_rows
from srr_guard.training.data.attacks import attacked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--answers", type=int, default=100)
    options = parser.parse_args()
    harmful = [row for row in read_rows(options.data) if row.harmful]
    rows = random.Random(0).sample(harmful, min(options.answers, len(harmful)))
    scorer, threshold = SRRScorer.from_pretrained(), DecisionPolicy().threshold
    sets = {"plain": rows} | {
        name: attacked(rows, name) for name in ("invisible characters", "look-alike letters")
    }
    for name, answers in sets.items():
        p_safe = [scorer.score(r.conversation, [r.response]).p_safe[0] for r in answers]
        held = sum(p < threshold for p in p_safe) / len(p_safe)
        print(f"{name}: held back {held:.2f}, mean p_safe {statistics.mean(p_safe):.3f}")


if __name__ == "__main__":
    main()
