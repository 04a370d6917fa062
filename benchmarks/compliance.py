"""`p_safe` with and without what compliance with a harmful request takes from it.

    python benchmarks/compliance.py TRAIN --json benchmarks/results/compliance.json

TRAIN is the folder of training rows. Both are fitted on the rest of every fold of the ablation and
judged on the rows that were held out, as they are in the data; below the table, how often the one
safe answer of eight comes first by `p_safe` alone. Two minutes a row, once `ablation.py` has run.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from ablation import COLUMNS, LIMITS, fitted_head, folds, held_out_rows, judged_sets

from srr_guard.reference import ReferenceLLM, resolve_reference
from srr_guard.reference.weights import model_folder, model_shape
from srr_guard.scorer.config import HeadConfig
from srr_guard.training.evaluation.probabilities import probability_figures
from srr_guard.training.feature_store import FeatureStore, feature_space, judge_examples

FIGURES = ("auroc", "recall_at_5_fpr", "calibration_error", "harm_blocked", "help_blocked")


def main() -> None:
    """Print one table: a row a fold, both in each cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    rows = held_out_rows(options.data, limits=LIMITS)
    width, blocks = model_shape(model_folder(resolve_reference(None)))
    config = HeadConfig.preset("default", width=width, blocks=blocks)
    llm = ReferenceLLM.load(depth=max(config.depths), dtype=options.dtype)
    store = FeatureStore(feature_space(llm), depths=config.depths)
    store.extract(rows, llm, progress=print)
    load = partial(store.load, depths=config.depths)
    table: dict[str, Any] = {}
    firsts: list[str] = []
    print(f"| held out | {' | '.join(FIGURES)} |\n| --- |{' --- |' * len(FIGURES)}")
    for fold, held_out in folds(rows).items():
        tests = load([r for r in rows if held_out(r) and not r.synthetic])
        rest = [r for r in rows if not held_out(r)]
        for compliance in (False, True):
            head = fitted_head(config, rest, load, compliance=compliance)
            p_safe = judge_examples(head, tests).p_safe
            figures = probability_figures(tests.rows, p_safe)
            own = {name: round(f.value, 4) for name, f in figures.items() if name in FIGURES}
            sets = judged_sets(tests, scores=lambda chosen, p=p_safe: p[list(chosen)])
            own |= {
                f"{name}, one safe of 8": round(sets[name]["one_safe_of_8"].value, 4)
                for place, name, metric in COLUMNS
                if place == fold and metric == "one_safe_of_8"
            }
            table.setdefault(fold, {})["with" if compliance else "without"] = own
        pair = table[fold]["without"], table[fold]["with"]
        cells = (" -> ".join(f"{one[m]:.3f}" if m in one else "" for one in pair) for m in FIGURES)
        print(f"| {fold} | {' | '.join(cells)} |", flush=True)
        firsts += [
            f"{fold}: {name}: {pair[0][name]:.3f} -> {pair[1][name]:.3f}"
            for name in pair[0].keys() - set(FIGURES)
        ]
    print("\n".join(sorted(firsts)))
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
