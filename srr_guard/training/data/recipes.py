"""Recipes: public data sets by name, with the share of each, its weight and its licence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from srr_guard.training.data.records import LONGEST, Mapper, Record

Terms = Literal["open", "nc", "unknown"]
"""Use that a licence allows: any, only non-commercial, or not stated."""

TrainingRecipe = Literal["public", "extended"]
TestRecipe = Literal["public-test"]
RecipeName = Literal["public", "extended", "public-test"]

_FORMAT = 1
"""Raised when a mapper changes, so that rows of older versions are not read from the cache."""


@dataclass(frozen=True, kw_only=True)
class RecipeSource:
    """One data set of a recipe.

    Attributes:
        name: Name of the source, for weights, limits and the card.
        path: Hub id.
        map: From a record to rows.
        licence: Its licence, as its card states it.
        limit: Most rows; None: all.
        config: Config on the hub.
        split: Split to read.
        data_dir: Folder inside the repository.
        data_files: Files inside the repository.
        revision: Branch, tag or commit; None: the newest, whose commit is written down.
        options: Further arguments of `load_dataset`.
        stream: Read while downloading, through a shuffle buffer; for large sets.
        part: The part that a record belongs to, such as its language.
        parts: Parts that are wanted; empty: all records.
        cells: Most rows of each kind in each part; other kinds are left out. Empty: any kind.
        majority: The set holds several votes on one answer: the majority decides.
        longest: Most characters of a response; None: all.
        follow_lengths: Cut its answers to the lengths of the recipe's harmful ones, for a set of
            long answers that are all safe; else "long" would be learnt as "safe".
        weight: Weight of its rows in training.
        terms: Use that its licence allows.
        gated: Its terms must be accepted on the hub first.
        fallback: Sources to take in its place, the first that can be loaded.

    Example:
        >>> from srr_guard.training.data.mappings import dolly
        >>> source = RecipeSource(name="dolly", path="a/b", map=dolly, licence="MIT", limit=10)
        >>> source.where
        'a/b:train'
    """

    name: str
    path: str
    map: Mapper
    licence: str
    limit: int | None
    config: str | None = None
    split: str = "train"
    data_dir: str | None = None
    data_files: tuple[str, ...] = ()
    revision: str | None = None
    options: Mapping[str, str | bool] = field(default_factory=dict)
    stream: bool = False
    part: Callable[[Record], str] | None = None
    parts: tuple[str, ...] = ()
    cells: Mapping[str, int] = field(default_factory=dict)
    majority: bool = False
    longest: int | None = LONGEST
    follow_lengths: bool = False
    weight: float = 1.0
    terms: Terms = "open"
    gated: bool = False
    fallback: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Hub id, config or folder, and split."""
        inner = self.config or self.data_dir or ""
        if self.data_files:
            inner = self.data_files[0] if len(self.data_files) == 1 else "..."
        return f"{self.path}{f'/{inner}' if inner else ''}:{self.split}"

    @property
    def url(self) -> str:
        """Its page on the hub."""
        return f"https://huggingface.co/datasets/{self.path}"

    @property
    def stream_key(self) -> tuple[object, ...]:
        """Sources with the same key are read in one pass."""
        options = tuple(sorted(self.options.items()))
        files = (self.config, self.split, self.data_dir, self.data_files)
        return (self.path, *files, self.revision, self.stream, options)

    @property
    def digest(self) -> str:
        """Changes with all that decides which rows are taken."""
        parts = (self.part.__name__ if self.part else None, self.parts, dict(self.cells))
        rest = (self.name, self.licence, self.limit, self.majority, self.longest, self.map.name)
        key = json.dumps([_FORMAT, self.stream_key, parts, rest])
        return hashlib.sha256(key.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Sources that are loaded together.

    Attributes:
        name: Name of the recipe.
        sources: Data sets on the hub.
        fallbacks: Data sets that may take the place of others, by name.
        contrast: Take the project's own set of look-alike requests too.
        terms: What the user must accept.

    Example:
        >>> from srr_guard.training.data.public_recipes import find_recipe
        >>> find_recipe("public").sources[0].path
        'ToxicityPrompts/PolyGuardMix'
    """

    name: RecipeName
    sources: tuple[RecipeSource, ...]
    fallbacks: Mapping[str, RecipeSource] = field(default_factory=dict)
    contrast: bool = False
    terms: tuple[Terms, ...] = ()
