"""Readings of the prompt alone, judged on kinds of requests that they never saw.

    python benchmarks/gates.py TRAIN --json benchmarks/results/gates.json

Rows, groups and pooled states are those of `ideas.py`, which must have run before. Each reading is
fitted on eight groups of sources and read on the ninth. A cell is the AUROC of the group's harmful
requests against all benign ones, each read by a fit without its own group; the second number is
the share of harmful ones above the point that 5% of the benign ones pass.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ablation import LIMITS, held_out_rows
from ideas import ALL, THREE, Readings, _at, pooled, sampled
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from srr_guard.reference import ReferenceLLM
from srr_guard.reference.cache_folder import cache_dir
from srr_guard.reference.features import FeatureSpec
from srr_guard.training.fit.linear import class_mean_probe

STEP = "Sure"


class Prompts:
    """One row for each prompt with a label: harmful or not, its group, its states."""

    def __init__(self, of: Readings, after: Tensor | None) -> None:
        rows = [i for i, target in enumerate(of.targets["q"]) if target is not None]
        at = of.prompt_of[rows]
        self.y = torch.tensor([float(of.targets["q"][i] or False) for i in rows])
        self.groups = of.groups[rows]
        self.before, self.request = of.before[at], of.request[at]
        self.after = None if after is None else after[at]

    def inputs(self, depths: tuple[int, ...]) -> Tensor:
        """(n, k) last tokens and means over the latest turns."""
        return torch.cat([t[:, _at(depths)].flatten(1) for t in (self.before, self.request)], 1)

    def out_of_group(self, x: Tensor, *, logistic: bool = False) -> Tensor:
        """(n,) logits of probes that did not see the row's group."""
        logits = torch.zeros(len(x))
        for name in sorted(set(self.groups)):
            own = torch.from_numpy(self.groups == name)
            logits[own] = self._read(x[~own], self.y[~own], x[own], logistic=logistic)
        return logits

    def stacked(self, depths: tuple[int, ...]) -> Tensor:
        """(n,) MLPM: class means at each depth, stacked by L1 logistic regression."""
        logits = torch.zeros(len(self.y))
        by_depth = [self.inputs((depth,)) for depth in depths]
        groups = sorted(set(self.groups))
        for name in groups:
            own = torch.from_numpy(self.groups == name)
            inner = torch.zeros(len(self.y), len(depths))
            for other in groups:
                part = torch.from_numpy(self.groups == other)
                rest = ~own & ~part if other != name else ~own
                for k, x in enumerate(by_depth):
                    inner[part, k] = self._read(x[rest], self.y[rest], x[part])
            scale = inner[~own].std(0)
            stack = LogisticRegression(l1_ratio=1.0, solver="saga", C=0.05, max_iter=2000)
            stack.fit((inner[~own] / scale).numpy(), self.y[~own].numpy())
            read = stack.decision_function((inner[own] / scale).numpy())
            logits[own] = torch.from_numpy(read).float()
        return logits

    @staticmethod
    def _read(x: Tensor, y: Tensor, asked: Tensor, *, logistic: bool = False) -> Tensor:
        offset, scale = x.mean(0), x.std(0).clamp(min=1e-4)
        z, wanted = ((t - offset) / scale for t in (x, asked))
        if logistic:
            fitted = LogisticRegression(C=0.003, class_weight="balanced", max_iter=300)
            fitted.fit(z.numpy(), y.numpy())
            return torch.from_numpy(fitted.decision_function(wanted.numpy())).float()
        weights = torch.where(y > 0, 0.5 / y.sum(), 0.5 / (1 - y).sum())
        coefficients, intercept = class_mean_probe(z, y, weights)
        return wanted @ coefficients + intercept


def readings(of: Prompts) -> Iterator[tuple[str, Tensor]]:
    """Name and logits of each reading."""
    yield "logistic regression, depths 12, 16, 20", of.out_of_group(of.inputs(THREE), logistic=True)
    yield "class means, depths 12, 16, 20 (ships)", of.out_of_group(of.inputs(THREE))
    yield "class means, last token only", of.out_of_group(of.before[:, _at(THREE)].flatten(1))
    yield "class means, latest turn only", of.out_of_group(of.request[:, _at(THREE)].flatten(1))
    yield "MLPM: a stack over 11 depths", of.stacked(ALL)
    if of.after is not None:
        step = of.after - of.before[:, _at(THREE)]
        yield "SCANS: the step to 'Sure'", of.out_of_group(step.flatten(1))
        both = torch.cat([of.inputs(THREE), step.flatten(1)], 1)
        yield "class means, and the step", of.out_of_group(both)


def states_after(of: Readings, file: Path) -> Tensor:
    """(prompts, 3, d) states of the first token of an answer that says yes."""
    if not file.exists():
        llm = ReferenceLLM.load(depth=max(THREE), dtype="bfloat16")
        known: dict[int, object] = {}
        for row, number in zip(of.rows, of.prompt_of.tolist(), strict=True):
            known.setdefault(number, row.conversation)
        found = np.zeros((len(known), len(THREE), llm.width), dtype=np.float16)
        for start in range(0, len(known), 64):
            some = range(start, min(start + 64, len(known)))
            requests = [(known[number], [STEP]) for number in some]
            for number, features in zip(
                some, llm.encode_many(requests, FeatureSpec(THREE)), strict=True
            ):
                found[number] = features.mean[0].half().numpy()
        np.save(file, found)
    return torch.from_numpy(np.load(file)).float()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = sampled(held_out_rows(options.data, limits=LIMITS))
    folder = cache_dir() / "ideas"
    of = Readings(rows, pooled(rows, folder / "states.npz"), None)
    prompts = Prompts(of, states_after(of, folder / "after.npy"))
    benign = torch.from_numpy(np.array(prompts.y == 0))
    shown = [
        name
        for name in sorted(set(prompts.groups))
        if int((prompts.y[torch.from_numpy(prompts.groups == name)] > 0).sum()) >= 30
    ]
    print(f"| reading | {' | '.join(shown)} |\n| --- |{' --- |' * len(shown)}")
    table: dict[str, dict[str, tuple[float, float]]] = {}
    for reading, logits in readings(prompts):
        point = float(logits[benign].quantile(0.95))
        cells = {}
        for name in shown:
            harmful = torch.from_numpy(prompts.groups == name) & ~benign
            both = torch.cat([logits[harmful], logits[benign]])
            labels = torch.cat([torch.ones(int(harmful.sum())), torch.zeros(int(benign.sum()))])
            recall = float((logits[harmful] > point).float().mean())
            cells[name] = (
                round(float(roc_auc_score(labels.numpy(), both.numpy())), 3),
                round(recall, 3),
            )
        table[reading] = cells
        row = " | ".join(f"{area:.3f}; {recall:.2f}" for area, recall in cells.values())
        print(f"| {reading} | {row} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
