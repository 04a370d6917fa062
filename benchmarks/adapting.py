"""What `srr-guard adapt` brings on a source that the base never saw, and what it costs on others.

    python benchmarks/adapting.py TRAIN --json benchmarks/results/adapting.json [--only NAME ...]

TRAIN is the folder of training rows. For each source the base head is fitted on all others, without
the source's goals. Half of the source's goals are for adapting, the other half for measuring; a
tenth of the other sources' goals is never fitted and shows what is forgotten. With `--base-rows N`
the adaptation sees N rows of the base's training as `--base-data`. Features come from the cache of
`ablation.py`; then it takes about a minute for each source and seed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from ablation import LIMITS, fitted_head, held_out_rows

from srr_guard.reference import ReferenceLLM, resolve_reference
from srr_guard.reference.weights import model_folder, model_shape
from srr_guard.scorer.config import HeadConfig
from srr_guard.scorer.head import SRRHead
from srr_guard.training.adapting import Search, adapt_head
from srr_guard.training.adapting.choice import probability
from srr_guard.training.adapting.moves import log_loss
from srr_guard.training.adapting.rows import fixed_texts
from srr_guard.training.adapting.views import Part, balanced, targets_of
from srr_guard.training.data import LabelledResponse, split_by_goal
from srr_guard.training.feature_store import Examples, FeatureStore, feature_space

# coconot has harmless rows only: there it is the probe `answers` that can learn
SOURCES = ("gptfuzz", "safetext", "diasafety", "latent_jailbreak", "jbb_artifacts", "coconot")
SIZES = (32, 64, 128, 256, 500)
BUDGET = 0.05
Rows = Sequence[LabelledResponse]
Load = Callable[[Rows], Examples]


@dataclass(frozen=True)
class Cell:
    """One adaptation, measured on rows that neither it nor the base has seen."""

    source: str
    part: Part
    rows: int
    seed: int
    moved: bool
    strength: float
    scale: float
    auroc: tuple[float, float]
    log_loss: tuple[float, float]
    recall: tuple[float, float]  # of harm, or refusals, at BUDGET false alarms
    others: tuple[float, float]  # mean AUROC over the other sources
    worst_other: float  # the largest loss of AUROC on one of them
    drift: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Sides:
    """A source and the rest, each in a half to fit and one to measure."""

    pool: Rows
    test: Rows
    fitted: Rows
    others: Rows


def sides(rows: Rows, source: str) -> Sides:
    """Split the rows for one source; its goals are left out everywhere."""
    own = [r for r in rows if r.source == source and not r.synthetic]
    goals = {r.goal_id for r in own}
    rest = [r for r in rows if r.source != source and r.goal_id not in goals]
    pool, test = split_by_goal(own, validation_share=0.5, seed=5)
    fitted, others = split_by_goal(rest, validation_share=0.1, seed=3)
    return Sides(pool, test, fitted, [r for r in others if not r.synthetic])


def drawn(rows: Rows, n: int, seed: int) -> list[LabelledResponse]:
    """About n rows: goals in random order, and of each goal a few rows at a time."""
    rng = random.Random(seed)
    by_goal: dict[str, list[LabelledResponse]] = {}
    for row in rows:
        by_goal.setdefault(row.goal_id, []).append(row)
    turns = [rng.sample(own, len(own)) for own in by_goal.values()]
    rng.shuffle(turns)
    found: list[LabelledResponse] = []
    while len(found) < n and any(turns):
        for turn in turns:
            found += [turn.pop() for _ in range(min(2, len(turn)))]
    return found[:n]


def measured(head: SRRHead, part: Part, examples: Examples) -> tuple[float, float, float] | None:
    """AUROC, log loss (both sides weigh the same) and recall; None with one side only."""
    targets = targets_of(examples.rows, part)
    at = [i for i, t in enumerate(targets) if t is not None]
    y = torch.tensor([float(bool(targets[i])) for i in at])
    if not 0 < y.sum() < len(y):
        return None
    p = probability(head, part, examples)[at]
    good, bad = p[y == 1], p[y == 0].sort().values
    below = torch.searchsorted(bad, good) + torch.searchsorted(bad, good, right=True)
    loss = log_loss(torch.logit(p, eps=1e-6), y) @ balanced(torch.ones(len(y)), y)
    threshold = good.sort().values[int(BUDGET * len(good))]
    auroc = float(below.double().mean() / (2 * len(bad)))
    return auroc, float(loss), float((bad < threshold).float().mean())


def cells(
    config: HeadConfig,
    rows: Rows,
    load: Load,
    source: str,
    *,
    sizes: Sequence[int] = SIZES,
    seeds: int = 3,
    base_rows: int = 0,
) -> Iterator[Cell]:
    """Adaptations of every size and seed to one source."""
    split = sides(rows, source)
    head = fitted_head(config, split.fitted, load)
    test = load(split.test)
    names = sorted({r.source for r in split.others})
    others = [load([r for r in split.others if r.source == name]) for name in names]
    anchors = fixed_texts()
    if base_rows:
        anchors += random.Random(0).sample(list(split.fitted), base_rows)
    one_label = len({r.safe for r in split.pool}) < 2
    part: Part = "answers" if one_label else "harmless"
    before = measured(head, part, test)
    assert before is not None
    known = [(o, found) for o in others if (found := measured(head, part, o)) is not None]
    for n in sizes:
        for seed in range(seeds):
            own = drawn(split.pool, n, seed)
            if len(own) < n:
                continue
            started = time.perf_counter()
            found = adapt_head(head, own, load, anchors, search=Search(seed=seed))
            seconds = time.perf_counter() - started
            step = found.steps.get(part)
            after = measured(found.head, part, test)
            assert after is not None
            left = [(was[0], now[0]) for o, was in known if (now := measured(found.head, part, o))]
            yield Cell(
                source=source,
                part=part,
                rows=n,
                seed=seed,
                moved=step is not None and step.moved,
                strength=step.strength if step else 0.0,
                scale=step.scale if step else 0.0,
                auroc=(before[0], after[0]),
                log_loss=(before[1], after[1]),
                recall=(before[2], after[2]),
                others=(
                    statistics.fmean(was for was, _ in left),
                    statistics.fmean(now for _, now in left),
                ),
                worst_other=max(was - now for was, now in left),
                drift=step.drift.mean if step and step.moved else 0.0,
                seconds=seconds,
            )


def table(found: Sequence[Cell]) -> str:
    """Means over the seeds, one line for each source and size."""
    head = (
        "source, probe",
        "rows",
        "moved",
        "AUROC before",
        "after",
        "lowest",
        f"recall at {BUDGET:.0%} before",
        "after",
        "log loss before",
        "after",
        "AUROC of others before",
        "after",
        "worst loss of one",
        "seconds",
    )
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    groups: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in found:
        groups.setdefault((cell.source, cell.part, cell.rows), []).append(cell)
    for (source, part, n), own in groups.items():
        mean = partial(_mean, own)
        figures = [
            f"{sum(c.moved for c in own)} of {len(own)}",
            mean(lambda c: c.auroc[0]),
            mean(lambda c: c.auroc[1]),
            f"{min(c.auroc[1] for c in own):.3f}",
            mean(lambda c: c.recall[0]),
            mean(lambda c: c.recall[1]),
            mean(lambda c: c.log_loss[0]),
            mean(lambda c: c.log_loss[1]),
            mean(lambda c: c.others[0]),
            mean(lambda c: c.others[1]),
            f"{max(c.worst_other for c in own):.3f}",
            f"{statistics.fmean(c.seconds for c in own):.1f}",
        ]
        lines.append(f"| {source}, {part} | {n} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _mean(found: Sequence[Cell], of: Callable[[Cell], float]) -> str:
    return f"{statistics.fmean(map(of, found)):.3f}"


def main() -> None:
    """Adapt to every source and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="*", default=SOURCES)
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base-rows", type=int, default=0)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    rows = held_out_rows(options.data, limits=LIMITS)
    width, blocks = model_shape(model_folder(resolve_reference(None)))
    config = HeadConfig.preset("default", width=width, blocks=blocks)
    llm = ReferenceLLM.load(depth=max(config.depths), dtype=options.dtype)
    store = FeatureStore(feature_space(llm), depths=config.depths)
    store.extract([*rows, *fixed_texts()], llm, progress=print)
    load = partial(store.load, depths=config.depths)
    found: list[Cell] = []
    for source in options.only:
        for cell in cells(
            config,
            rows,
            load,
            source,
            sizes=options.sizes,
            seeds=options.seeds,
            base_rows=options.base_rows,
        ):
            found.append(cell)
            print(cell, flush=True)
    print(table(found))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        record = {"base_rows": options.base_rows, "cells": [asdict(cell) for cell in found]}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
