"""The worker thread that owns the reference LLM, and what is shared within a process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from srr_guard.conversation import Conversation
from srr_guard.decision import Ranking
from srr_guard.errors import ScorerBusyError, ScoringError, SRRGuardError
from srr_guard.reference.encoding import Encoding, Layout
from srr_guard.reference.recorded import Model, recall, want
from srr_guard.reference.source import ReferenceSource, resolve_reference
from srr_guard.reference.weights import Device, DType
from srr_guard.scorer.bundle import ScorerBundle

if TYPE_CHECKING:
    from srr_guard.reference import ReferenceLLM
    from srr_guard.scorer.head import SRRHead
    from srr_guard.scoring import ReadAhead


_log = logging.getLogger("srr_guard")

MAX_WAITING = 1024
"""Requests that one engine may have, waiting or under way; further ones are turned away."""

READ_AHEAD_CHARACTERS = 32
"""Of an answer that is being written, no less than this is read at a time."""


@dataclass(eq=False)
class _Request:
    """A request: its distinct texts, all texts in the order they were given, its future."""

    conversation: Conversation
    texts: list[str]
    wanted: list[str]
    ranking: Future[Ranking] = field(default_factory=Future)
    encoding: Encoding = field(init=False)


class _Draft:
    """An answer that is being written, as far as it is to be read; called with the text so far."""

    def __init__(self, conversation: Conversation, wake: Callable[[_Draft], None]) -> None:
        self.conversation = conversation
        self.text = ""
        self.done = False
        self._wake = wake
        self._wake(self)  # the prompt can be read already

    def __call__(self, text: str, *, done: bool = False) -> None:
        """Read on, once enough has come; returns at once."""
        if done or len(text) >= len(self.text) + READ_AHEAD_CHARACTERS:
            self.text, self.done = text, done
            self._wake(self)


class ScoringEngine:
    """One bundle and its reference LLM, used from the process's one worker thread only.

    Requests that wait at the same time share forward passes (micro-batches) of a limited
    number of tokens; see `shares` for who gets what. A waiter that gives up does not stop the
    pass that was begun, so two forward passes can never overlap.
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
        info = bundle.info
        self._layout = Layout(info.head.depths, info.window, info.overlap, info.prompt_limit)
        self._lock = threading.Lock()
        self._waiting: list[_Request] = []
        self._active: list[_Request] = []  # changed by the worker thread only
        self._drafts: list[_Draft] = []  # that have something to read
        self._ahead: dict[_Draft, Encoding] = {}  # changed by the worker thread only
        self._place: Model  # once loaded

    def load(self) -> Future[None]:
        """Load the weights, if that was not done before."""
        return _shared.worker().submit(self._load)

    def rank(self, conversation: Conversation, texts: Sequence[str]) -> Future[Ranking]:
        """Rank valid, non-empty lists of texts.

        Raises:
            ScorerBusyError: Too many requests wait already.
        """
        # equal texts are encoded once, so that they get equal scores
        request = _Request(conversation, list(dict.fromkeys(texts)), list(texts))
        with self._lock:
            if len(self._waiting) + len(self._active) >= MAX_WAITING:
                raise ScorerBusyError(
                    f"{MAX_WAITING} requests are with the scorer already: send fewer at a time, "
                    "or spread them over several processes"
                )
            self._waiting.append(request)
        _shared.worker().submit(self._advance)
        return request.ranking

    def read_ahead(self, conversation: Conversation) -> ReadAhead:
        """Read an answer while it is written (see `SupportsReadAhead`)."""
        return _Draft(conversation, self._wake)

    def _wake(self, draft: _Draft) -> None:
        with self._lock:
            if draft in self._drafts or len(self._drafts) >= MAX_WAITING:
                return  # it will be read up to where it is then; or there is no time for it
            self._drafts.append(draft)
        _shared.worker().submit(self._advance)

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
            self._place = (str(source.path), llm.device, llm.dtype)
            want(self._place, self._layout.depths)
            self._loaded = llm, self._bundle.load_head()
        return self._loaded

    # ---- on the worker thread ----

    def _advance(self) -> None:
        """Make one forward pass for all requests at hand, and answer those that are done.

        It is submitted once for each request, and once more as long as some are left. A
        request that comes alone is in the next pass, those that come during a pass share the
        one after it.
        """
        self._admit()
        self._active = [r for r in self._active if not r.ranking.cancelled()]
        if not (self._active or self._ahead):
            return
        try:
            llm, head = self._parts()
            under_way = [r.encoding for r in self._active] + [*self._ahead.values()]
            if left := [encoding for encoding in under_way if not encoding.finished]:
                llm.step(left, self._layout, batch_tokens=llm.pass_tokens)
        except Exception as error:  # noqa: BLE001 (handed to all whose pass it was)
            for request in self._active:
                self._fail(request, error)
            self._active, self._ahead = [], {}
            return
        done = [r for r in self._active if r.encoding.finished]
        self._active = [r for r in self._active if not r.encoding.finished]
        self._ahead = {draft: e for draft, e in self._ahead.items() if not e.finished}
        for request in done:
            self._answer(request, head)
        if self._active or self._ahead:
            _shared.worker().submit(self._advance)

    def _admit(self) -> None:
        """Begin the requests and drafts that wait."""
        with self._lock:
            arrived, self._waiting = self._waiting, []
            drafts, self._drafts = self._drafts, []
        for request in arrived:
            try:
                llm, _ = self._parts()
                request.encoding = llm.begin(request.conversation, request.texts, self._layout)
                request.encoding.recall(partial(recall, self._place, self._layout.depths))
                self._active.append(request)
            except Exception as error:  # noqa: BLE001 (handed to the one who asked)
                self._fail(request, error)
        for draft in drafts:
            self._begin_ahead(draft)
        # what is scored now need not be read ahead
        for draft in list(self._ahead):
            if any(draft.conversation is request.conversation for request in arrived):
                del self._ahead[draft]

    def _begin_ahead(self, draft: _Draft) -> None:
        try:
            llm, _ = self._parts()
            encoding = llm.begin(
                draft.conversation,
                [draft.text] if draft.text else [],
                self._layout,
                ahead="done" if draft.done else "unfinished",
            )
        except Exception:  # noqa: BLE001 (it fails again where somebody waits for it)
            _log.debug("an answer could not be read ahead", exc_info=True)
        else:
            self._ahead[draft] = encoding

    def _answer(self, request: _Request, head: SRRHead) -> None:
        try:
            ranking = self._rank(request, head)
        except Exception as error:  # noqa: BLE001 (handed to the one who asked)
            self._fail(request, error)
        else:
            if request.ranking.set_running_or_notify_cancel():
                request.ranking.set_result(ranking)

    def _fail(self, request: _Request, error: Exception) -> None:
        if not request.ranking.set_running_or_notify_cancel():
            return
        if isinstance(error, SRRGuardError):
            request.ranking.set_exception(error)
            return
        failure = ScoringError(
            f"the scorer {self._bundle.info.name!r} failed on {len(request.texts)} candidates: "
            f"{error}"
        )
        failure.__cause__ = error
        request.ranking.set_exception(failure)

    def _rank(self, request: _Request, head: SRRHead) -> Ranking:
        from srr_guard.scorer.inference import judge, list_scores

        features = request.encoding.features()
        n = len(request.texts)
        judged = judge(
            head,
            windows={"mean": features.mean, "last": features.last},
            prompt={
                "instruction": features.instruction.expand(n, -1, -1),
                "request": features.request.expand(n, -1, -1),
            },
            owner=features.owner,
        )
        at = [request.texts.index(text) for text in request.wanted]
        try:
            return Ranking.from_scores(
                scores=list_scores(head, judged)[at].tolist(),
                p_safe=judged.p_safe[at].tolist(),
                p_help=judged.probes.p_help[at].tolist() if head.config.graded else None,
            )
        except ValueError as error:
            raise ScoringError(f"the scorer gave numbers that must not be used: {error}") from error


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
