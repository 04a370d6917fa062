"""Measure scorers and their baselines on labelled responses."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping, Sequence
from functools import partial

import torch

from srr_guard.protocols import ProgressCallback
from srr_guard.reference import ReferenceLLM
from srr_guard.reference.spec import Device, DType
from srr_guard.reference.weights import pick_device
from srr_guard.scorer.inference import list_scores
from srr_guard.training.data import (
    Data,
    LabelledResponse,
    data_digests,
    data_items,
    read_rows,
    sample_rows,
)
from srr_guard.training.data.attacks import attack_sets
from srr_guard.training.data.loading import LoadedRecipe
from srr_guard.training.evaluation.baselines import baseline_scores
from srr_guard.training.evaluation.measure import MeasuredSet, report_of
from srr_guard.training.evaluation.ngrams import NGRAMS, NGramClassifier, unseen
from srr_guard.training.evaluation.references import (
    Reference,
    ReferenceGroup,
    costs_of,
    group_by_reference,
    named_bundles,
    peak_memory,
)
from srr_guard.training.evaluation.report import Cost, Report
from srr_guard.training.feature_store import FeatureStore, feature_space, judge_examples
from srr_guard.training.progress import silent


def evaluate(
    data: Data,
    scorers: Sequence[str | os.PathLike[str] | None] = (None,),
    *,
    recipe: LoadedRecipe | None = None,
    reference: Reference | Sequence[Reference] | None = None,
    ngrams: Data | None = None,
    per_source: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    dtype: DType = "auto",
    attacks: bool = True,
    progress: ProgressCallback = silent,
) -> Report:
    """Measure scorers, the linear probe inside each bundle, and the baselines.

    Scorers may be trained for different reference LLMs: one after the other is loaded. Lists,
    samples and attacks are the same for all.

    Args:
        data: Files, folders or `hf:` names of labelled responses; one of them or several. None
            at all, as `()`, if there is a recipe.
        scorers: Shipped names, folders or hub ids; None is the default bundle.
        recipe: Rows of public test sets to measure on too (see `load_recipe`).
        reference: The reference LLM that the bundles were trained for, or several; None: those
            that they name.
        ngrams: Rows to fit the n-gram baseline on, which is left out without them. Goals and
            prompts that are measured are left out of the fit.
        per_source: Most rows of each source; None: all.
        seed: Makes lists, samples and bootstrap repeatable.
        device: Where the reference LLM runs.
        dtype: Its precision.
        attacks: Measure every set with harm under each attack too (see `attacks`).
        progress: Receives the progress.

    Raises:
        BundleNotFoundError: There is no such bundle.
        IncompatibleScorerError: A bundle was trained for another reference LLM.
        InvalidInputError: A reference LLM that is given suits no scorer.
        DataError: The data cannot be read.
        MissingExtraError: `ngrams` is given and scikit-learn is not installed.

    Example:
        ```python
        from srr_guard.training import evaluate

        report = evaluate("test.jsonl", ["my-scorer"])
        report.sets["test"]["my-scorer"]["auroc"].value
        ```
    """
    data = data_items(data)
    given_rows = read_rows(data) if data or recipe is None else []
    rows = [*given_rows, *(recipe.rows if recipe else ())]
    rows = sample_rows(rows, per_source=per_source, seed=seed)
    classifier = None
    if ngrams is not None:
        classifier = NGramClassifier.fit(unseen(read_rows(ngrams), rows))
    given: Sequence[Reference] = (
        [reference] if isinstance(reference, (str, os.PathLike)) else [*(reference or ())]
    )
    groups = group_by_reference(named_bundles(scorers), given)
    sets = data_sets(rows)
    if attacks:
        sets |= attack_sets(sets, seed=seed)
    measured = {name: MeasuredSet.of(members, seed=seed) for name, members in sets.items()}
    costs: dict[str, Cost] = {}
    for group in groups:
        store, own = _extract(group, sets, rows, device=device, dtype=dtype, progress=progress)
        costs |= own
        measure_scorers(group, measured, store, progress=progress)
    for one in measured.values():
        if classifier is not None:
            p_safe = classifier.p_safe([row.response for row in one.rows])
            one.add(NGRAMS, partial(_looked_up, p_safe), p_safe)
        for name, scores in baseline_scores(one.rows).items():
            one.add(name, scores)
    return report_of(
        measured,
        digests={**data_digests(data), **(recipe.digests if recipe else {})},
        reference="; ".join(dict.fromkeys(cost.reference for cost in costs.values())),
        costs=costs,
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


def measure_scorers(
    group: ReferenceGroup,
    measured: Mapping[str, MeasuredSet],
    store: FeatureStore,
    *,
    progress: ProgressCallback = silent,
) -> None:
    """Measure the scorers of one reference LLM on every data set.

    Rows of one goal form its lists. Where they answer different prompts (attacks), each is
    encoded after its own prompt, and a listwise block sees the mean of the instructions.

    Args:
        group: The scorers.
        measured: Data sets; the figures are added to them.
        store: Holds the features of every row.
        progress: Receives the progress.

    Raises:
        DataError: A row's features are missing.
    """
    heads = {name: bundle.load_head() for name, bundle in group.bundles.items()}
    for done, one in enumerate(measured.values(), start=1):
        for name, head in heads.items():
            judged = judge_examples(head, store.load(one.rows, depths=head.config.depths))
            one.add(name, partial(list_scores, head, judged), judged.p_safe, prefers=True)
        progress(f"figures, {group.source.name}", done, len(measured))


def _extract(
    group: ReferenceGroup,
    sets: Mapping[str, Sequence[LabelledResponse]],
    rows: Sequence[LabelledResponse],
    *,
    device: Device,
    dtype: DType,
    progress: ProgressCallback,
) -> tuple[FeatureStore, dict[str, Cost]]:
    """Extract the features of all rows; the reference LLM is out of memory again afterwards."""
    gc.collect()
    with peak_memory(str(pick_device(device))) as peak:
        llm = ReferenceLLM.load(group.source, depth=max(group.depths), device=device, dtype=dtype)
        for bundle in group.bundles.values():
            bundle.check_fits(llm)
        costs = costs_of(group, llm, rows, peak=peak)
    store = FeatureStore(feature_space(llm), depths=group.depths)
    everything = [row for members in sets.values() for row in members]
    store.extract(
        everything,
        llm,
        progress=lambda stage, done, total, **figures: progress(
            f"{stage}, {group.source.name}", done, total, **figures
        ),
    )
    del llm
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return store, costs


def _looked_up(values: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
    return values[list(indices)]
