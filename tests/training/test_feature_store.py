from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rows import labelled

from srr_guard.errors import DataError
from srr_guard.reference import ReferenceLLM
from srr_guard.training.data import LabelledResponse
from srr_guard.training.feature_store import FeatureStore, feature_space

ROWS = [LabelledResponse(**row) for row in labelled(6)]


def test_features_come_back_in_order_and_equal(tiny_llm: ReferenceLLM, tmp_path: Path) -> None:
    store = FeatureStore(feature_space(tiny_llm), depths=(1, 3), folder=tmp_path)
    store.extract(ROWS, tiny_llm)
    backwards = ROWS[::-1]
    examples = FeatureStore(store.space, depths=(1, 3), folder=tmp_path).load(backwards)
    assert len(examples) == len(ROWS)
    for i in (0, 7, 20):
        row = backwards[i]
        alone = tiny_llm.encode(row.conversation, [row.response], depths=(1, 3))
        w = examples.first[i]
        near = {"atol": 1e-5, "rtol": 1e-5}
        torch.testing.assert_close(examples.windows["mean"][w], alone.mean[0], **near)
        torch.testing.assert_close(examples.windows["last"][w], alone.last[0], **near)
        torch.testing.assert_close(examples.prompt["instruction"][i], alone.instruction, **near)
        torch.testing.assert_close(examples.prompt["request"][i], alone.request, **near)


def test_an_interrupted_extraction_is_resumed(
    tiny_llm: ReferenceLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srr_guard.training.feature_store._SHARD_ROWS", 4)
    store = FeatureStore(feature_space(tiny_llm), depths=(2,), folder=tmp_path)

    def stop_half_way(_stage: str, done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.extract(ROWS, tiny_llm, progress=stop_half_way)
    resumed = FeatureStore(store.space, depths=(2,), folder=tmp_path)
    left = len(resumed.missing(ROWS))
    assert 0 < left < len(ROWS) * 0.6
    seen: list[int] = []
    resumed.extract(ROWS, tiny_llm, progress=lambda _stage, _done, total: seen.append(total))
    assert set(seen) == {left}
    assert resumed.missing(ROWS) == []


def test_more_depths_serve_fewer(tiny_llm: ReferenceLLM, tmp_path: Path) -> None:
    space = feature_space(tiny_llm)
    many = FeatureStore(space, depths=(1, 2, 4), folder=tmp_path)
    many.extract(ROWS, tiny_llm)
    fewer = FeatureStore(space, depths=(2, 4), folder=tmp_path)
    assert fewer.missing(ROWS) == []
    torch.testing.assert_close(
        fewer.load(ROWS).windows["mean"], many.load(ROWS).windows["mean"][:, 1:]
    )
    torch.testing.assert_close(
        many.load(ROWS, depths=(4,)).windows["mean"], many.load(ROWS).windows["mean"][:, 2:]
    )
    assert FeatureStore(space, depths=(3,), folder=tmp_path).missing(ROWS)


def test_precisions_do_not_share_features(
    tiny_llm: ReferenceLLM, tiny_folder: Path, tmp_path: Path
) -> None:
    FeatureStore(feature_space(tiny_llm), depths=(1,), folder=tmp_path).extract(ROWS, tiny_llm)
    coarse = ReferenceLLM.load(tiny_folder, dtype="bfloat16")
    assert (tiny_llm.dtype, coarse.dtype) == ("float32", "bfloat16")
    store = FeatureStore(feature_space(coarse), depths=(1,), folder=tmp_path)
    assert len(store.missing(ROWS)) == len(ROWS)


def test_rows_without_features_are_named(tiny_llm: ReferenceLLM, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="extraction"):
        FeatureStore(feature_space(tiny_llm), depths=(1,), folder=tmp_path).load(ROWS)
