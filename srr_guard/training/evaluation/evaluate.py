"""Measure a scorer and its baselines on labelled responses."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from srr_guard.protocols import ProgressCallback
from srr_guard.reference import ReferenceLLM
from srr_guard.reference.source import Named, resolve_reference
from srr_guard.reference.spec import Device, DType
from srr_guard.scorer.bundle import ScorerBundle
from srr_guard.scorer.head import SRRHead
from srr_guard.scorer.inference import list_scores
from srr_guard.training.data import (
    Data,
    LabelledResponse,
    data_digests,
    data_items,
    read_rows,
    sample_rows,
)
from srr_guard.training.data.attacks import ATTACKS, attack_sets
from srr_guard.training.data.loading import LoadedRecipe
from srr_guard.training.evaluation.baselines import baseline_scores
from srr_guard.training.evaluation.metrics import (
    Figure,
    ListScores,
    Metric,
    list_size_figures,
    ranking_figures,
)
from srr_guard.training.evaluation.probabilities import (
    ProbabilityCurves,
    probability_curves,
    probability_figures,
)
from srr_guard.training.feature_store import FeatureStore, feature_space, judge_examples
from srr_guard.training.progress import silent


class Report(BaseModel):
    """Figures by data set, method and metric.

    Attributes:
        sets: Data set -> method -> metric -> figure. Sets named `NAME, ATTACK` have their
            harmful answers disguised; `all harmful sets` joins the plain ones with harm.
        list_sizes: Data set -> method -> size -> how often the one safe answer comes first.
        curves: Data set -> method -> curves of `p_safe`.
        digests: SHA-256 of the data files, by name.
        reference: What the reference LLM ran as: name and precision.
    """

    model_config = ConfigDict(frozen=True)

    sets: Mapping[str, Mapping[str, Mapping[Metric, Figure]]]
    list_sizes: Mapping[str, Mapping[str, Mapping[int, Figure]]] = {}
    curves: Mapping[str, Mapping[str, ProbabilityCurves]] = {}
    digests: Mapping[str, str]
    reference: str = ""


def evaluate(
    data: Data,
    scorers: Sequence[str | os.PathLike[str] | None] = (None,),
    *,
    recipe: LoadedRecipe | None = None,
    reference: str | os.PathLike[str] | None = None,
    per_source: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    dtype: DType = "auto",
    attacks: bool = True,
    progress: ProgressCallback = silent,
) -> Report:
    """Measure scorers, the linear probe inside each bundle, and the baselines.

    Args:
        data: Files, folders or `hf:` names of labelled responses; one of them or several. None
            at all, as `()`, if there is a recipe.
        scorers: Shipped names, folders or hub ids; None is the default bundle.
        recipe: Rows of public test sets to measure on too (see `load_recipe`).
        reference: The reference LLM that the bundles were trained for; None: the one that the
            first of them names.
        per_source: Most rows of each source; None: all.
        seed: Makes lists, samples and bootstrap repeatable.
        device: Where the reference LLM runs.
        dtype: Its precision.
        attacks: Measure every set with harm under each attack too (see `attacks`).
        progress: Receives the progress.

    Raises:
        BundleNotFoundError: There is no such bundle.
        IncompatibleScorerError: A bundle was trained for another reference LLM.
        DataError: The data cannot be read.

    Example:
        ```python
        from srr_guard.training import evaluate

        report = evaluate("test.jsonl", ["my-scorer"])
        report.sets["test"]["my-scorer"]["auroc"].value
        ```
    """
    data = data_items(data)
    own = read_rows(data) if data or recipe is None else []
    rows = [*own, *(recipe.rows if recipe else ())]
    rows = sample_rows(rows, per_source=per_source, seed=seed)
    bundles = {b.info.name: b for name in scorers for b in _with_probe(ScorerBundle.find(name))}
    depths = sorted({k for b in bundles.values() for k in b.info.head.depths})
    first = next(iter(bundles.values())).info
    source = resolve_reference(
        reference, named=Named(first.reference, revision=first.reference_revision)
    )
    llm = ReferenceLLM.load(source, depth=max(depths), device=device, dtype=dtype)
    for bundle in bundles.values():
        bundle.check_fits(llm)
    sets = data_sets(rows)
    if attacks:
        sets |= attack_sets(sets, seed=seed)
    store = FeatureStore(feature_space(llm), depths=depths)
    store.extract(
        [row for members in sets.values() for row in members],
        llm,
        progress=progress,
    )
    heads = {name: bundle.load_head() for name, bundle in bundles.items()}
    return evaluate_heads(
        heads,
        sets,
        store,
        digests={**data_digests(data), **(recipe.digests if recipe else {})},
        seed=seed,
        reference=f"{llm.name}, {llm.dtype}",
        progress=progress,
    )


def data_sets(rows: Sequence[LabelledResponse]) -> dict[str, list[LabelledResponse]]:
    """Rows by file or source; requests known to be benign or harmful are told apart."""
    sets: dict[str, list[LabelledResponse]] = {}
    for row in rows:
        name = row.file or row.source
        if row.prompt_type is not None:
            name = f"{name} ({row.prompt_type} prompts)"
        sets.setdefault(name, []).append(row)
    return sets


def _with_probe(bundle: ScorerBundle) -> Iterator[ScorerBundle]:
    yield bundle
    if (bundle.folder / "probe" / "config.json").is_file():
        yield ScorerBundle.find(bundle.folder / "probe")


def evaluate_heads(
    heads: Mapping[str, SRRHead],
    sets: Mapping[str, Sequence[LabelledResponse]],
    store: FeatureStore,
    *,
    digests: Mapping[str, str],
    seed: int = 0,
    reference: str = "",
    progress: ProgressCallback = silent,
) -> Report:
    """Measure heads and baselines on every data set.

    Rows of one goal form its lists. Where they answer different prompts (attacks), each is
    encoded after its own prompt, and a listwise block sees the mean of the instructions.

    Args:
        heads: Trained heads by the name they are reported under.
        sets: Labelled responses by the name of their set.
        store: Holds the features of every row.
        digests: SHA-256 of the data files.
        seed: Makes lists and bootstrap repeatable.
        reference: What the reference LLM ran as, for the report.
        progress: Receives the progress.

    Raises:
        DataError: A row's features are missing.
    """
    measured: dict[str, _Measured] = {}
    for done, (name, rows) in enumerate(sets.items(), start=1):
        measured[name] = _measure_set(heads, rows, store, seed=seed)
        progress("figures", done, len(sets))
    joined = _joined(sets, measured, seed=seed)
    return Report(
        sets={name: found.figures for name, found in measured.items()}
        | ({ALL_HARMFUL: joined.figures} if joined else {}),
        list_sizes={name: found.list_sizes for name, found in measured.items() if found.list_sizes},
        curves={name: found.curves for name, found in measured.items() if found.curves}
        | ({ALL_HARMFUL: joined.curves} if joined else {}),
        digests=digests,
        reference=reference,
    )


ALL_HARMFUL = "all harmful sets"
"""Name of the set that joins all plain sets with harmful answers."""


@dataclass(eq=False)
class _Measured:
    figures: dict[str, dict[Metric, Figure]] = field(default_factory=dict)
    list_sizes: dict[str, dict[int, Figure]] = field(default_factory=dict)
    curves: dict[str, ProbabilityCurves] = field(default_factory=dict)
    p_safe: dict[str, Tensor] = field(default_factory=dict)

    def rank(
        self,
        name: str,
        rows: Sequence[LabelledResponse],
        scores: ListScores,
        *,
        p_safe: Tensor | None = None,
        seed: int,
    ) -> None:
        self.figures[name] = ranking_figures(rows, scores, p_safe=p_safe, seed=seed)
        if sizes := list_size_figures(rows, scores, seed=seed):
            self.list_sizes[name] = sizes

    def weigh(
        self, name: str, rows: Sequence[LabelledResponse], p_safe: Tensor, *, seed: int
    ) -> None:
        self.p_safe[name] = p_safe
        found = probability_figures(rows, p_safe, seed=seed)
        self.figures[name] = {**self.figures.get(name, {}), **found}
        if curves := probability_curves(rows, p_safe):
            self.curves[name] = curves


def _measure_set(
    heads: Mapping[str, SRRHead],
    rows: Sequence[LabelledResponse],
    store: FeatureStore,
    *,
    seed: int,
) -> _Measured:
    measured = _Measured()
    for name, head in heads.items():
        judged = judge_examples(head, store.load(rows, depths=head.config.depths))
        scores = partial(list_scores, head, judged)
        measured.rank(name, rows, scores, p_safe=judged.p_safe, seed=seed)
        measured.weigh(name, rows, judged.p_safe, seed=seed)
    for name, baseline in baseline_scores(rows).items():
        measured.rank(name, rows, baseline, seed=seed)
    return measured


def _joined(
    sets: Mapping[str, Sequence[LabelledResponse]],
    measured: Mapping[str, _Measured],
    *,
    seed: int,
) -> _Measured | None:
    """`p_safe` over all plain sets with harm as one; None when there are fewer than two."""
    names = [n for n in sets if measured[n].curves and not n.endswith(ATTACKS)]
    if len(names) < 2:
        return None
    joined = _Measured()
    rows = [row for n in names for row in sets[n]]
    for method in measured[names[0]].p_safe:
        p_safe = torch.cat([measured[n].p_safe[method] for n in names])
        joined.weigh(method, rows, p_safe, seed=seed)
    return joined
