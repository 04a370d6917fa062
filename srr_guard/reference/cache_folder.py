"""Where converted weights and features are kept, and what happens where nothing can be written."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from platformdirs import user_cache_path

from srr_guard.errors import ConfigurationError

CACHE_VARIABLE = "SRR_GUARD_CACHE"

_log = logging.getLogger("srr_guard")


def cache_dir() -> Path:
    """Folder for converted weights and features: `$SRR_GUARD_CACHE` or the user's cache.

    If it cannot be written, a temporary folder of this process takes its place, and one
    warning says so.

    Raises:
        ConfigurationError: No temporary folder can be written either.
    """
    wanted = _wanted()
    return wanted if _is_writable(wanted) else _temporary(wanted)


def cached(*parts: str) -> Path:
    """Path of something in the cache: where it is, or else where it can be written.

    A cache that was filled earlier is of use without write access too, as in an image with a
    read-only file system.
    """
    found = _wanted().joinpath(*parts)
    try:
        exists = found.exists()
    except OSError:
        exists = False
    return found if exists else cache_dir().joinpath(*parts)


def _wanted() -> Path:
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else user_cache_path("srr_guard")


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


@cache
def _temporary(instead_of: Path) -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix="srr_guard-"))
    except OSError as error:
        raise ConfigurationError(
            f"neither the cache folder {str(instead_of)!r} nor a temporary folder can be written: "
            f"set {CACHE_VARIABLE} to a folder that can"
        ) from error
    atexit.register(_remove, folder, os.getpid())
    _log.warning(
        "the cache folder %r cannot be written: a temporary folder is used, and converted weights "
        "are lost when this process ends; set %s to a folder that can be written",
        str(instead_of),
        CACHE_VARIABLE,
    )
    return folder


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not a forked child
        shutil.rmtree(folder, ignore_errors=True)
