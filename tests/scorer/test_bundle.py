from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_tiny_lm

from srr_guard.errors import (
    BundleNotFoundError,
    ConfigurationError,
    CorruptBundleError,
    IncompatibleScorerError,
)
from srr_guard.reference import ReferenceLLM
from srr_guard.reference.features import FeatureSpec
from srr_guard.scorer import ScorerBundle
from srr_guard.scorer.bundle import DEFAULT_BUNDLE
from srr_guard.scorer.fingerprint import Fingerprint


@pytest.fixture
def bundle(tiny_bundle: ScorerBundle, tmp_path: Path) -> ScorerBundle:
    """A copy that a test may break."""
    shutil.copytree(tiny_bundle.folder, tmp_path / "tiny")
    return ScorerBundle.find(tmp_path / "tiny")


def test_what_is_saved_is_what_is_loaded(bundle: ScorerBundle) -> None:
    again = ScorerBundle.find(bundle.folder)
    assert again.info == bundle.info
    first, second = bundle.load_head().state_dict(), again.load_head().state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert {f.name for f in bundle.folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "fingerprint.safetensors",
        "README.md",
    }


def test_a_bundle_fits_the_model_it_was_trained_for(
    bundle: ScorerBundle, tiny_llm: ReferenceLLM
) -> None:
    bundle.check_fits(tiny_llm)


def with_info(bundle: ScorerBundle, **change: object) -> ScorerBundle:
    return ScorerBundle(folder=bundle.folder, info=bundle.info.model_copy(update=change))


CHANGES = [{"reference_digest": "f" * 64}, {"template_digest": "f" * 16}]


@pytest.mark.parametrize("change", CHANGES)
def test_another_file_of_the_same_model_is_accepted(
    bundle: ScorerBundle, tiny_llm: ReferenceLLM, change: dict[str, str]
) -> None:
    with_info(bundle, **change).check_fits(tiny_llm)


@pytest.mark.parametrize("change", CHANGES)
def test_bundles_without_a_fingerprint_are_strict(
    bundle: ScorerBundle, tiny_llm: ReferenceLLM, change: dict[str, str]
) -> None:
    old = with_info(bundle, **change, format=2, reference="the-other-model")
    with pytest.raises(IncompatibleScorerError, match="the-other-model") as raised:
        old.check_fits(tiny_llm)
    assert tiny_llm.name in str(raised.value)
    assert "ffff" in str(raised.value)
    with_info(bundle, format=2).check_fits(tiny_llm)


def test_another_model_is_refused_with_the_difference(bundle: ScorerBundle, tmp_path: Path) -> None:
    other = ReferenceLLM.load(save_tiny_lm(tmp_path / "other", layers=4, seed=1))
    with pytest.raises(IncompatibleScorerError, match=r"differ by \d+\.\d\d.*srr-guard train"):
        bundle.check_fits(other)
    wider = ReferenceLLM.load(save_tiny_lm(tmp_path / "wider", layers=4, hidden=64))
    with pytest.raises(IncompatibleScorerError, match="width 64"):
        bundle.check_fits(wider)


def test_the_verdict_is_kept_by_digest(
    bundle: ScorerBundle, tiny_llm: ReferenceLLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SRR_GUARD_CACHE", str(tmp_path / "cache"))
    strange = with_info(bundle, reference_digest="f" * 64)
    made = []
    real = Fingerprint.of.__func__
    monkeypatch.setattr(
        Fingerprint, "of", classmethod(lambda cls, *args: made.append(1) or real(cls, *args))
    )
    strange.check_fits(tiny_llm)
    strange.check_fits(tiny_llm)
    assert len(made) == 1


def test_a_cache_that_cannot_be_written_does_no_harm(
    bundle: ScorerBundle, tiny_llm: ReferenceLLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("srr_guard.scorer.bundle.cached", lambda *parts: tmp_path / "file" / "x")
    with_info(bundle, reference_digest="f" * 64).check_fits(tiny_llm)


def spoil(states: dict[str, torch.Tensor], name: str) -> None:
    match name:
        case "nan":
            states["mean"][0, 0, 0] = float("nan")
        case "missing":
            del states["request"]
        case "more":
            states["other"] = torch.zeros(1)


@pytest.mark.parametrize("name", ["nan", "missing", "more", "empty", "cut"])
def test_fingerprints_that_cannot_be_used(
    bundle: ScorerBundle, tiny_llm: ReferenceLLM, name: str
) -> None:
    file = bundle.folder / "fingerprint.safetensors"
    if name == "empty":
        file.write_bytes(b"")
    elif name == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    else:
        states = load_file(file)
        spoil(states, name)
        save_file(states, file)
    with pytest.raises(CorruptBundleError, match="fingerprint"):
        with_info(bundle, reference_digest="f" * 64).check_fits(tiny_llm)
    bundle.check_fits(tiny_llm)  # the very model needs none


def test_a_fingerprint_of_another_shape_is_far_away(tiny_llm: ReferenceLLM) -> None:
    ours = Fingerprint.of(tiny_llm, FeatureSpec((1, 2)))
    assert ours.distance(ours) == 0.0
    assert ours.distance(Fingerprint.of(tiny_llm, FeatureSpec((1,)))) == float("inf")
    broken = Fingerprint({k: t * float("nan") for k, t in ours.states.items()})
    assert ours.distance(broken) == float("inf")


def test_copies(bundle: ScorerBundle, tmp_path: Path) -> None:
    copied = bundle.copy_to(tmp_path / "copy")
    assert copied.info == bundle.info
    assert bundle.copy_to(tmp_path / "copy").info == bundle.info  # once more over itself
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(ConfigurationError, match=r"thesis\.tex"):
        bundle.copy_to(tmp_path / "full")


def test_a_model_cut_too_early_does_not_fit(bundle: ScorerBundle, tiny_folder: Path) -> None:
    with pytest.raises(IncompatibleScorerError, match="1 blocks"):
        bundle.check_fits(ReferenceLLM.load(tiny_folder, depth=1))


def test_missing_bundles_name_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="shipped"):
        ScorerBundle.find("no-such-bundle", local_files_only=True)
    with pytest.raises(BundleNotFoundError, match=r"config\.json"):
        ScorerBundle.find(tmp_path)


def test_a_folder_with_a_shipped_name_is_told_from_it(
    bundle: ScorerBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle.folder.rename(tmp_path / DEFAULT_BUNDLE)
    monkeypatch.chdir(tmp_path)
    assert ScorerBundle.find(f"./{DEFAULT_BUNDLE}").info.name == bundle.info.name
    assert ScorerBundle.find(Path(DEFAULT_BUNDLE)).info.name == bundle.info.name
    assert ScorerBundle.find(tmp_path / DEFAULT_BUNDLE).info.name == bundle.info.name
    assert not caplog.records
    assert ScorerBundle.find(DEFAULT_BUNDLE).info.name == DEFAULT_BUNDLE
    assert "./smollm2-135m" in caplog.text
    (tmp_path / DEFAULT_BUNDLE).rename(tmp_path / "elsewhere")
    assert ScorerBundle.find(Path(DEFAULT_BUNDLE)).info.name == DEFAULT_BUNDLE


def test_corrupt_descriptions_are_refused(bundle: ScorerBundle) -> None:
    config = bundle.folder / "config.json"
    sound = json.loads(config.read_text())
    for broken in ("{", json.dumps({**sound, "window": 0}), json.dumps([1]), "null"):
        config.write_text(broken)
        with pytest.raises(CorruptBundleError):
            ScorerBundle.find(bundle.folder)
    config.write_text(json.dumps({**sound, "format": 99}))
    with pytest.raises(CorruptBundleError, match="99"):
        ScorerBundle.find(bundle.folder)


def test_corrupt_weights_are_refused(bundle: ScorerBundle) -> None:
    weights = bundle.folder / "model.safetensors"
    whole = weights.read_bytes()
    for broken in (b"", whole[:100], whole[:-8], b"\x80\x04pickle"):
        weights.write_bytes(broken)
        with pytest.raises(CorruptBundleError, match="cannot be loaded"):
            ScorerBundle.find(bundle.folder).load_head()


def test_a_bundle_of_an_older_format_has_no_compliance(bundle: ScorerBundle) -> None:
    weights = bundle.folder / "model.safetensors"
    tensors = load_file(weights)
    del tensors["compliance"]
    save_file(tensors, weights)
    with pytest.raises(CorruptBundleError, match="compliance"):
        bundle.load_head()
    config = bundle.folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"format": 4}))
    assert ScorerBundle.find(bundle.folder).load_head().compliance == 0


def test_weights_of_another_design_are_refused(bundle: ScorerBundle) -> None:
    config = bundle.folder / "config.json"
    record = json.loads(config.read_text())
    record["head"]["depths"] = [1]
    config.write_text(json.dumps(record))
    with pytest.raises(CorruptBundleError):
        ScorerBundle.find(bundle.folder).load_head()
