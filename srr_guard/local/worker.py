"""The line of generation requests: equal ones are sampled in one call on the host's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice

from srr_guard.local.generation import Answers, GenerationRequest, TextGenerator
from srr_guard.reference.host import host
from srr_guard.reference.spec import ModelSpec

_LARGEST_BATCH = 16
"""Most requests that are joined into one call."""


class GenerationJob:
    """A request in the line; cancelling ends it before the next token.

    Requests in line for the same prompt with the same options are sampled in one call, so
    that n callers side by side wait little longer than one.

    Attributes:
        future: Receives the answers.
    """

    def __init__(
        self,
        spec: ModelSpec,
        request: GenerationRequest,
        *,
        on_text: Callable[[str], None] | None = None,
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

    def joins(self, other: GenerationJob) -> bool:
        """True if both can be sampled in one call, neither seeing the other."""
        options = self.request.options
        return (
            self.on_text is other.on_text is None
            and options.seed is None
            and options.temperature > 0.0
            and (self.spec, replace(self.request, n=1)) == (other.spec, replace(other.request, n=1))
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
            first = self._jobs[0]
            joined = [job for job in self._jobs[1:] if job.joins(first)]
            jobs = [first, *joined][:_LARGEST_BATCH]
            self._jobs = [job for job in self._jobs if job not in jobs]
        _run(jobs)


def text_generator(spec: ModelSpec) -> TextGenerator:
    """The process's generator for a model; on the host's thread only.

    Raises:
        ReferenceModelError: The model cannot be found or loaded.
    """
    hosted = host.model(spec)
    return host.shared(("generation", hosted.key), lambda: TextGenerator(hosted))


def token_ids(spec: ModelSpec, text: str) -> list[int]:
    """Encode plain text with a model's tokenizer."""
    return host.submit(lambda: text_generator(spec).template.text_ids(text)).result()


def _line() -> GenerationLine:
    return host.shared("generation", GenerationLine)


def _run(jobs: Sequence[GenerationJob]) -> None:
    """Sample the answers of jobs that join."""
    jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
    if not jobs:
        return
    first = jobs[0]
    request = replace(first.request, n=sum(job.request.n for job in jobs))
    try:
        result = text_generator(first.spec).sample(
            request,
            cancelled=lambda: host.closing or all(job.is_cancelled for job in jobs),
            on_text=first.on_text,
        )
    except BaseException as error:  # noqa: BLE001 (handed to the callers)
        for job in jobs:
            job.future.set_exception(error)
        return
    answers = iter(result.answers)
    for job in jobs:
        own = tuple(islice(answers, job.request.n))
        job.future.set_result(replace(result, answers=own))
