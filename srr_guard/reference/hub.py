"""Fetches files of a repository from the Hugging Face hub or its local cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srr_guard.errors import SRRGuardError
from srr_guard.extras import require_local


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """How a repository is asked for; the names are those of huggingface_hub.

    Attributes:
        revision: Branch, tag or commit.
        token: Access token; None: `HF_TOKEN` or the one that `hf auth login` stored.
        cache_dir: The hub cache; None: the user's.
        local_files_only: Never ask the hub; the same as `HF_HUB_OFFLINE=1`.
    """

    revision: str | None = None
    token: str | None = field(default=None, repr=False)
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False


class HubError(SRRGuardError):
    """A repository cannot be had. Its text ends a sentence that names what was wanted."""


def fetch(
    repo_id: str,
    options: HubOptions,
    *,
    file: str | None = None,
    patterns: Sequence[str] = (),
    is_whole: Callable[[Path], bool] = Path.exists,
) -> Path:
    """A folder with files of a repository, or one file of it; from the cache where it is there.

    Args:
        repo_id: The repository, `owner/name`.
        options: How to ask for it.
        file: The one file that is wanted.
        patterns: Names of the files that are wanted otherwise.
        is_whole: Tells a folder that holds everything from one that lacks a file.

    Raises:
        HubError: It is neither in the cache nor to be had from the hub.
        MissingExtraError: The package `huggingface_hub` is not installed.
    """
    require_local(f"Looking for {repo_id!r} on the hub", "huggingface_hub")
    from huggingface_hub import hf_hub_download, snapshot_download

    def get(*, offline: bool) -> Path:
        common: Any = {
            "revision": options.revision,
            "token": options.token,
            "cache_dir": options.cache_dir,
            "local_files_only": offline,
        }
        if file is not None:
            return Path(hf_hub_download(repo_id, file, **common))
        return Path(snapshot_download(repo_id, allow_patterns=list(patterns), **common))

    def cached() -> Path | None:
        try:
            path = get(offline=True)
        except FileNotFoundError:  # not in the cache
            return None
        return path if is_whole(path) else None

    try:
        found = cached()
        if found is None and not options.local_files_only:
            found = get(offline=False)
    except (OSError, ValueError) as error:
        raise HubError(_reason(error, repo_id, options, file)) from error
    if found is None or not is_whole(found):
        raise HubError(f"{repo_id!r} is not in the hub cache, or not all of it")
    return found


def _reason(error: Exception, repo_id: str, options: HubOptions, file: str | None) -> str:
    from huggingface_hub import errors

    match error:
        case errors.HFValidationError():
            return f"{repo_id!r} is no hub id ({error})"
        case errors.GatedRepoError():
            return (
                f"{repo_id!r} is gated: accept its terms on the hub, then give `token=` or set "
                "HF_TOKEN"
            )
        case errors.RevisionNotFoundError():
            return f"{repo_id!r} has no revision {options.revision!r}"
        case errors.RemoteEntryNotFoundError():
            return f"{repo_id!r} has no file {file!r}"
        case errors.RepositoryNotFoundError():
            return (
                f"the hub has no repository {repo_id!r}, or it is private: check the name, or give "
                "`token=`"
            )
        case errors.HfHubHTTPError():
            return f"the hub did not give {repo_id!r} ({_one_line(error)})"
        case FileNotFoundError() | ConnectionError():
            return f"{repo_id!r} is not in the hub cache, and the hub cannot be reached"
    return f"{repo_id!r} could not be stored ({_one_line(error)})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
