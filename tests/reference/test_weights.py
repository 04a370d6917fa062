"""Files that cannot be unpacked: one clear error, and nothing half-written is left."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from srr_guard.errors import ReferenceLoadError
from srr_guard.reference import ReferenceLLM, weights
from srr_guard.reference.cache_folder import CACHE_VARIABLE
from srr_guard.reference.source import packaged_file, resolve_reference

pytestmark = pytest.mark.local


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def left_over(cache: Path) -> list[str]:
    return [str(path) for path in (cache / "reference").glob("**/*")]


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"GGUF" + b"\xff" * 4000])
def test_files_that_are_no_gguf(tmp_path: Path, cache: Path, content: bytes) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    with pytest.raises(ReferenceLoadError, match=r"broken\.gguf.*fetch it again"):
        ReferenceLLM.load(file)
    assert left_over(cache) == []


@pytest.mark.model
def test_a_file_that_is_cut_off(tmp_path: Path, cache: Path) -> None:
    whole = packaged_file()
    assert whole is not None
    file = tmp_path / "cut.gguf"
    file.write_bytes(whole.read_bytes()[: 20 * 2**20])
    with pytest.raises(ReferenceLoadError, match=r"cut\.gguf.*fetch it again"):
        ReferenceLLM.load(file)
    assert left_over(cache) == []


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        ("tempfile.mkdtemp", r"No space left.*SRR_GUARD_CACHE"),
        ("transformers.AutoTokenizer.from_pretrained", r"No space left.*full disk"),
    ],
    ids=["from the start", "on the way"],
)
def test_a_full_disk(
    fails: str, says: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(fails, no_space)
    with pytest.raises(ReferenceLoadError, match=says):
        weights.model_folder(resolve_reference(tmp_path / "model.gguf"))
    assert left_over(cache) == []


def test_digests_need_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("srr_guard.reference.source.write_atomically", no_space)
    assert len(resolve_reference(tmp_path / "model.gguf").digest()) == 64
