"""Opens data sets on the Hugging Face hub, and says why one cannot be had."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, Literal

from srr_guard.errors import DataError, MissingExtraError
from srr_guard.training.data.recipes import RecipeSource
from srr_guard.training.data.records import Record

LoadDataset = Callable[..., Iterable[Record]]
"""A function with the signature of `datasets.load_dataset`."""

RevisionOf = Callable[[str, str | None], str | None]
"""From a hub id and a revision to the commit it names; None if that cannot be known."""

_BUFFER = 10_000
"""Records in the shuffle buffer of a stream."""

_SEED = 0

Reason = Literal["network", "gated", "missing", "other"]


class HubDataError(DataError):
    """A data set on the hub cannot be had.

    Attributes:
        reason: Why: no network, terms to accept, no such set, or something else.
    """

    def __init__(self, message: str, *, reason: Reason) -> None:
        self.reason = reason
        super().__init__(message)


def datasets_loader(purpose: str) -> LoadDataset:
    """`datasets.load_dataset`.

    Raises:
        MissingExtraError: The package is not installed.
    """
    try:
        loader: LoadDataset = import_module("datasets").load_dataset
    except ImportError as error:
        raise MissingExtraError(package="datasets", extra="datasets", purpose=purpose) from error
    return loader


def hub_commit(path: str, revision: str | None) -> str | None:
    """Ask the hub for the commit of a data set; the revision as given where it is not asked."""
    hub = import_module("huggingface_hub")
    if hub.constants.HF_HUB_OFFLINE:
        return revision
    commit: str | None = hub.HfApi().dataset_info(path, revision=revision, timeout=30).sha
    return commit


class HubReader:
    """Reads the records of sources.

    Args:
        load: Loads a data set.
        revision_of: Resolves revisions.
    """

    def __init__(self, load: LoadDataset, revision_of: RevisionOf) -> None:
        self._load = load
        self._revision_of = revision_of

    def open(self, source: RecipeSource) -> tuple[str | None, Iterator[Record]]:
        """The commit of a source, and its records in random order.

        Raises:
            HubDataError: It cannot be had; iterating raises the same.
        """
        try:
            commit = self._revision_of(source.path, source.revision)
            records: Any = self._load(source.path, **_arguments(source, commit))
            if hasattr(records, "shuffle"):
                buffer = {"buffer_size": _BUFFER} if source.stream else {}
                records = records.shuffle(seed=_SEED, **buffer)
            iterator = iter(records)
        except Exception as error:
            raise _explained(error, source) from error
        return commit, _guarded(iterator, source)


def _guarded(records: Iterator[Record], source: RecipeSource) -> Iterator[Record]:
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except Exception as error:
            raise _explained(error, source) from error
        yield record


def _arguments(source: RecipeSource, commit: str | None) -> dict[str, Any]:
    wanted = {
        "name": source.config,
        "split": source.split,
        "data_dir": source.data_dir,
        "data_files": list(source.data_files) or None,
        "revision": commit or source.revision,
        "streaming": source.stream or None,
        **source.options,
    }
    return {key: value for key, value in wanted.items() if value is not None}


def _explained(error: Exception, source: RecipeSource) -> HubDataError:
    reason = _reason(error)
    said = " ".join(str(error).split())[:300]
    match reason:
        case "network":
            text = f"the hub cannot be reached ({type(error).__name__}: {said})"
        case "gated":
            text = (
                f"{source.path} is gated: accept the terms at {source.url}, then run "
                "`hf auth login`"
            )
        case "missing":
            text = f"{source.path} is not on the hub, or needs a login ({said}): see {source.url}"
        case _:
            text = f"{source.where} could not be read ({type(error).__name__}: {said})"
    return HubDataError(text, reason=reason)


def _reason(error: BaseException) -> Reason:
    """Why loading failed, by the types of the error and its causes."""
    chain = list(_chain(error))
    kinds: tuple[tuple[Reason, tuple[type[BaseException], ...]], ...] = (
        ("gated", _types("huggingface_hub.errors", "GatedRepoError")),
        (
            "missing",
            (
                *_types("huggingface_hub.errors", "RepositoryNotFoundError"),
                *_types("huggingface_hub.errors", "RevisionNotFoundError"),
                *_types("datasets.exceptions", "DatasetNotFoundError"),
            ),
        ),
        (
            "network",
            (
                ConnectionError,
                TimeoutError,
                *_types("httpx", "TransportError"),
                *_types("httpx2", "TransportError"),
                *_types("requests.exceptions", "ConnectionError", "Timeout"),
            ),
        ),
    )
    for reason, types in kinds:
        if any(isinstance(one, types) for one in chain):
            return reason
    return "other"


def _types(module: str, *names: str) -> tuple[type[BaseException], ...]:
    """Error types of a library; none if it was not imported, as it then raised nothing."""
    loaded = sys.modules.get(module)
    found = (getattr(loaded, name, None) for name in names)
    return tuple(t for t in found if isinstance(t, type) and issubclass(t, BaseException))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
