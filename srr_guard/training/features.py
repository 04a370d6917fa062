"""Features of labelled responses, extracted once and kept on disk.

A store belongs to one reference LLM, template and window size; its folder is named by their
digest, with one folder inside for each set of depths. Shards are written as extraction goes
on, so an interrupted run is resumed where it stopped.
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
from srr_guard.reference.model import DEFAULT_OVERLAP, DEFAULT_PROMPT_LIMIT, DEFAULT_WINDOW
from srr_guard.reference.source import cache_dir
from srr_guard.training.data import LabelledResponse, by_prompt

if TYPE_CHECKING:
    from torch import Tensor

    from srr_guard.reference import ReferenceLLM

_SHARD_ROWS = 256
_TENSORS = ("instruction", "mean", "last", "windows")
_Item = tuple[str, "Tensor", "Tensor", "Tensor"]
Progress = Callable[[int, int], None]
"""Called with rows done and rows in all."""


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
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


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
        instruction: (n, D, d), the prompt's last token.
        mean: (W, D, d), mean over each window's tokens.
        last: (W, D, d), each window's last token.
        owner: (W,) int64, ascending: the row each window belongs to.
    """

    rows: Sequence[LabelledResponse]
    instruction: Tensor
    mean: Tensor
    last: Tensor
    owner: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def first(self) -> Tensor:
        """(n,) index of each row's first window."""
        import torch

        return torch.searchsorted(self.owner, torch.arange(len(self.rows)))


class FeatureStore:
    """Features on disk, by prompt and response.

    Args:
        space: What the features are made of.
        depths: Depths needed, ascending; what an earlier run stored for more depths counts.
        folder: Where stores live; default: the cache folder.
    """

    def __init__(
        self, space: FeatureSpace, *, depths: Sequence[int], folder: Path | None = None
    ) -> None:
        self.space = space
        self.depths = tuple(depths)
        self._folder = (folder or cache_dir() / "features") / space.digest
        self._where: dict[str, tuple[Path, int]] = {}
        for shard in sorted(self._folder.glob("*/*.safetensors")):
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
        progress: Progress | None = None,
    ) -> None:
        """Encode the rows that are missing.

        Args:
            rows: Labelled responses.
            llm: The reference LLM of this store's space.
            progress: Called after every prompt.
        """
        missing = list({_key(row): row for row in self.missing(rows)}.values())
        pending: list[_Item] = []
        done = 0
        for group in by_prompt(missing).values():
            features = llm.encode(
                group[0].conversation,
                [row.response for row in group],
                depths=self.depths,
                window=self.space.window,
                overlap=self.space.overlap,
                prompt_limit=self.space.prompt_limit,
            )
            for i, row in enumerate(group):
                own = features.owner == i
                item = (_key(row), features.instruction, features.mean[own], features.last[own])
                pending.append(item)
            done += len(group)
            if len(pending) >= _SHARD_ROWS:
                self._write(pending)
                pending = []
            if progress:
                progress(done, len(missing))
        if pending:
            self._write(pending)

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
        loaded: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for shard, indices in shards.items():
            with safe_open(shard, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
            stored = _depths_of(shard)
            at = [stored.index(k) for k in wanted]
            ends = tensors["windows"].cumsum(0)
            for i in indices:
                k = self._where[_key(rows[i])][1]
                span = slice(int(ends[k] - tensors["windows"][k]), int(ends[k]))
                loaded[i] = (
                    tensors["instruction"][k][at],
                    tensors["mean"][span][:, at],
                    tensors["last"][span][:, at],
                )
        parts = [loaded[i] for i in range(len(rows))]
        counts = torch.tensor([len(mean) for _, mean, _ in parts])
        return Examples(
            rows=rows,
            instruction=torch.stack([instruction for instruction, _, _ in parts]),
            mean=torch.cat([mean for _, mean, _ in parts]),
            last=torch.cat([last for _, _, last in parts]),
            owner=torch.repeat_interleave(torch.arange(len(rows)), counts),
        )

    def _write(self, items: Sequence[_Item]) -> None:
        import torch
        from safetensors.torch import save_file

        keys = [key for key, _, _, _ in items]
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
        path = self._folder / "-".join(map(str, self.depths)) / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}.draft")
        tensors = {
            "instruction": torch.stack([instruction for _, instruction, _, _ in items]),
            "mean": torch.cat([mean for _, _, mean, _ in items]),
            "last": torch.cat([last for _, _, _, last in items]),
            "windows": torch.tensor([len(mean) for _, _, mean, _ in items]),
        }
        save_file(tensors, draft, metadata={"keys": json.dumps(keys)})
        draft.replace(path)
        self._index(path)

    def _index(self, shard: Path) -> None:
        from safetensors import safe_open

        with safe_open(shard, framework="pt") as file:
            keys = json.loads(file.metadata()["keys"])
        self._where |= {key: (shard, i) for i, key in enumerate(keys)}


def _depths_of(shard: Path) -> list[int]:
    return [int(k) for k in shard.parent.name.split("-")]


def _key(row: LabelledResponse) -> str:
    conversation: Conversation = row.conversation
    text = json.dumps([conversation.model_dump(), row.response])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
