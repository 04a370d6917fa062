"""Features of labelled responses, extracted once and kept on disk.

A store belongs to one reference LLM, template, set of depths and windows; its folder is
named by their digest. Shards are written as extraction goes on, so an interrupted run is
resumed where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from srr_guard.conversation import Conversation
from srr_guard.errors import DataError
from srr_guard.reference.source import cache_dir
from srr_guard.training.data import LabelledResponse, by_prompt

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from srr_guard.reference import ReferenceLLM

_SHARD_ROWS = 256
Progress = Callable[[int, int], None]
"""Called with rows done and rows in all."""


@dataclass(frozen=True)
class FeatureSpace:
    """All that decides what the features of a text are.

    Attributes:
        reference: Digest of the reference LLM.
        template: Digest of its template.
        depths: Depths read.
        window: Tokens per window.
        overlap: Tokens shared by neighbouring windows.
        prompt_limit: Most tokens of a prompt.
    """

    reference: str
    template: str
    depths: tuple[int, ...]
    window: int
    overlap: int
    prompt_limit: int

    @property
    def digest(self) -> str:
        """Short name of the space."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class RowFeatures:
    """Features of one response: `instruction` (D, d), `mean` and `last` (W, D, d)."""

    instruction: Tensor
    mean: Tensor
    last: Tensor


class FeatureStore:
    """Features on disk, by prompt and response.

    Args:
        space: What the features are made of.
        folder: Where stores live; default: the cache folder.
    """

    def __init__(self, space: FeatureSpace, *, folder: Path | None = None) -> None:
        self.space = space
        self._folder = (folder or cache_dir() / "features") / space.digest
        self._where: dict[str, tuple[Path, int]] = {}
        for shard in sorted(self._folder.glob("*.safetensors")):
            self._index(shard)

    def missing(self, rows: Sequence[LabelledResponse]) -> list[LabelledResponse]:
        """The rows whose features are not in the store."""
        return [row for row in rows if _key(row) not in self._where]

    def extract(
        self,
        rows: Sequence[LabelledResponse],
        llm: ReferenceLLM,
        *,
        progress: Progress | None = None,
    ) -> None:
        """Encode the rows that are missing.

        Args:
            rows: Labelled responses.
            llm: The reference LLM of this store's space.
            progress: Called after every prompt.
        """
        missing = list({_key(row): row for row in self.missing(rows)}.values())
        pending: list[tuple[str, RowFeatures]] = []
        done = 0
        for group in by_prompt(missing).values():
            features = llm.encode(
                group[0].conversation,
                [row.response for row in group],
                depths=self.space.depths,
                window=self.space.window,
                overlap=self.space.overlap,
                prompt_limit=self.space.prompt_limit,
            )
            for i, row in enumerate(group):
                own = features.owner == i
                pending.append(
                    (
                        _key(row),
                        RowFeatures(features.instruction, features.mean[own], features.last[own]),
                    )
                )
            done += len(group)
            if len(pending) >= _SHARD_ROWS:
                self._write(pending)
                pending = []
            if progress:
                progress(done, len(missing))
        if pending:
            self._write(pending)

    def load(self, rows: Sequence[LabelledResponse]) -> list[RowFeatures]:
        """Features of the rows, in their order.

        Raises:
            DataError: A row's features were never extracted.
        """
        from safetensors import safe_open

        wanted: dict[Path, list[int]] = {}
        for i, row in enumerate(rows):
            found = self._where.get(_key(row))
            if found is None:
                raise DataError(f"no features for a row of {row.source!r}: run the extraction")
            wanted.setdefault(found[0], []).append(i)
        loaded: dict[int, RowFeatures] = {}
        for shard, indices in wanted.items():
            with safe_open(shard, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            ends = tensors["windows"].cumsum(0)
            for i in indices:
                at = self._where[_key(rows[i])][1]
                span = slice(int(ends[at] - tensors["windows"][at]), int(ends[at]))
                loaded[i] = RowFeatures(
                    tensors["instruction"][at].clone(),
                    tensors["mean"][span].clone(),
                    tensors["last"][span].clone(),
                )
        return [loaded[i] for i in range(len(rows))]

    def _write(self, items: Sequence[tuple[str, RowFeatures]]) -> None:
        import torch
        from safetensors.torch import save_file

        keys = [key for key, _ in items]
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
        path = self._folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}.draft")
        tensors: dict[str, torch.Tensor] = {
            "instruction": torch.stack([f.instruction for _, f in items]),
            "mean": torch.cat([f.mean for _, f in items]),
            "last": torch.cat([f.last for _, f in items]),
            "windows": torch.tensor([len(f.mean) for _, f in items]),
        }
        save_file(tensors, draft, metadata={"keys": json.dumps(keys)})
        draft.replace(path)
        self._index(path)

    def _index(self, shard: Path) -> None:
        from safetensors import safe_open

        with safe_open(shard, framework="pt") as file:
            keys = json.loads(file.metadata()["keys"])
        self._where |= {key: (shard, i) for i, key in enumerate(keys)}


def _key(row: LabelledResponse) -> str:
    conversation: Conversation = row.conversation
    text = json.dumps([conversation.model_dump(), row.response])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
