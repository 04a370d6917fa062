"""The worker thread that owns the reference LLM, and what is shared within a process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from srr_guard.conversation import Conversation
from srr_guard.decision import Ranking
from srr_guard.errors import ScoringError, SRRGuardError
from srr_guard.reference.source import ReferenceSource, resolve_reference
from srr_guard.reference.weights import Device, DType
from srr_guard.scorer.bundle import ScorerBundle

if TYPE_CHECKING:
    from torch import Tensor

    from srr_guard.reference import ReferenceLLM
    from srr_guard.scorer.head import SRRHead
    from srr_guard.scorer.inference import Judged


class ScoringEngine:
    """One bundle and its reference LLM, used from the process's one worker thread only.

    A waiter that gives up does not stop the work it asked for, so two forward passes can
    never overlap.
    """

    def __init__(
        self,
        bundle: ScorerBundle,
        *,
        reference: str | os.PathLike[str] | None,
        device: Device,
        dtype: DType,
        local_files_only: bool,
    ) -> None:
        self._bundle = bundle
        self._reference = reference
        self._device = device
        self._dtype: DType = dtype
        self._local_files_only = local_files_only
        self._loaded: tuple[ReferenceLLM, SRRHead] | None = None

    def load(self) -> Future[None]:
        """Load the weights, if that was not done before."""
        return _shared.worker().submit(self._load)

    def rank(self, conversation: Conversation, texts: Sequence[str]) -> Future[Ranking]:
        """Rank valid, non-empty lists of texts."""
        return _shared.worker().submit(self._rank, conversation, texts)

    def _load(self) -> None:
        self._parts()

    def _parts(self) -> tuple[ReferenceLLM, SRRHead]:
        if self._loaded is None:
            source = resolve_reference(self._reference, local_files_only=self._local_files_only)
            llm = _shared.reference(
                source,
                depth=max(self._bundle.info.head.depths),
                device=self._device,
                dtype=self._dtype,
            )
            self._bundle.check_fits(llm)
            self._loaded = llm, self._bundle.load_head()
        return self._loaded

    def _rank(self, conversation: Conversation, texts: Sequence[str]) -> Ranking:
        llm, head = self._parts()
        # equal texts are encoded once, so that they get equal scores
        distinct = list(dict.fromkeys(texts))
        try:
            scores, judged = self._judge(llm, head, conversation, distinct)
        except SRRGuardError:
            raise
        except Exception as error:
            raise ScoringError(
                f"the reference LLM {llm.name!r} failed on {len(distinct)} candidates: {error}"
            ) from error
        at = [distinct.index(text) for text in texts]
        try:
            return Ranking.from_scores(
                scores=scores[at].tolist(),
                p_safe=judged.p_safe[at].tolist(),
                p_help=judged.probes.p_help[at].tolist() if head.config.graded else None,
            )
        except ValueError as error:
            raise ScoringError(f"the scorer gave numbers that must not be used: {error}") from error

    def _judge(
        self, llm: ReferenceLLM, head: SRRHead, conversation: Conversation, texts: Sequence[str]
    ) -> tuple[Tensor, Judged]:
        from srr_guard.scorer.inference import judge, list_scores

        info = self._bundle.info
        features = llm.encode(
            conversation,
            texts,
            depths=info.head.depths,
            window=info.window,
            overlap=info.overlap,
            prompt_limit=info.prompt_limit,
        )
        judged = judge(
            head,
            windows={"mean": features.mean, "last": features.last},
            prompt={
                "instruction": features.instruction.expand(len(texts), -1, -1),
                "request": features.request.expand(len(texts), -1, -1),
            },
            owner=features.owner,
        )
        return list_scores(head, judged), judged


class _Shared:
    """What the scorers of one process share; a forked child starts with nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: ThreadPoolExecutor | None = None
        self._references: dict[tuple[object, ...], ReferenceLLM] = {}
        self._engines: dict[tuple[object, ...], ScoringEngine] = {}

    def worker(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="srr-guard-scorer")
            return self._worker

    def engine(self, key: tuple[object, ...], make: Callable[[], ScoringEngine]) -> ScoringEngine:
        with self._lock:
            if key not in self._engines:
                self._engines[key] = make()
            return self._engines[key]

    def reference(
        self, source: ReferenceSource, *, depth: int, device: Device, dtype: DType
    ) -> ReferenceLLM:
        """Called from the worker thread only."""
        from srr_guard.reference import ReferenceLLM

        key = (source.path, device, dtype)
        llm = self._references.get(key)
        if llm is None or llm.depth < depth:
            llm = ReferenceLLM.load(source, depth=depth, device=device, dtype=dtype)
            self._references[key] = llm
        return llm


_shared = _Shared()


def _forget_after_fork() -> None:
    global _shared
    _shared = _Shared()


os.register_at_fork(after_in_child=_forget_after_fork)


def shared_engine(
    bundle: ScorerBundle,
    *,
    reference: str | os.PathLike[str] | None,
    device: Device,
    dtype: DType,
    local_files_only: bool,
) -> ScoringEngine:
    """The process's engine for a bundle, reference LLM, device and precision."""
    place = None if reference is None else os.fspath(reference)
    return _shared.engine(
        (bundle.folder.resolve(), place, device, dtype, local_files_only),
        lambda: ScoringEngine(
            bundle,
            reference=place,
            device=device,
            dtype=dtype,
            local_files_only=local_files_only,
        ),
    )
