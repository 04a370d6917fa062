"""Scoring candidates: the protocol that rankers use, and `SRRScorer`, which does it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from srr_guard.conversation import Conversation, valid_unicode
from srr_guard.decision import Ranking
from srr_guard.errors import InvalidInputError
from srr_guard.reference.weights import Device, DType
from srr_guard.scorer.bundle import ScorerBundle

if TYPE_CHECKING:
    from srr_guard.engine import ScoringEngine


@runtime_checkable
class ResponseScorer(Protocol):
    """Anything that ranks candidate answers to one conversation.

    `SRRScorer` does it with a local reference LLM, `srr_guard.testing.FakeScorer` with a
    function. Both methods are safe to call from several threads and tasks at once.
    """

    def score(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Rank candidates.

        Args:
            conversation: Anything that `Conversation.of` reads.
            candidates: At least one text.

        Raises:
            InvalidInputError: The conversation or a candidate cannot be read.
            ScorerError: The scorer cannot be loaded or its numbers cannot be used.
        """
        ...

    async def ascore(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Like `score`, without blocking the event loop."""
        ...


class ReadAhead(Protocol):
    """Is called with an answer's text so far, again and again; it returns at once."""

    def __call__(self, text: str, *, done: bool = False) -> None:
        """Take note of the text so far; `done` says that it is whole."""
        ...


@runtime_checkable
class SupportsReadAhead(Protocol):
    """A scorer that can read answers while they are written (`SamplingPolicy.read_ahead`).

    It only saves time: what is scored, and how, is up to `score` and `ascore` alone.
    """

    def read_ahead(self, conversation: Conversation) -> ReadAhead:
        """Begin to read one answer, whose words will come; returns at once."""
        ...


class SRRScorer:
    """Ranks candidates with a reference LLM's hidden states and a trained head.

    Making one is cheap: weights are loaded on the first score, in a worker thread that owns
    them from then on. Scorers of one process that need the same files share them.

    Example:
        >>> from srr_guard import SRRScorer
        >>> scorer = SRRScorer.from_pretrained()
        >>> ranking = scorer.score(
        ...     "How do I keep basil alive indoors?",
        ...     ["Give it six hours of light a day.", "I can't help with that."],
        ... )
        >>> ranking.best
        0
    """

    def __init__(
        self,
        *,
        bundle: ScorerBundle,
        reference: str | os.PathLike[str] | None = None,
        device: Device = "auto",
        dtype: DType = "auto",
        local_files_only: bool = False,
    ) -> None:
        self.bundle = bundle
        self._reference = reference
        self._device = device
        self._dtype: DType = dtype
        self._local_files_only = local_files_only

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] | None = None,
        *,
        reference: str | os.PathLike[str] | None = None,
        device: Device = "auto",
        dtype: DType = "auto",
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> SRRScorer:
        """Find a trained scorer.

        Args:
            name: A shipped bundle's name, a folder, or a hub id; None: the default bundle.
            reference: The reference LLM it was trained for: a folder, GGUF file or hub id;
                None takes the first that is found (see `resolve_reference`).
            device: `auto`, or what `torch.device` reads.
            dtype: `auto`, `float32`, `bfloat16` or `float16`.
            revision: The bundle's branch, tag or commit on the hub.
            local_files_only: Never ask the hub.

        Raises:
            BundleNotFoundError: There is no such bundle.
            CorruptBundleError: Its description cannot be read.
        """
        bundle = ScorerBundle.find(name, revision=revision, local_files_only=local_files_only)
        return cls(
            bundle=bundle,
            reference=reference,
            device=device,
            dtype=dtype,
            local_files_only=local_files_only,
        )

    def score(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Rank candidates (see `ResponseScorer.score`).

        The first call loads the weights, which takes seconds.

        Raises:
            InvalidInputError: The conversation or a candidate cannot be read.
            ReferenceModelError: The reference LLM cannot be found or loaded.
            IncompatibleScorerError: It is not the one this scorer was trained for.
            ScoringError: Scoring failed or gave numbers that must not be used.
        """
        return self._submit(conversation, candidates).result()

    async def ascore(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Like `score`, without blocking the event loop.

        A cancelled call stops waiting; what the worker thread has begun, it finishes.
        """
        return await asyncio.wrap_future(self._submit(conversation, candidates))

    def read_ahead(self, conversation: Conversation) -> ReadAhead:
        """Read an answer while it is written (see `SupportsReadAhead`).

        What was read is kept for the next `score` of the same conversation. The scores are the
        same as without.
        """
        return self._engine().read_ahead(conversation)

    def warm_up(self) -> None:
        """Load the weights now instead of on the first score.

        Raises:
            ReferenceModelError: The reference LLM cannot be found or loaded.
            ScorerError: The bundle cannot be loaded or does not fit.
        """
        self._engine().load().result()

    def __repr__(self) -> str:
        return f"SRRScorer(bundle={self.bundle.info.name!r})"

    def _submit(self, conversation: Any, candidates: Sequence[str]) -> Future[Ranking]:
        talk = Conversation.of(conversation)
        texts = _checked(candidates)
        return self._engine().rank(talk, texts)

    def _engine(self) -> ScoringEngine:
        from srr_guard.engine import shared_engine

        return shared_engine(
            self.bundle,
            reference=self._reference,
            device=self._device,
            dtype=self._dtype,
            local_files_only=self._local_files_only,
        )


def _checked(candidates: Sequence[str]) -> list[str]:
    if isinstance(candidates, str) or not isinstance(candidates, Sequence):
        raise InvalidInputError(
            f"candidates must be a list of texts, got {type(candidates).__name__}"
        )
    if not candidates:
        raise InvalidInputError("there are no candidates to score: give at least one text")
    for i, text in enumerate(candidates):
        if not isinstance(text, str):
            raise InvalidInputError(f"candidates[{i}] is {text!r:.60}: every candidate is a str")
    return [valid_unicode(text) for text in candidates]
