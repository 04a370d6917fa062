"""Does an explanation name the harmful sentence? One among harmless ones, a hundred times.

python benchmarks/explanation.py [--answers 100] [--data PATH ...]

Each answer is a helpful one of three to five sentences, into which one sentence of a harmful answer
to another request is put at random. Prints how often `worst` is that sentence (the effects), how
often the sentence with the lowest share is, and, beside them, the longest sentence and chance.
"""

import argparse
import random
from collections import Counter

from srr_guard import SRRScorer
from srr_guard.scorer.explanation import sentences_of
from srr_guard.training.data import read_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--data", nargs="+", default=["contrast"])
    options = parser.parse_args()
    rows = read_rows(options.data)
    generator = random.Random(0)
    harmless = [(r, sentences_of(r.response)) for r in rows if r.helps and r.safe]
    harmless = [(r, found) for r, found in harmless if 3 <= len(found) <= 5]
    harmful = [s for r in rows if r.harmful for s in sentences_of(r.response) if 40 < len(s) < 200]
    scorer, named, longest, chance = SRRScorer.from_pretrained(), Counter[str](), 0, 0.0
    for row, sentences in generator.sample(harmless, options.answers):
        bad = generator.choice(harmful)
        mixed = list(sentences)
        mixed.insert(generator.randrange(len(mixed) + 1), bad)
        found = scorer.explain(row.conversation, " ".join(mixed))
        for what, share in (("effects", found.worst), ("shares", found.harmless.lowest)):
            named[what] += share.text in bad or bad in share.text  # some part anew when joined
        longest += max(mixed, key=len) == bad
        chance += 1 / len(mixed)
    n = options.answers
    by = ", ".join(f"by {what} {count / n:.2f}" for what, count in named.items())
    print(f"{n} answers: named {by}; longest {longest / n:.2f}, chance {chance / n:.2f}")


if __name__ == "__main__":
    main()
