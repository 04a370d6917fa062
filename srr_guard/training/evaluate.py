"""Measure a scorer and its baselines on labelled responses."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from srr_guard.reference import ReferenceLLM
from srr_guard.reference.weights import Device
from srr_guard.scorer.bundle import ScorerBundle
from srr_guard.scorer.head import SRRHead
from srr_guard.scorer.inference import judge, list_scores
from srr_guard.training.baselines import baseline_scores
from srr_guard.training.data import LabelledResponse, data_digests, read_rows, sample_rows
from srr_guard.training.features import Examples, FeatureStore, feature_space
from srr_guard.training.metrics import Figure, Metric, probability_figures, ranking_figures


class Reporter(Protocol):
    """Receives the progress of long work."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say that `done` of `total` steps of a stage are done."""
        ...


class Report(BaseModel):
    """Figures by data set, method and metric.

    Attributes:
        sets: Data set -> method -> metric -> figure.
        digests: SHA-256 of the data files, by name.
    """

    model_config = ConfigDict(frozen=True)

    sets: Mapping[str, Mapping[str, Mapping[Metric, Figure]]]
    digests: Mapping[str, str]


def evaluate_bundles(
    names: Sequence[str | os.PathLike[str] | None],
    data: Sequence[str | os.PathLike[str]],
    *,
    reference: str | os.PathLike[str] | None = None,
    per_source: int | None = None,
    seed: int = 0,
    device: Device = "auto",
    progress: Reporter,
) -> Report:
    """Measure bundles, the linear probe inside each, and the baselines.

    Args:
        names: Shipped names, folders or hub ids; None is the default bundle.
        data: Files, folders or `hf:` names of labelled responses.
        reference: The reference LLM that the bundles were trained for.
        per_source: Most rows of each source; None: all.
        seed: Makes lists, samples and bootstrap repeatable.
        device: Where the reference LLM runs.
        progress: Receives the progress.

    Raises:
        BundleNotFoundError: There is no such bundle.
        IncompatibleScorerError: A bundle was trained for another reference LLM.
        DataError: The data cannot be read.
    """
    rows = sample_rows(read_rows(data), per_source=per_source, seed=seed)
    bundles = {b.info.name: b for name in names for b in _with_probe(ScorerBundle.find(name))}
    depths = sorted({k for b in bundles.values() for k in b.info.head.depths})
    llm = ReferenceLLM.load(reference, depth=max(depths), device=device)
    for bundle in bundles.values():
        bundle.check_fits(llm)
    store = FeatureStore(feature_space(llm), depths=depths)
    store.extract(rows, llm, progress=lambda done, total: progress("features", done, total))
    heads = {name: bundle.load_head() for name, bundle in bundles.items()}
    return evaluate(heads, rows, store, digests=data_digests(data), seed=seed)


def _with_probe(bundle: ScorerBundle) -> Iterator[ScorerBundle]:
    yield bundle
    if (bundle.folder / "probe" / "config.json").is_file():
        yield ScorerBundle.find(bundle.folder / "probe")


def evaluate(
    heads: Mapping[str, SRRHead],
    rows: Sequence[LabelledResponse],
    store: FeatureStore,
    *,
    digests: Mapping[str, str],
    seed: int = 0,
) -> Report:
    """Measure heads and baselines on every data set among the rows.

    Rows of one goal form its lists. Where they answer different prompts (attacks), each is
    encoded after its own prompt, and a listwise block sees the mean of the instructions.

    Args:
        heads: Trained heads by the name they are reported under.
        rows: Labelled responses, of one or several sources.
        store: Holds the features of every row.
        digests: SHA-256 of the data files.
        seed: Makes lists and bootstrap repeatable.

    Raises:
        DataError: A row's features are missing.
    """
    sets: dict[str, list[LabelledResponse]] = {}
    for row in rows:
        sets.setdefault(_set_name(row), []).append(row)
    return Report(
        sets={
            name: _evaluate_set(heads, members, store, seed=seed) for name, members in sets.items()
        },
        digests=digests,
    )


def evaluate_examples(head: SRRHead, examples: Examples, *, seed: int = 0) -> dict[Metric, Figure]:
    """All figures of one head on the rows of one set."""
    judged = judge(
        head,
        mean=examples.mean,
        last=examples.last,
        instruction=examples.instruction,
        owner=examples.owner,
    )
    return {
        **ranking_figures(examples.rows, partial(list_scores, head, judged), seed=seed),
        **probability_figures(examples.rows, judged.p_safe, seed=seed),
    }


def _evaluate_set(
    heads: Mapping[str, SRRHead],
    rows: Sequence[LabelledResponse],
    store: FeatureStore,
    *,
    seed: int,
) -> dict[str, dict[Metric, Figure]]:
    methods: dict[str, dict[Metric, Figure]] = {
        name: evaluate_examples(head, store.load(rows, depths=head.config.depths), seed=seed)
        for name, head in heads.items()
    }
    for name, scores in baseline_scores(rows).items():
        methods[name] = ranking_figures(rows, scores, seed=seed)
    return methods


def _set_name(row: LabelledResponse) -> str:
    """The file or source; requests known to be benign or harmful are told apart."""
    name = row.file or row.source
    return name if row.prompt_type is None else f"{name} ({row.prompt_type} prompts)"
