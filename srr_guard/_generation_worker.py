"""The one thread that loads and runs the local chat models of a process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import islice

from srr_guard._generation import Answers, Request, TextGenerator
from srr_guard._threads import Workers
from srr_guard.errors import ReferenceLoadError
from srr_guard.reference.source import resolve_reference
from srr_guard.reference.weights import (
    Device,
    DType,
    load_causal_lm,
    load_tokenizer,
    model_folder,
    pick_device,
    pick_dtype,
)

# One thread loads and runs every local chat model of the process, whoever waits or gave up
# waiting: two forward passes never overlap, and `_loaded` needs no lock.
_worker = Workers(max_threads=1)
_loaded: dict[tuple[str, str, str], TextGenerator] = {}

_LARGEST_BATCH = 16
"""Most requests that are joined into one call."""


@dataclass(frozen=True, kw_only=True)
class ModelPlace:
    """Which model to load, and where to; see `resolve_reference`."""

    model: str | os.PathLike[str] | None = None
    revision: str | None = None
    local_files_only: bool = False
    device: Device = "auto"
    dtype: DType = "auto"


class Job:
    """A request on its way; cancelling ends it before the next token.

    Requests in line for the same prompt with the same options are sampled in one call, so
    that n callers side by side wait little longer than one.

    Attributes:
        future: Gets the answers.
    """

    def __init__(
        self, place: ModelPlace, request: Request, *, on_text: Callable[[str], None] | None = None
    ) -> None:
        self.future: Future[Answers] = Future()
        self._place = place
        self._request = request
        self._on_text = on_text
        self._cancelled = threading.Event()
        with _line_lock:
            _line.append(self)
        _worker.submit(_serve_next)

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answers any more."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Give up: a job in line never starts, a running one ends before its next token."""
        self._cancelled.set()
        self.future.cancel()

    def joins(self, other: Job) -> bool:
        """Whether both can be sampled in one call, neither seeing the other."""
        options = self._request.options
        return (
            self._on_text is other._on_text is None
            and options.seed is None
            and options.temperature > 0.0
            and (self._place, replace(self._request, n=1))
            == (other._place, replace(other._request, n=1))
        )

    @staticmethod
    def run(jobs: Sequence[Job]) -> None:
        """Sample the answers of jobs that join, on the worker thread."""
        jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
        if not jobs:
            return
        first = jobs[0]
        request = replace(first._request, n=sum(job._request.n for job in jobs))
        try:
            result = _load(first._place).sample(
                request,
                cancelled=lambda: all(job.is_cancelled for job in jobs),
                on_text=first._on_text,
            )
        except BaseException as error:  # noqa: BLE001 (handed to whoever waits)
            for job in jobs:
                job.future.set_exception(error)
            return
        answers = iter(result.answers)
        for job in jobs:
            own = tuple(islice(answers, job._request.n))
            job.future.set_result(replace(result, answers=own))


_line: list[Job] = []
_line_lock = threading.Lock()


def _serve_next() -> None:
    """Run the next job in line together with those that join it."""
    with _line_lock:
        if not _line:
            return
        first = _line[0]
        jobs = [first, *(job for job in _line[1:] if job.joins(first))][:_LARGEST_BATCH]
        _line[:] = [job for job in _line if job not in jobs]
    Job.run(jobs)


def token_ids(place: ModelPlace, text: str) -> list[int]:
    """Encode plain text with a model's tokenizer."""
    return _worker.submit(lambda: _load(place).template.text_ids(text)).result()


def _load(place: ModelPlace) -> TextGenerator:
    """Load a model, or return the one at hand; runs on the worker thread only."""
    source = resolve_reference(
        place.model, revision=place.revision, local_files_only=place.local_files_only
    )
    try:
        device = pick_device(place.device)
    except RuntimeError as error:
        raise ReferenceLoadError(f"device={place.device!r} cannot be used: {error}") from error
    dtype = pick_dtype(place.dtype, device)
    key = (str(source.path), str(device), str(dtype).removeprefix("torch."))
    if key not in _loaded:
        folder = model_folder(source)
        model = load_causal_lm(folder, device=device, dtype=dtype)
        _loaded[key] = TextGenerator(model, load_tokenizer(folder), source=source, place=key)
    return _loaded[key]
