"""Features of labelled responses, extracted once and kept on disk.

A store belongs to one reference LLM, template and window size; its folder is named by their
digest, with one folder inside for each set of depths. Shards are written as extraction goes
on, so an interrupted run is resumed where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from srr_guard.conversation import Conversation
from srr_guard.errors import DataError
from srr_guard.protocols import ProgressCallback
from srr_guard.reference.cache_folder import cache_dir
from srr_guard.reference.features import (
    DEFAULT_OVERLAP,
    DEFAULT_PROMPT_LIMIT,
    DEFAULT_WINDOW,
    FeatureSpec,
)
from srr_guard.training.data import LabelledResponse, by_prompt
from srr_guard.training.progress import silent

if TYPE_CHECKING:
    from torch import Tensor

    from srr_guard.reference import Features, ReferenceLLM
    from srr_guard.scorer.head import SRRHead, States
    from srr_guard.scorer.inference import Judged

_SHARD_ROWS = 1024
_FORMAT = 2
_PROMPT = ("instruction", "request")
_WINDOW = ("mean", "last")
_Item = tuple[str, dict[str, "Tensor"]]


@dataclass(frozen=True)
class FeatureSpace:
    """All that decides what the features of a text at some depth are.

    Attributes:
        reference: Digest of the reference LLM.
        template: Digest of its template.
        dtype: Precision it ran in.
        window: Tokens per window.
        overlap: Tokens shared by neighbouring windows.
        prompt_limit: Most tokens of a prompt.
    """

    reference: str
    template: str
    dtype: str
    window: int
    overlap: int
    prompt_limit: int

    @property
    def digest(self) -> str:
        """Short name of the space."""
        return hashlib.sha256(f"{_FORMAT}:{self!r}".encode()).hexdigest()[:16]


def feature_space(llm: ReferenceLLM) -> FeatureSpace:
    """The space of a reference LLM with the default windows."""
    return FeatureSpace(
        reference=llm.digest,
        template=llm.template_digest,
        dtype=llm.dtype,
        window=DEFAULT_WINDOW,
        overlap=DEFAULT_OVERLAP,
        prompt_limit=DEFAULT_PROMPT_LIMIT,
    )


@dataclass(frozen=True, eq=False)
class Examples:
    """n rows and their features at D depths, in W windows.

    Attributes:
        rows: The labelled responses.
        prompt: `instruction` and `request` of each row's prompt, (n, D, d) each.
        windows: `mean` and `last` of each window, (W, D, d) each.
        owner: (W,) int64, ascending: the row each window belongs to.
    """

    rows: Sequence[LabelledResponse]
    prompt: States
    windows: States
    owner: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def first(self) -> Tensor:
        """(n,) index of each row's first window."""
        import torch

        return torch.searchsorted(self.owner, torch.arange(len(self.rows)))

    def states(self, windows: Tensor) -> dict[str, Tensor]:
        """States (..., D, d) of the windows with these indices (...), and of their prompts."""
        rows = self.owner[windows]
        return {
            **{name: t[windows] for name, t in self.windows.items()},
            **{name: t[rows] for name, t in self.prompt.items()},
        }


class FeatureStore:
    """Features on disk, by prompt and response.

    Args:
        space: What the features are made of.
        depths: Depths needed, ascending; what an earlier run stored for more depths counts.
        folder: Where stores live; default: the cache folder.
        resume: Use what earlier runs stored.
    """

    def __init__(
        self,
        space: FeatureSpace,
        *,
        depths: Sequence[int],
        folder: Path | None = None,
        resume: bool = True,
    ) -> None:
        self.space = space
        self.depths = tuple(depths)
        self._folder = (folder or cache_dir() / "features") / space.digest
        self._where: dict[str, tuple[Path, int]] = {}
        for shard in sorted(self._folder.glob("*/*.safetensors")) if resume else ():
            if set(self.depths) <= set(_depths_of(shard)):
                self._index(shard)

    def missing(self, rows: Sequence[LabelledResponse]) -> list[LabelledResponse]:
        """The rows whose features are not in the store."""
        return [row for row in rows if _key(row) not in self._where]

    def extract(
        self,
        rows: Sequence[LabelledResponse],
        llm: ReferenceLLM,
        *,
        progress: ProgressCallback = silent,
    ) -> None:
        """Encode the rows that are missing.

        Args:
            rows: Labelled responses.
            llm: The reference LLM of this store's space.
            progress: Called after every shard, with rows done and rows in all.
        """
        missing = list({_key(row): row for row in self.missing(rows)}.values())
        space = self.space
        spec = FeatureSpec(self.depths, space.window, space.overlap, space.prompt_limit)
        done = 0
        for shard in _shards(missing):
            encoded = llm.encode_many(
                [(group[0].conversation, [row.response for row in group]) for group in shard],
                spec,
            )
            self._write(
                [
                    (_key(row), _of_candidate(features, i))
                    for group, features in zip(shard, encoded, strict=True)
                    for i, row in enumerate(group)
                ]
            )
            done += sum(map(len, shard))
            progress("features", done, len(missing))

    def load(
        self, rows: Sequence[LabelledResponse], *, depths: Sequence[int] | None = None
    ) -> Examples:
        """Features of the rows, in their order.

        Args:
            rows: Labelled responses.
            depths: Which of the store's depths; None: all of them.

        Raises:
            DataError: A row's features were never extracted.
        """
        import torch
        from safetensors import safe_open

        wanted = self.depths if depths is None else depths
        shards: dict[Path, list[int]] = {}
        for i, row in enumerate(rows):
            found = self._where.get(_key(row))
            if found is None:
                raise DataError(f"no features for a row of {row.source!r}: run the extraction")
            shards.setdefault(found[0], []).append(i)
        loaded: list[dict[str, Tensor]] = [{}] * len(rows)
        for shard, indices in shards.items():
            with safe_open(shard, framework="pt") as file:
                tensors = {n: file.get_tensor(n) for n in (*_PROMPT, *_WINDOW, "windows")}
            stored = _depths_of(shard)
            at = [stored.index(k) for k in wanted]
            ends = tensors["windows"].cumsum(0)
            for i in indices:
                k = self._where[_key(rows[i])][1]
                span = slice(int(ends[k] - tensors["windows"][k]), int(ends[k]))
                loaded[i] = {n: tensors[n][k : k + 1, at] for n in _PROMPT}
                loaded[i] |= {n: tensors[n][span][:, at] for n in _WINDOW}
        counts = torch.tensor([len(states["mean"]) for states in loaded])
        return Examples(
            rows=rows,
            prompt={n: torch.cat([states[n] for states in loaded]) for n in _PROMPT},
            windows={n: torch.cat([states[n] for states in loaded]) for n in _WINDOW},
            owner=torch.repeat_interleave(torch.arange(len(rows)), counts),
        )

    def _write(self, items: Sequence[_Item]) -> None:
        import torch
        from safetensors.torch import save_file

        keys = [key for key, _ in items]
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
        path = self._folder / "-".join(map(str, self.depths)) / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}.draft")
        tensors = {n: torch.cat([states[n] for _, states in items]) for n in (*_PROMPT, *_WINDOW)}
        tensors["windows"] = torch.tensor([len(states["mean"]) for _, states in items])
        save_file(tensors, draft, metadata={"keys": json.dumps(keys)})
        draft.replace(path)
        self._index(path)

    def _index(self, shard: Path) -> None:
        from safetensors import safe_open

        with safe_open(shard, framework="pt") as file:
            keys = json.loads(file.metadata()["keys"])
        self._where |= {key: (shard, i) for i, key in enumerate(keys)}


def judge_examples(head: SRRHead, examples: Examples) -> Judged:
    """Judge every row by itself."""
    from srr_guard.scorer.inference import judge

    return judge(head, windows=examples.windows, prompt=examples.prompt, owner=examples.owner)


def _shards(rows: Sequence[LabelledResponse]) -> Iterator[list[list[LabelledResponse]]]:
    """Groups of rows of one prompt, in shards of about `_SHARD_ROWS` rows."""
    shard: list[list[LabelledResponse]] = []
    size = 0
    for prompt_rows in by_prompt(rows).values():
        for start in range(0, len(prompt_rows), _SHARD_ROWS):
            shard.append(prompt_rows[start : start + _SHARD_ROWS])
            size += len(shard[-1])
            if size >= _SHARD_ROWS:
                yield shard
                shard, size = [], 0
    if shard:
        yield shard


def _of_candidate(features: Features, i: int) -> dict[str, Tensor]:
    own = features.owner == i
    return {
        "instruction": features.instruction[None],
        "request": features.request[None],
        "mean": features.mean[own],
        "last": features.last[own],
    }


def _depths_of(shard: Path) -> list[int]:
    return [int(k) for k in shard.parent.name.split("-")]


def _key(row: LabelledResponse) -> str:
    conversation: Conversation = row.conversation
    text = json.dumps([conversation.model_dump(), row.response])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
