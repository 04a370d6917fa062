"""The cache falls back to a temporary folder where it cannot be written, and says so once."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from srr_guard.errors import ConfigurationError
from srr_guard.reference import cache_folder
from srr_guard.reference.cache_folder import CACHE_VARIABLE, cache_dir, cached


@pytest.fixture
def unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder below a file: not even root can make it."""
    (tmp_path / "file").write_text("")
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    return tmp_path / "file" / "srr_guard"


def test_the_variable_comes_before_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    assert cache_dir() == tmp_path / "user" / "srr_guard"
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "chosen"))
    assert cache_dir() == tmp_path / "chosen"


def test_a_cache_that_cannot_be_written_is_replaced_and_warned_of_once(unwritable, caplog):
    with caplog.at_level(logging.WARNING, "srr_guard"):
        folder = cache_dir()
        assert cached("digests", "x.json") == folder / "digests" / "x.json"
    assert os.access(folder, os.W_OK)
    (record,) = caplog.records
    assert str(unwritable) in record.getMessage()
    assert CACHE_VARIABLE in record.getMessage()


def test_a_chosen_cache_that_cannot_be_written_is_replaced_too(unwritable, monkeypatch, caplog):
    monkeypatch.setenv(CACHE_VARIABLE, str(unwritable))
    assert cache_dir() != unwritable
    assert str(unwritable) in caplog.text


def test_what_a_read_only_cache_holds_is_used(tmp_path, monkeypatch, caplog):
    (tmp_path / "digests").mkdir()
    (tmp_path / "digests" / "known.json").write_text("{}")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(cache_folder, "_is_writable", lambda folder: False)
    assert cached("digests", "known.json") == tmp_path / "digests" / "known.json"
    assert not caplog.records
    assert cached("digests", "other.json").parents[1] != tmp_path


def test_nowhere_to_write_is_a_clear_error(unwritable, monkeypatch):
    def mkdtemp(**kwargs: object) -> str:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setenv(CACHE_VARIABLE, str(unwritable / "other"))
    monkeypatch.setattr(cache_folder.tempfile, "mkdtemp", mkdtemp)
    with pytest.raises(ConfigurationError, match=CACHE_VARIABLE):
        cache_dir()


def test_the_temporary_folder_goes_with_its_process_not_with_a_fork(unwritable):
    script = (
        "import os, sys\n"
        "from srr_guard.reference.cache_folder import cache_dir\n"
        "folder = cache_dir()\n"
        "if os.fork() == 0:\n"
        "    sys.exit()\n"
        "os.wait()\n"
        "print(folder.is_dir(), folder)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    existed, folder = done.stdout.split()
    assert existed == "True"
    assert not Path(folder).exists()
    assert "cannot be written" in done.stderr
