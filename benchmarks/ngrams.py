"""Word and character n-grams of the answer alone, in the table of the ablation.

    python benchmarks/ngrams.py TRAIN [--json benchmarks/results/ablation.json]

TRAIN is the folder of training rows. On the rest of every fold of the ablation a logistic
regression on n-grams is fitted, with the same rows and weights as the probes, and judged on what
was held out. No model is loaded. The row is added to the table of the ablation.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ablation import COLUMNS, LIMITS, WEIGHTS, folds, held_out_rows, judged_sets, print_row

from srr_guard.training.data import LabelledResponse
from srr_guard.training.evaluation.ngrams import NGRAMS, NGramClassifier
from srr_guard.training.feature_store import Examples


def ngram_cells(
    rows: Sequence[LabelledResponse], *, source_weights: Mapping[str, float] = WEIGHTS
) -> dict[str, float]:
    """Figures of the classifier, fitted on every fold's rest."""
    cells: dict[str, float] = {}
    for fold, held_out in folds(rows).items():
        rest = [r for r in rows if not held_out(r)]
        tests = [r for r in rows if held_out(r)]
        classifier = NGramClassifier.fit(rest, source_weights=source_weights)
        p_safe = classifier.p_safe([r.response for r in tests])
        nothing = torch.empty(0)
        examples = Examples(rows=tests, prompt={}, windows={}, owner=nothing)
        scores = partial(lambda p, indices: p[list(indices)], p_safe)
        found = judged_sets(examples, scores=scores, p_safe=p_safe)
        cells |= {
            f"{where}: {name}, {metric}": round(found[name][metric].value, 4)
            for where, name, metric in COLUMNS
            if where == fold and metric in found.get(name, {})
        }
    return cells


def main() -> None:
    """Fit the classifier on every fold and print the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cells = ngram_cells(held_out_rows(options.data, limits=LIMITS))
    names = [f"{where}: {name}, {metric}" for where, name, metric in COLUMNS]
    print(f"| variant | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}")
    print_row(NGRAMS, cells)
    if options.json:
        table: dict[str, Any] = json.loads(options.json.read_text())
        table[NGRAMS] = cells
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
