"""The n-gram baseline: a text classifier that sees the words of an answer and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import Any, Self

import torch
from torch import Tensor

from srr_guard.characters import plain_characters
from srr_guard.errors import DataError, MissingExtraError
from srr_guard.training.data import LabelledResponse

NGRAMS = "n-grams"
"""Name of the baseline in every table."""

_WORDS = {"analyzer": "word", "ngram_range": (1, 2), "max_features": 100_000}
_CHARACTERS = {"analyzer": "char_wb", "ngram_range": (2, 4), "max_features": 100_000}
_COMMON = {"min_df": 2, "sublinear_tf": True}


class NGramClassifier:
    """Logistic regression on word and character n-grams of the answer alone.

    Words alone and in pairs, and two to four characters, weighted by tf-idf; both labels count
    the same. It never sees the request, so what it gets right can be read off the wording.
    Equal rows give equal figures.

    Example:
        >>> rows = [
        ...     LabelledResponse(prompt="q", response=text, label=label)
        ...     for text, label in [("zap them hard", "unsafe"), ("water the basil", "safe")] * 2
        ... ]
        >>> low, high = NGramClassifier.fit(rows).p_safe(["zap them", "water it"]).tolist()
        >>> low < 0.5 < high
        True
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    @classmethod
    def fit(
        cls, rows: Sequence[LabelledResponse], *, source_weights: Mapping[str, float] | None = None
    ) -> Self:
        """Fit the classifier.

        Args:
            rows: Labelled responses; those whose label only ranks them are left out.
            source_weights: Weight of each source; 1 where it is not named.

        Raises:
            DataError: The rows do not have both labels.
            MissingExtraError: scikit-learn is not installed.
        """
        model = _model()
        sources = source_weights or {}
        rows = [row for row in rows if row.absolute and sources.get(row.source, 1.0) > 0]
        counts = Counter(row.safe for row in rows)
        if len(counts) < 2:
            raise DataError(
                f"the n-gram baseline needs safe and unsafe answers, and got {counts[True]} safe "
                f"and {counts[False]} unsafe ones: give more rows (those whose goal or prompt is "
                "measured do not count)"
            )
        model.fit(
            [row.response for row in rows],
            [row.safe for row in rows],
            logisticregression__sample_weight=_balanced(rows, sources),
        )
        return cls(model)

    def p_safe(self, texts: Sequence[str]) -> Tensor:
        """(n,) probability that each answer is safe."""
        if not texts:
            return torch.empty(0)
        return torch.tensor(self._model.predict_proba(list(texts))[:, 1], dtype=torch.float32)


def unseen(
    rows: Sequence[LabelledResponse], measured: Collection[LabelledResponse]
) -> list[LabelledResponse]:
    """The rows whose goal and prompt are not among those that are measured."""
    goals = {row.goal_id for row in measured}
    prompts = {row.prompt for row in measured}
    return [row for row in rows if row.goal_id not in goals and row.prompt not in prompts]


def _balanced(rows: Sequence[LabelledResponse], source_weights: Mapping[str, float]) -> list[float]:
    """Weights of the rows, by source, with the same sum for both labels."""
    weights = [source_weights.get(row.source, 1.0) for row in rows]
    sums = {
        label: sum(w for w, r in zip(weights, rows, strict=True) if r.safe is label)
        for label in (True, False)
    }
    half = len(rows) / 2
    return [w * half / sums[r.safe] for w, r in zip(weights, rows, strict=True)]


def _model() -> Any:
    try:
        text = import_module("sklearn.feature_extraction.text")
        linear = import_module("sklearn.linear_model")
        pipeline = import_module("sklearn.pipeline")
    except ImportError as error:
        raise MissingExtraError(
            package="scikit-learn", extra="evaluation", purpose="the n-gram baseline"
        ) from error
    vectorizers = [
        text.TfidfVectorizer(**_COMMON, **kind, preprocessor=_plain)
        for kind in (_WORDS, _CHARACTERS)
    ]
    return pipeline.make_pipeline(
        pipeline.make_union(*vectorizers),
        linear.LogisticRegression(C=10.0, max_iter=1000),
    )


def _plain(text: str) -> str:
    """Lower case, without disguised characters, as scorers read it."""
    return plain_characters(text).lower()
