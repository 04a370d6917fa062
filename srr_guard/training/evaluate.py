"""Measure a scorer and its baselines on labelled responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from pydantic import BaseModel, ConfigDict

from srr_guard.scorer.head import SRRHead
from srr_guard.scorer.inference import judge, list_scores
from srr_guard.training.baselines import baseline_scores
from srr_guard.training.data import LabelledResponse
from srr_guard.training.features import Examples, FeatureStore
from srr_guard.training.metrics import Figure, Metric, probability_figures, ranking_figures


class Report(BaseModel):
    """Figures by data set, method and metric.

    Attributes:
        sets: Data set -> method -> metric -> figure.
        digests: SHA-256 of the data files, by name.
    """

    model_config = ConfigDict(frozen=True)

    sets: Mapping[str, Mapping[str, Mapping[Metric, Figure]]]
    digests: Mapping[str, str]


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
