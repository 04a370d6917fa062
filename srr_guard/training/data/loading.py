"""Loads a recipe: each source by itself, softly, with fallbacks and a cache."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from srr_guard.errors import ConfigurationError, DataError
from srr_guard.protocols import ProgressCallback
from srr_guard.training.data.hub import (
    HubDataError,
    HubReader,
    LoadDataset,
    RevisionOf,
    datasets_loader,
    hub_commit,
)
from srr_guard.training.data.lengths import with_lengths_of
from srr_guard.training.data.public_recipes import find_recipe
from srr_guard.training.data.reading import CONTRAST, data_digests, read_rows
from srr_guard.training.data.recipe_cache import SourceRows, recall, store
from srr_guard.training.data.recipes import Recipe, RecipeSource, Terms
from srr_guard.training.data.rows import LabelledResponse
from srr_guard.training.data.taking import Taking
from srr_guard.training.progress import silent

NEEDED_KINDS = ("benign-help", "over-refusal", "refusal", "compliance")
"""Kinds that the default preset learns from."""

_EVERY = 500
"""Records between two reports of progress."""

_log = logging.getLogger("srr_guard")


@dataclass(frozen=True, kw_only=True)
class LoadedSource:
    """One source of a recipe, after loading.

    Attributes:
        source: Its definition.
        state: `loaded` from the hub, `cached` by an earlier run, `failed`, or `left out` because
            its licence was not accepted.
        taken: Its rows; None if there are none.
        note: Why it failed or was left out, or which source it stands in for.

    Example:
        >>> from srr_guard.training.data.public_recipes import POLYGUARD
        >>> LoadedSource(source=POLYGUARD, state="failed", note="no such set").rows
        ()
    """

    source: RecipeSource
    state: Literal["loaded", "cached", "failed", "left out"]
    taken: SourceRows | None = None
    note: str = ""

    @property
    def rows(self) -> Sequence[LabelledResponse]:
        """Its rows."""
        return self.taken.rows if self.taken else ()


@dataclass(frozen=True, kw_only=True)
class LoadedRecipe:
    """All rows of a recipe, and what became of each source.

    Attributes:
        name: Name of the recipe.
        sources: Its sources, fallbacks last.
        contrast: Rows of the project's contrast set.
        notes: What else there is to say.

    Example:
        >>> LoadedRecipe(name="public", sources=()).rows
        []
    """

    name: str
    sources: tuple[LoadedSource, ...]
    contrast: tuple[LabelledResponse, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> list[LabelledResponse]:
        """All rows; answers of sources that follow lengths are cut."""
        harmful = [row for one in self.sources for row in one.rows if row.harmful]
        found = list(self.contrast)
        for one in self.sources:
            follows = one.source.follow_lengths
            found += with_lengths_of(one.rows, harmful) if follows else one.rows
        return found

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each source that has one other than 1."""
        sources = (loaded.source for loaded in self.sources if loaded.rows)
        return {source.name: source.weight for source in sources if source.weight != 1.0}

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 of the rows of each source, by name and commit."""
        found = data_digests(CONTRAST) if self.contrast else {}
        for loaded in self.sources:
            if loaded.taken:
                commit = f"@{loaded.taken.revision}" if loaded.taken.revision else ""
                name = f"{loaded.source.name}: hf:{loaded.source.where}{commit}"
                found[name] = loaded.taken.digest
        return found

    @property
    def warnings(self) -> list[str]:
        """What failed or was left out, and what to do."""
        missing = [s for s in self.sources if s.state in ("failed", "left out")]
        return [*(f"{s.source.name}: {s.note}" for s in missing), *self.notes]

    def require_kinds(self, rows: Iterable[LabelledResponse]) -> None:
        """Check that the default preset can learn from these rows.

        The contrast set has all kinds but is no training set by itself: it does not count.

        Raises:
            DataError: A kind is missing; the text says which sources failed.
        """
        own = {row.source for row in self.contrast}
        kinds = {row.kind for row in rows if row.source not in own}
        if missing := [kind for kind in NEEDED_KINDS if kind not in kinds]:
            raise DataError(
                f"the recipe {self.name!r} has no rows of the kind {', '.join(missing)}, which "
                f"the default preset needs. {_told(self.warnings)}"
            )


def load_recipe(
    name: str,
    *,
    accept_licences: Collection[str] = (),
    resume: bool = True,
    progress: ProgressCallback = silent,
    load_dataset: LoadDataset | None = None,
    revision_of: RevisionOf | None = None,
) -> LoadedRecipe:
    """Load the data sets of a recipe; a set that cannot be had is left out with a warning.

    Rows are cached source by source: a run that was interrupted goes on where it stopped.

    Args:
        name: `public`, `extended` or `public-test`.
        accept_licences: `nc` for non-commercial use, `unknown` for sets without a licence.
        resume: Use rows that earlier runs cached; False: load all of them anew.
        progress: Receives the progress, by source.
        load_dataset: Loads one data set; None: `datasets.load_dataset`.
        revision_of: Finds the commit to read; None: asks the hub, or nobody if `load_dataset`
            is given.

    Raises:
        ConfigurationError: There is no such recipe, or its licences are not accepted.
        DataError: The hub cannot be reached, or no source could be loaded.
        MissingExtraError: The package `datasets` is not installed.

    Example:
        ```python
        from srr_guard.training import train
        from srr_guard.training.data.loading import load_recipe

        recipe = load_recipe("public")
        train((), "my-scorer", recipe=recipe, reference="Qwen/Qwen3-0.6B")
        ```
    """
    recipe = find_recipe(name)
    _check_terms(recipe, accept_licences)
    if load_dataset is None:
        revision_of = revision_of or hub_commit
    run = _Run(
        recipe,
        accepted={"open", *accept_licences},
        resume=resume,
        progress=progress,
        load_dataset=load_dataset,
        revision_of=revision_of or (lambda _path, revision: revision),
    )
    return run.load()


def _check_terms(recipe: Recipe, accepted: Collection[str]) -> None:
    if isinstance(accepted, str) or not set(accepted) <= set(get_args(Terms)):
        raise ConfigurationError(f"accept_licences={accepted!r}: give 'nc', 'unknown' or both")
    for terms in recipe.terms:
        if terms not in accepted:
            names = [source.name for source in recipe.sources if source.terms == terms]
            raise ConfigurationError(
                f"the recipe {recipe.name!r} holds data for non-commercial use only "
                f"({', '.join(names)}), and so does a scorer trained on it: add "
                f"`--accept-licence {terms}` if that is your use, or take the recipe 'public'"
            )


class _Run:
    """One load of a recipe."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        accepted: Collection[str],
        resume: bool,
        progress: ProgressCallback,
        load_dataset: LoadDataset | None,
        revision_of: RevisionOf,
    ) -> None:
        self._recipe = recipe
        self._accepted = accepted
        self._resume = resume
        self._progress = progress
        self._load_dataset = load_dataset
        self._revision_of = revision_of
        self._done: dict[str, LoadedSource] = {}

    def load(self) -> LoadedRecipe:
        recipe = self._recipe
        self._load_all(recipe.sources)
        for source in recipe.sources:
            self._replace(source)
        sources = tuple(self._done.values())
        contrast, notes = _contrast() if recipe.contrast else ((), ())
        loaded = LoadedRecipe(name=recipe.name, sources=sources, contrast=contrast, notes=notes)
        for warning in loaded.warnings:
            _log.warning("recipe %s: %s", recipe.name, warning)
        if not any(one.rows for one in sources):
            raise DataError(
                f"no source of the recipe {recipe.name!r} could be loaded. {_told(loaded.warnings)}"
            )
        return loaded

    def _replace(self, source: RecipeSource) -> None:
        """Load the first of a failed source's fallbacks that can be had."""
        queue = deque(source.fallback) if self._done[source.name].state == "failed" else deque()
        while queue:
            other = self._recipe.fallbacks[queue.popleft()]
            if other.name not in self._done:
                self._load_all([other], note=f"in place of {source.name}")
            if self._done[other.name].rows:
                return
            queue += other.fallback

    def _load_all(self, sources: Sequence[RecipeSource], *, note: str = "") -> None:
        """Load sources; those of one data set in one pass."""
        passes: dict[tuple[object, ...], list[RecipeSource]] = {}
        for source in sources:
            self._done[source.name] = LoadedSource(source=source, state="failed")  # in this order
            if source.terms not in self._accepted:
                self._left_out(source)
            elif self._resume and (found := recall(source)) is not None:
                self._finish(source, "cached", found, note)
            else:
                passes.setdefault(source.stream_key, []).append(source)
        for members in passes.values():
            try:
                self._read([Taking(source) for source in members], note)
            except DataError as error:
                if isinstance(error, HubDataError) and error.reason == "network":
                    raise self._no_network(error) from error
                for source in members:
                    if not self._done[source.name].rows:
                        self._failed(source, str(error))

    def _read(self, takings: Sequence[Taking], note: str) -> None:
        first = takings[0].source
        reader = HubReader(self._loader(), self._revision_of)
        commit, records = reader.open(first)
        for number, record in enumerate(records):
            if number == 0:
                for taking in takings:
                    taking.check_columns(record)
            hungry = [taking for taking in takings if not taking.full]
            if not hungry:
                break
            for taking in hungry:
                taking.offer(record)
            if number % _EVERY == 0:
                self._report(takings)
        for taking in takings:
            try:
                taking.finish()
            except DataError as error:
                self._failed(taking.source, str(error))
                continue
            found = SourceRows(taking.rows, commit, taking.records, taking.dropped)
            store(taking.source, found)
            self._finish(taking.source, "loaded", found, note)

    def _loader(self) -> LoadDataset:
        if self._load_dataset is None:
            self._load_dataset = datasets_loader(f"the recipe {self._recipe.name!r}")
        return self._load_dataset

    def _report(self, takings: Sequence[Taking]) -> None:
        for taking in takings:
            most = taking.source.limit or len(taking.rows)
            self._progress(f"load {taking.source.name}", len(taking.rows), most)

    def _finish(
        self, source: RecipeSource, state: Literal["loaded", "cached"], found: SourceRows, note: str
    ) -> None:
        self._done[source.name] = LoadedSource(source=source, state=state, taken=found, note=note)
        self._progress(f"load {source.name}", len(found.rows), len(found.rows))

    def _failed(self, source: RecipeSource, note: str) -> None:
        self._done[source.name] = LoadedSource(source=source, state="failed", note=note)

    def _left_out(self, source: RecipeSource) -> None:
        note = f"its licence is {source.licence}: add `--accept-licence {source.terms}` to take it"
        self._done[source.name] = LoadedSource(source=source, state="left out", note=note)

    def _no_network(self, error: HubDataError) -> DataError:
        ready = sum(1 for one in self._done.values() if one.rows)
        return DataError(
            f"the recipe {self._recipe.name!r} could not be loaded: {error}. Check the network and "
            f"run the same command again: {ready} of {len(self._recipe.sources)} sources are in "
            "the cache and are not loaded again"
        )


def _contrast() -> tuple[tuple[LabelledResponse, ...], tuple[str, ...]]:
    try:
        return tuple(read_rows(CONTRAST)), ()
    except DataError as error:
        return (), (f"contrast: {error}",)


def _told(warnings: Sequence[str]) -> str:
    return "What went wrong: " + "; ".join(warnings) if warnings else "All sources were loaded."
