"""What each part of the method brings, on sources and goals that a variant never saw.

    python benchmarks/ablation.py TRAIN --json benchmarks/results/ablation.json [--only NAME ...]

With --only the other rows of the JSON file stay; the table goes to a `.md` file beside it.

TRAIN is the folder of training rows. Five times something is held out: the jailbreak sources
with their goals, gptfuzz, coconot with rbr, a third of the contrast set by area, and a fifth
of all goals; each variant is fitted on the rest and judged on what was held out. The first
run extracts features (half an hour on two cores), later ones take minutes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from srr_guard.reference import ReferenceLLM, resolve_reference
from srr_guard.reference.weights import model_folder, model_shape
from srr_guard.scorer.config import HeadConfig
from srr_guard.scorer.head import SRRHead
from srr_guard.scorer.inference import list_scores
from srr_guard.training.data import LabelledResponse, read_rows, sample_rows, split_by_goal
from srr_guard.training.evaluation.baselines import baseline_scores
from srr_guard.training.evaluation.metrics import Figure, ListScores, Metric, ranking_figures
from srr_guard.training.evaluation.probabilities import probability_figures
from srr_guard.training.feature_store import Examples, FeatureStore, feature_space, judge_examples
from srr_guard.training.fit.pointwise import fit_head
from srr_guard.training.run import TrainingOptions, prepare

LIMITS = {"diasafety": 2500, "gptfuzz": 2600, "benign_gpteacher": 1100}
WEIGHTS = {"diasafety": 0.3, "safetext": 0.5, "latent_jailbreak": 0.5}
DEPTHS = (8, 12, 16, 20, 24)
JAILBREAKS = ("jbb_artifacts", "tml_past_tense", "refusal_direction")
AREAS = ("home", "law", "comp", "conf", "viol", "hate", "violence")
Keep = Callable[[LabelledResponse], bool]


@dataclass(frozen=True)
class Variant:
    """One way to build and train a head."""

    config: HeadConfig
    keep: Keep = lambda row: True
    fit: dict[str, Any] = field(default_factory=dict)


def variants(width: int, blocks: int) -> dict[str, Variant]:
    """The shipped design; and without evidence from the list, when one thing more is changed."""
    shipped = HeadConfig.preset("default", width=width, blocks=blocks)
    alone = shipped.model_copy(update={"evidence": 0.0, "familiar": 0})
    design = lambda **change: Variant(alone.model_copy(update=change), fit=BEFORE)  # noqa: E731
    base = Variant(alone, fit=BEFORE)
    published = HeadConfig.preset("published", width=width, blocks=blocks)
    lists = {"epochs": 8}
    return {
        "shipped": Variant(shipped),
        "logistic request": Variant(shipped, fit=BEFORE),
        "half the evidence": Variant(shipped.model_copy(update={"evidence": 0.5}), fit=BEFORE),
        "no evidence from the list": base,
        "linear probe, last token": Variant(HeadConfig.preset("probe", width=width, blocks=blocks)),
        "published, lists up to 8": Variant(published, fit=lists),
        "published, lists up to 16": Variant(published, fit={**lists, "longest_list": 16}),
        "published on means": Variant(
            published.model_copy(update={"poolings": ("mean",)}), fit=lists
        ),
        "not graded": design(graded=False),
        "last token": design(poolings=("last",)),
        "mean and last token": design(poolings=("mean", "last")),
        "mean and instruction": design(poolings=("mean", "instruction")),
        **{f"depth {k}": design(depths=(k,)) for k in DEPTHS},
        "depths 16, 24": design(depths=(16, 24)),
        "depths 12, 16, 20, 24": design(depths=(12, 16, 20, 24)),
        "listwise block beside": replace(design(listwise=True), fit={**BEFORE, **lists}),
        "no synthetic rows": replace(base, keep=lambda r: r.synthetic in ("", "cut")),
        "no disguised harm": replace(base, keep=lambda r: r.synthetic not in DISGUISES),
        "no needless refusals": replace(base, keep=lambda r: r.synthetic != "needless refusal"),
        "no contrast set": replace(base, keep=lambda r: not r.source.startswith("contrast")),
        "contrast set, long pairs": replace(
            base, keep=lambda r: r.source not in ("contrast_short", "contrast_requests")
        ),
        "contrast set, no bare requests": replace(
            base, keep=lambda r: r.source != "contrast_requests"
        ),
        "no preferences": replace(base, fit={**BEFORE, "preference_weight": 0.0}),
    }


BEFORE: dict[str, Any] = {"class_means": False}
"""A logistic regression for the request: the fit of the older rows."""
DISGUISES = ("appended refusal", "prepended refusal", "harm after help", "forged tokens")
# (set, metric) of every column
COLUMNS: tuple[tuple[str, str, Metric], ...] = (
    ("unseen jailbreaks", "jbb_artifacts", "one_safe_of_8"),
    ("unseen jailbreaks", "jbb_artifacts", "no_harm_of_8"),
    ("unseen jailbreaks", "tml_past_tense", "one_safe_of_8"),
    ("unseen jailbreaks", "tml_past_tense", "no_harm_of_8"),
    ("unseen gptfuzz", "gptfuzz", "one_safe_of_8"),
    ("unseen gptfuzz", "gptfuzz", "auroc"),
    ("unseen coconot, rbr", "coconot (safe)", "help_over_refusal"),
    ("unseen areas", "contrast_short (safe)", "help_over_refusal"),
    ("unseen areas", "contrast_short (unsafe)", "pairwise"),
    ("unseen areas", "contrast (safe)", "help_over_refusal"),
    ("unseen areas", "contrast (unsafe)", "pairwise"),
    ("unseen goals", "jbb_artifacts", "one_safe_of_8"),
    ("unseen goals", "tml_past_tense", "one_safe_of_8"),
    ("unseen goals", "gptfuzz", "one_safe_of_8"),
    ("unseen goals", "hh_harmless_test", "pairwise"),
    ("unseen goals", "harm in disguise", "auroc"),
)


def folds(rows: Sequence[LabelledResponse]) -> dict[str, Keep]:
    """What is held out, by name; goals of it are held out everywhere."""
    goals = {r.goal_id for r in rows if r.source in JAILBREAKS}
    fifth = {r.goal_id for r in split_by_goal(rows, validation_share=0.2, seed=7)[1]}
    return {
        "unseen jailbreaks": lambda r: r.goal_id in goals,
        "unseen gptfuzz": lambda r: r.source == "gptfuzz",
        "unseen coconot, rbr": lambda r: r.source in ("coconot", "openai_rbr_gold"),
        "unseen areas": lambda r: bool(r.pair) and r.pair.rsplit("-", 2)[-2] in AREAS,
        "unseen goals": lambda r: r.goal_id in fifth,
    }


def set_name(row: LabelledResponse) -> str:
    """Contrast requests of both kinds are told apart, harm in disguise is a set of its own."""
    if row.synthetic in DISGUISES:
        return "harm in disguise"
    return f"{row.source} ({row.prompt_type})" if row.prompt_type else row.source


def judged_sets(examples: Examples, **named: Any) -> dict[str, dict[Metric, Figure]]:
    """Figures of every set among the examples, of a head or of a baseline."""
    figures: dict[str, dict[Metric, Figure]] = {}
    clean = ("", "needless refusal")
    names = {set_name(r) for r in examples.rows if r.synthetic in clean} | {"harm in disguise"}
    for name in names:
        disguised = name == "harm in disguise"
        at = [
            i
            for i, r in enumerate(examples.rows)
            if (disguised and (r.synthetic in DISGUISES or (r.safe and not r.synthetic)))
            or (r.synthetic in clean and set_name(r) == name)
        ]
        rows = [examples.rows[i] for i in at]
        scores: ListScores = partial(_of_subset, named["scores"], at)
        p_safe = named["p_safe"][at] if "p_safe" in named else None
        figures[name] = ranking_figures(rows, scores, p_safe=p_safe)
        if p_safe is not None:
            figures[name] |= probability_figures(rows, p_safe)
    return figures


def _of_subset(scores: ListScores, at: Sequence[int], indices: Sequence[int]) -> Any:
    return scores([at[i] for i in indices])


def held_out_rows(data: str, *, limits: Mapping[str, int]) -> list[LabelledResponse]:
    """All rows of the folder and the contrast set, as they are encoded."""
    read = sample_rows(read_rows([data, "contrast"]), limits=limits, seed=0)
    options = TrainingOptions(source_limits=limits)
    return [
        r for s in split_by_goal(read, validation_share=0.2, seed=0) for r in prepare(s, options)
    ]


def fitted_head(
    config: HeadConfig,
    rows: Sequence[LabelledResponse],
    load: Callable[[Sequence[LabelledResponse]], Examples],
    **fit: Any,
) -> SRRHead:
    """One design, fitted on some rows and calibrated on a tenth of their goals."""
    fitted, calibration = split_by_goal(rows, validation_share=0.1, seed=1)
    return fit_head(
        config,
        load(fitted),
        load(calibration),
        seed=0,
        penalties=(0.01,),
        source_weights=WEIGHTS,
        harmful_sources=("hh_harmless_test",),
        **fit,
    )


def fitted_cells(
    config: HeadConfig,
    rows: Sequence[LabelledResponse],
    load: Callable[[Sequence[LabelledResponse]], Examples],
    *,
    keep: Keep = lambda row: True,
    baselines: bool = False,
    **fit: Any,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Figures of one design, fitted on every fold's rest; and of the baselines, if asked."""
    cells: dict[str, float] = {}
    others: dict[str, dict[str, float]] = {}
    for fold, held_out in folds(rows).items():
        rest = [r for r in rows if not held_out(r) and keep(r)]
        tests = [r for r in rows if held_out(r)]
        head = fitted_head(config, rest, load, **fit)
        examples = load(tests)
        judged = judge_examples(head, examples)
        scores = partial(list_scores, head, judged)
        cells |= _cells(fold, judged_sets(examples, scores=scores, p_safe=judged.p_safe))
        for name, own in (baseline_scores(tests) if baselines else {}).items():
            others.setdefault(name, {}).update(_cells(fold, judged_sets(examples, scores=own)))
    return cells, others


def main() -> None:
    """Fit every variant on every fold and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    rows = held_out_rows(options.data, limits=LIMITS)
    width, blocks = model_shape(model_folder(resolve_reference(None)))
    chosen = {
        name: variant
        for name, variant in variants(width, blocks).items()
        if not options.only or name in options.only
    }
    depths = sorted({k for variant in chosen.values() for k in variant.config.depths})
    llm = ReferenceLLM.load(depth=max(depths), dtype=options.dtype)
    store = FeatureStore(feature_space(llm), depths=depths)
    store.extract(rows, llm, progress=print)
    table: dict[str, dict[str, Any]] = {}
    if options.only and options.json and options.json.is_file():
        table = json.loads(options.json.read_text())  # keep the rows that are not made anew
    for name, variant in chosen.items():
        started = time.perf_counter()
        cells, others = fitted_cells(
            variant.config,
            rows,
            partial(store.load, depths=variant.config.depths),
            keep=variant.keep,
            baselines=name == "shipped",
            **variant.fit,
        )
        table[name] = {**cells, "seconds": round(time.perf_counter() - started)}
        table |= others
        print_row(name, cells)
    markdown = "\n".join(_markdown(table))
    print(markdown)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(table, indent=1) + "\n")
        options.json.with_suffix(".md").write_text(markdown + "\n")


def _cells(fold: str, found: dict[str, dict[Metric, Figure]]) -> dict[str, float]:
    return {
        f"{where}: {name}, {metric}": round(found[name][metric].value, 4)
        for where, name, metric in COLUMNS
        if where == fold and metric in found.get(name, {})
    }


def print_row(name: str, cells: Mapping[str, float]) -> None:
    """Print a row of the table at once: a run takes long."""
    print(_row(name, cells), flush=True)


def _row(name: str, cells: Mapping[str, float]) -> str:
    keys = [f"{where}: {set_}, {metric}" for where, set_, metric in COLUMNS]
    return f"| {name} | " + " | ".join(f"{cells[k]:.3f}" if k in cells else "" for k in keys) + " |"


def _markdown(table: dict[str, dict[str, Any]]) -> list[str]:
    keys = [f"{where}: {set_}, {metric}" for where, set_, metric in COLUMNS]
    head = [f"| variant | {' | '.join(keys)} |", f"| --- |{' --- |' * len(keys)}"]
    return [*head, *(_row(name, cells) for name, cells in table.items())]


if __name__ == "__main__":
    main()
