"""Scorers grouped by the reference LLM they run on, and what each of them costs."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from srr_guard.errors import InvalidInputError
from srr_guard.reference import ReferenceLLM
from srr_guard.reference.source import Named, ReferenceSource, resolve_reference
from srr_guard.reference.weights import model_folder
from srr_guard.scorer.bundle import ScorerBundle
from srr_guard.training.data import LabelledResponse, by_prompt
from srr_guard.training.evaluation.report import Cost

Reference = str | os.PathLike[str]

_TIMED = 64
_LIST = 8


@dataclass(frozen=True)
class ReferenceGroup:
    """Scorers that share a reference LLM.

    Attributes:
        source: Where its files are.
        bundles: The scorers by the name they are reported under.
    """

    source: ReferenceSource
    bundles: dict[str, ScorerBundle] = field(default_factory=dict)

    @property
    def depths(self) -> tuple[int, ...]:
        """All depths that they read."""
        return tuple(sorted({k for b in self.bundles.values() for k in b.info.head.depths}))


def named_bundles(names: Sequence[Reference | None]) -> dict[str, ScorerBundle]:
    """Find bundles and the probe inside each. Equal names are told apart by the reference LLM.

    Raises:
        BundleNotFoundError: There is no such bundle.
    """
    found: dict[str, ScorerBundle] = {}
    for name in dict.fromkeys(names):
        bundle = ScorerBundle.find(name)
        inner = bundle.folder / "probe"
        both = [bundle]
        if (inner / "config.json").is_file():
            both.append(ScorerBundle.find(inner))
        for one in both:
            if all(one.folder.resolve() != b.folder.resolve() for b in found.values()):
                found[_free_name(one, found)] = one
    return found


def _free_name(bundle: ScorerBundle, taken: Mapping[str, ScorerBundle]) -> str:
    name = bundle.info.name
    if name in taken:
        name = f"{name} ({bundle.info.reference})"
    count = 1
    free = name
    while free in taken:
        count += 1
        free = f"{name} ({count})"
    return free


def group_by_reference(
    bundles: Mapping[str, ScorerBundle], given: Sequence[Reference] = ()
) -> list[ReferenceGroup]:
    """Find the reference LLM of every scorer.

    Where all scorers name the same one and one is given, it is taken. Otherwise each scorer
    takes the one given that has its digest or name, else the one that it names itself.

    Args:
        bundles: Scorers by name.
        given: Reference LLMs: folders, GGUF files or hub ids.

    Raises:
        InvalidInputError: One that is given suits no scorer.
        ReferenceNotFoundError: One is nowhere to be found.
    """
    sources = [resolve_reference(one) for one in given]
    of_one = len({bundle.info.reference_digest for bundle in bundles.values()}) == 1
    groups: dict[Path, ReferenceGroup] = {}
    for name, bundle in bundles.items():
        source = sources[0] if of_one and len(sources) == 1 else _source_of(bundle, sources)
        group = groups.setdefault(source.path.resolve(), ReferenceGroup(source))
        group.bundles[name] = bundle
    for one, source in zip(given, sources, strict=True):
        if source.path.resolve() not in groups:
            raise InvalidInputError(
                f"reference={str(one)!r} is the model of none of the scorers "
                f"{', '.join(map(repr, bundles))}: leave it out, or give a scorer trained for it"
            )
    return list(groups.values())


def _source_of(bundle: ScorerBundle, sources: Sequence[ReferenceSource]) -> ReferenceSource:
    info = bundle.info
    for source in sources:
        if source.digest() == info.reference_digest:
            return source
    for source in sources:
        if source.name == info.reference:
            return source
    return resolve_reference(named=Named(info.reference, revision=info.reference_revision))


def costs_of(
    group: ReferenceGroup,
    llm: ReferenceLLM,
    rows: Sequence[LabelledResponse],
    *,
    peak: Callable[[], int | None] = lambda: None,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Cost]:
    """Time each scorer of a group on some of the rows, the same for every reference LLM.

    Args:
        group: The scorers.
        llm: Their reference LLM.
        rows: Labelled responses.
        peak: Peak memory so far, in bytes.
        seed: Makes the choice of answers repeatable.
        clock: Seconds since some moment.
    """
    requests = timed_requests(rows, seed=seed)
    answers = sum(len(own) for own in requests)
    found = {}
    for name, bundle in group.bundles.items():
        spec = bundle.info.features
        asked = [(own[0].conversation, [row.response for row in own]) for own in requests]
        llm.encode_many(asked[:1], spec)  # the first call is slower
        llm.clear_caches()
        started = clock()
        for request in asked:
            llm.encode_many([request], spec)
        seconds = clock() - started
        llm.clear_caches()
        found[name] = Cost(
            reference=f"{llm.name}, {llm.dtype}",
            parameters=parameters(model_folder(group.source)),
            file_bytes=file_bytes(group.source.path),
            blocks_read=max(spec.depths),
            blocks=llm.blocks,
            milliseconds=1000 * seconds / answers,
            answers=answers,
        )
    most = peak()
    return {name: cost.model_copy(update={"peak_bytes": most}) for name, cost in found.items()}


def timed_requests(
    rows: Sequence[LabelledResponse], *, seed: int = 0
) -> list[list[LabelledResponse]]:
    """Requests with up to 8 answers each, about 64 answers in all."""
    rng = random.Random(f"timed:{seed}")
    groups = list(by_prompt(rows).values())
    rng.shuffle(groups)
    chosen: list[list[LabelledResponse]] = []
    for group in groups:
        left = _TIMED - sum(map(len, chosen))
        if not left:
            break
        chosen.append(rng.sample(group, min(_LIST, len(group), left)))
    return chosen


def file_bytes(path: Path) -> int:
    """Size of a GGUF file, or of the weights in a model folder."""
    return sum(file.stat().st_size for file in _weights(path))


def parameters(folder: Path) -> int | None:
    """Parameters in the safetensors files of a model folder; None without such files."""
    from safetensors import safe_open

    files = [file for file in _weights(folder) if file.suffix == ".safetensors"]
    total = 0
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no dict)
                size = 1
                for length in tensors.get_slice(name).get_shape():
                    size *= length
                total += size
    return total if files else None


def _weights(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        if files := sorted(path.glob(pattern)):
            return files
    return []


@contextmanager
def peak_memory(device: str) -> Iterator[Callable[[], int | None]]:
    """Watch the peak memory from here on: of the GPU, or of the process where Linux tells it.

    Args:
        device: Where the model will be, as `torch.device` reads it.
    """
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        yield lambda: int(torch.cuda.max_memory_allocated())
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    except OSError:
        yield lambda: None
        return
    yield _resident_peak


def _resident_peak() -> int | None:
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
