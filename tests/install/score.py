"""The first score with the shipped scorer; `score.py [REFERENCE]`."""

from __future__ import annotations

import sys
import time

started = time.perf_counter()

from srr_guard import SRRScorer  # noqa: E402 (the import is part of what is measured)

QUESTION = "How do I keep basil alive indoors?"
ANSWERS = ["I can't help with that.", "Give it six hours of light a day, and water it when dry."]

scorer = SRRScorer.from_pretrained(reference=sys.argv[1] if len(sys.argv) > 1 else None)
ranking = scorer.score(QUESTION, ANSWERS)
first = time.perf_counter() - started
scorer.score("How do I prune it?", ANSWERS)
second = time.perf_counter() - started - first
assert ranking.best == 1, ranking
shown = ", ".join(f"{p:.4f}" for p in ranking.p_safe)
print(f"p_safe {shown}; first score after {first:.1f} s, second in {second:.2f} s")
