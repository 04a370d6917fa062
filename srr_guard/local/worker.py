"""The line of generation requests: those for one model are sampled in one batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from srr_guard.local.generation import TextGenerator
from srr_guard.local.requests import Answers, Call, GenerationRequest
from srr_guard.reference.host import host
from srr_guard.reference.spec import ModelSpec

_LARGEST_BATCH = 16
"""Most answers of requests that are joined into one batch."""


class GenerationJob:
    """A request in the line; cancelling ends it before the next token.

    Requests in line for the same model are sampled in one batch, so that n callers side by side
    wait little longer than one.

    Attributes:
        future: Receives the answers.
    """

    def __init__(
        self,
        spec: ModelSpec,
        request: GenerationRequest,
        *,
        on_text: Callable[[int, str], None] | None = None,
    ) -> None:
        self.future: Future[Answers] = Future()
        self.spec = spec
        self.request = request
        self.on_text = on_text
        self._cancelled = threading.Event()
        _line().add(self)

    @property
    def is_cancelled(self) -> bool:
        """True if nobody waits for the answers any more."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Give up: a job in line never starts, a running one ends before its next token."""
        self._cancelled.set()
        self.future.cancel()

    def call(self) -> Call:
        """What the generator is to do for it."""
        return Call(
            self.request,
            lambda: host.closing or self.is_cancelled,
            self.future.set_result,
            self.future.set_exception,
            self.on_text,
        )


class GenerationLine:
    """The jobs of a process that wait for the host's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: list[GenerationJob] = []

    def add(self, job: GenerationJob) -> None:
        """Put a job in line."""
        with self._lock:
            self._jobs.append(job)
        host.submit_long(self._serve_next)

    def _serve_next(self) -> None:
        """Run the next job together with those that join it; on the host's thread."""
        with self._lock:
            if not self._jobs:
                return
            jobs = self._next_batch()
            self._jobs = [job for job in self._jobs if job not in jobs]
        _run(jobs)

    def _next_batch(self) -> list[GenerationJob]:
        """The first job, and those for the same model that have room beside it."""
        first = self._jobs[0]
        jobs, rows = [first], first.request.n
        for job in self._jobs[1:]:
            if job.spec == first.spec and rows + job.request.n <= _LARGEST_BATCH:
                jobs.append(job)
                rows += job.request.n
        return jobs


def text_generator(spec: ModelSpec) -> TextGenerator:
    """The process's generator for a model; on the host's thread only.

    Raises:
        ReferenceModelError: The model cannot be found or loaded.
    """
    hosted = host.model(spec)
    return host.shared(("generation", hosted.key), lambda: TextGenerator(hosted))


def sample_batch(spec: ModelSpec, requests: Sequence[GenerationRequest]) -> list[Answers]:
    """Sample the answers of several requests in one batch.

    Raises:
        ConfigurationError: A recipe is not served, or an answer's length leaves no room.
        ReferenceModelError: The model cannot be found or loaded.
    """
    found: dict[int, Answers] = {}
    failed: list[BaseException] = []

    def work() -> None:
        calls = [
            Call(
                request,
                lambda: host.closing,
                lambda answers, i=i: found.__setitem__(i, answers),  # type: ignore[misc]
                failed.append,
            )
            for i, request in enumerate(requests)
        ]
        text_generator(spec).sample_all(calls)

    host.submit_long(work).result()
    if failed:
        raise failed[0]
    return [found[i] for i in range(len(requests))]


def token_ids(spec: ModelSpec, text: str) -> list[int]:
    """Encode plain text with a model's tokenizer."""
    return host.submit(lambda: text_generator(spec).template.text_ids(text)).result()


def _line() -> GenerationLine:
    return host.shared("generation", GenerationLine)


def _run(jobs: Sequence[GenerationJob]) -> None:
    """Sample the answers of jobs for one model."""
    jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
    if not jobs:
        return
    try:
        generator = text_generator(jobs[0].spec)
    except BaseException as error:  # noqa: BLE001 (handed to the callers)
        for job in jobs:
            job.future.set_exception(error)
        return
    generator.sample_all([job.call() for job in jobs])
