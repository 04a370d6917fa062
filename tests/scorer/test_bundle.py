from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from srr_guard.errors import BundleNotFoundError, CorruptBundleError, IncompatibleScorerError
from srr_guard.reference import ReferenceLLM
from srr_guard.scorer import ScorerBundle


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
        "README.md",
    }


def test_a_bundle_fits_the_model_it_was_trained_for(
    bundle: ScorerBundle, tiny_llm: ReferenceLLM
) -> None:
    bundle.check_fits(tiny_llm)


@pytest.mark.parametrize(
    "change",
    [{"reference_digest": "f" * 64}, {"template_digest": "f" * 16}],
)
def test_a_bundle_for_another_model_names_both(
    bundle: ScorerBundle, tiny_llm: ReferenceLLM, change: dict[str, str]
) -> None:
    other = ScorerBundle(
        folder=bundle.folder,
        info=bundle.info.model_copy(update={**change, "reference": "the-other-model"}),
    )
    with pytest.raises(IncompatibleScorerError) as raised:
        other.check_fits(tiny_llm)
    assert "the-other-model" in str(raised.value)
    assert tiny_llm.name in str(raised.value)
    assert "ffff" in str(raised.value)


def test_a_model_cut_too_early_does_not_fit(bundle: ScorerBundle, tiny_folder: Path) -> None:
    with pytest.raises(IncompatibleScorerError, match="1 blocks"):
        bundle.check_fits(ReferenceLLM.load(tiny_folder, depth=1))


def test_missing_bundles_name_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="shipped"):
        ScorerBundle.find("no-such-bundle", local_files_only=True)
    with pytest.raises(BundleNotFoundError, match=r"config\.json"):
        ScorerBundle.find(tmp_path)


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


def test_weights_of_another_design_are_refused(bundle: ScorerBundle) -> None:
    config = bundle.folder / "config.json"
    record = json.loads(config.read_text())
    record["head"]["depths"] = [1]
    config.write_text(json.dumps(record))
    with pytest.raises(CorruptBundleError):
        ScorerBundle.find(bundle.folder).load_head()
