"""The scoring engine: requests that wait together share forward passes on the host's thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from srr_guard.conversation import Conversation
from srr_guard.decision import PromptAssessment, Ranking
from srr_guard.errors import ConfigurationError, ScorerBusyError, ScoringError, SRRGuardError
from srr_guard.protocols import ReadAhead
from srr_guard.reference.encoding.request import EncodingRequest
from srr_guard.reference.host import host
from srr_guard.reference.spec import ModelSpec
from srr_guard.scorer.bundle import ScorerBundle

if TYPE_CHECKING:
    from srr_guard.reference import ReferenceLLM
    from srr_guard.scorer.explanation import Explanation
    from srr_guard.scorer.head import SRRHead
    from srr_guard.scorer.running import EarlyCut


_log = logging.getLogger("srr_guard")

MAX_WAITING = 1024
"""Most requests of one engine, waiting or under way; further ones are turned away."""

READ_AHEAD_CHARACTERS = 32
"""Least text of a streamed answer that is pre-encoded at a time."""


@dataclass(eq=False)
class ScoringRequest:
    """One request: its distinct texts, all texts in the order given, its future.

    Without texts the prompt alone is assessed.
    """

    conversation: Conversation
    texts: list[str] = field(default_factory=list)
    wanted: list[str] = field(default_factory=list)
    result: Future[Any] = field(default_factory=Future)
    encoding: EncodingRequest = field(init=False)


class PartialAnswer:
    """A partial answer to pre-encode; call it with the text received so far."""

    def __init__(self, conversation: Conversation, wake: Callable[[PartialAnswer], None]) -> None:
        self.conversation = conversation
        self.text = ""
        self.done = False
        self._wake = wake
        self._wake(self)  # the prompt can be encoded already

    def __call__(self, text: str, *, done: bool = False) -> None:
        """Take the text so far; pre-encode it once enough has come. Does not block."""
        if done or len(text) >= len(self.text) + READ_AHEAD_CHARACTERS:
            self.text, self.done = text, done
            self._wake(self)


class ScoringEngine:
    """One bundle and its reference LLM, used on the host's thread only.

    Requests that wait at the same time share forward passes (micro-batches) of a limited
    number of tokens; see `shares` for who gets what. A caller that gives up does not stop the
    pass under way, so two forward passes never overlap.

    Args:
        bundle: The trained head and what it reads.
        model: The reference LLM.

    Attributes:
        spec: Which states are read of a request.
    """

    def __init__(self, bundle: ScorerBundle, model: ModelSpec) -> None:
        self._bundle = bundle
        self._model = model
        self.spec = bundle.info.features
        self._fitting: ReferenceLLM | None = None
        self._head: SRRHead | None = None
        self._lock = threading.Lock()
        self._scheduled = False
        self._waiting: list[ScoringRequest] = []
        self._partial: list[PartialAnswer] = []  # that have something to read
        # changed on the host's thread only
        self._active: list[ScoringRequest] = []
        self._ahead: dict[PartialAnswer, EncodingRequest] = {}

    @property
    def waiting(self) -> int:
        """Requests that no pass has taken up yet."""
        return len(self._waiting)

    def load(self) -> Future[None]:
        """Load the weights, if they are not loaded yet."""
        return host.submit(self._load)

    def rank(self, conversation: Conversation, texts: Sequence[str]) -> Future[Ranking]:
        """Rank valid, non-empty lists of texts.

        Raises:
            ScorerBusyError: Too many requests wait already.
        """
        # equal texts are encoded once, so that they get equal scores
        request = ScoringRequest(conversation, list(dict.fromkeys(texts)), list(texts))
        return self._enqueue(request)

    def assess(self, conversation: Conversation) -> Future[PromptAssessment]:
        """Assess a prompt. Its states are kept for the scores of its answers.

        Raises:
            ConfigurationError: The bundle has no request probe.
            ScorerBusyError: Too many requests wait already.
        """
        if not self._bundle.info.head.graded:
            raise ConfigurationError(
                f"the scorer {self._bundle.info.name!r} has no request probe, so it cannot be a "
                "prompt gate: take a graded bundle (the default one is), or give another `gate=`"
            )
        return self._enqueue(ScoringRequest(conversation))

    def _enqueue(self, request: ScoringRequest) -> Future[Any]:
        with self._lock:
            if len(self._waiting) + len(self._active) >= MAX_WAITING:
                raise ScorerBusyError(
                    f"{MAX_WAITING} requests are with the scorer already: send fewer at a time, "
                    "or spread them over several processes"
                )
            self._waiting.append(request)
            self._schedule()
        return request.result

    def read_ahead(self, conversation: Conversation) -> ReadAhead:
        """Start pre-encoding one streamed answer. Does not block."""
        return PartialAnswer(conversation, self._wake)

    def early_cut(self, below: float) -> EarlyCut:
        """A floor for answers that the reference LLM itself writes; loads the weights."""
        from srr_guard.scorer.running import EarlyCut

        def make() -> EarlyCut:
            self._load()
            key = host.key(self._model)
            return EarlyCut(below, key, self.spec.depths, self.spec.window, self._loaded_head())

        return host.submit(make).result()

    def explain(self, conversation: Conversation, text: str) -> Future[Explanation]:
        """Take the score of one answer apart (see `explain`)."""
        from srr_guard.scorer.explanation import explain

        def work() -> Explanation:
            return explain(self.encoder(), self._loaded_head(), self.spec, conversation, text)

        return host.submit(work)

    def encoder(self) -> ReferenceLLM:
        """The reference LLM, checked against the bundle; on the host's thread only.

        Raises:
            ReferenceModelError: It cannot be found or loaded.
            IncompatibleScorerError: It is not the one the bundle was trained for.
        """
        llm = host.encoder(self._model, depth=max(self.spec.depths))
        if llm is not self._fitting:
            self._bundle.check_fits(llm)
            host.states.subscribe(host.key(self._model), self.spec.depths)
            self._fitting = llm
        return llm

    def _load(self) -> None:
        self.encoder()
        self._loaded_head()

    def _loaded_head(self) -> SRRHead:
        if self._head is None:
            self._head = self._bundle.load_head()
        return self._head

    def _wake(self, answer: PartialAnswer) -> None:
        with self._lock:
            if answer in self._partial or len(self._partial) >= MAX_WAITING:
                return  # it will be read up to where it is then; or there is no time for it
            self._partial.append(answer)
            self._schedule()

    def _schedule(self) -> None:
        """Have the host make one more pass; called with the lock held."""
        if not self._scheduled:
            self._scheduled = True
            host.submit(self._advance)

    # ---- on the host's thread ----

    def _advance(self) -> None:
        """Make one forward pass for all requests at hand, and answer those that are done.

        A request that comes alone is in the next pass; those that come during a pass share the
        one after it.
        """
        self._admit()
        self._active = [r for r in self._active if not r.result.cancelled()]
        if not (self._active or self._ahead):
            return
        try:
            llm, head = self.encoder(), self._loaded_head()
            under_way = [r.encoding for r in self._active] + [*self._ahead.values()]
            if left := [encoding for encoding in under_way if not encoding.finished]:
                llm.step(left, self.spec, batch_tokens=llm.pass_tokens)
        except Exception as error:  # noqa: BLE001 (handed to all whose pass it was)
            for request in self._active:
                self._fail(request, error)
            self._active, self._ahead = [], {}
            return
        done = [r for r in self._active if r.encoding.finished]
        self._active = [r for r in self._active if not r.encoding.finished]
        self._ahead = {answer: e for answer, e in self._ahead.items() if not e.finished}
        for request in done:
            self._answer(request, head)
        if self._active or self._ahead:
            with self._lock:
                self._schedule()

    def _admit(self) -> None:
        """Begin the requests and partial answers that wait."""
        with self._lock:
            self._scheduled = False
            arrived, self._waiting = self._waiting, []
            partial_answers, self._partial = self._partial, []
        for request in arrived:
            try:
                llm = self.encoder()
                request.encoding = llm.begin(request.conversation, request.texts, self.spec)
                key, depths = host.key(self._model), self.spec.depths
                request.encoding.recall(partial(host.states.lookup, key, depths))
                self._active.append(request)
            except Exception as error:  # noqa: BLE001 (handed to the caller)
                self._fail(request, error)
        for answer in partial_answers:
            self._begin_ahead(answer)
        # what is scored now need not be read ahead
        for answer in list(self._ahead):
            if any(answer.conversation is request.conversation for request in arrived):
                del self._ahead[answer]

    def _begin_ahead(self, answer: PartialAnswer) -> None:
        try:
            encoding = self.encoder().begin(
                answer.conversation,
                [answer.text] if answer.text else [],
                self.spec,
                ahead="done" if answer.done else "unfinished",
            )
        except Exception:  # noqa: BLE001 (it fails again where somebody waits for it)
            _log.debug("an answer could not be pre-encoded", exc_info=True)
        else:
            self._ahead[answer] = encoding

    def _answer(self, request: ScoringRequest, head: SRRHead) -> None:
        try:
            result = self._rank(request, head) if request.texts else self._assess(request, head)
        except Exception as error:  # noqa: BLE001 (handed to the caller)
            self._fail(request, error)
        else:
            if request.result.set_running_or_notify_cancel():
                request.result.set_result(result)

    def _fail(self, request: ScoringRequest, error: Exception) -> None:
        if not request.result.set_running_or_notify_cancel():
            return
        if isinstance(error, SRRGuardError):
            request.result.set_exception(error)
            return
        failure = ScoringError(
            f"the scorer {self._bundle.info.name!r} failed on {len(request.texts)} candidates: "
            f"{error}"
        )
        failure.__cause__ = error
        request.result.set_exception(failure)

    def _assess(self, request: ScoringRequest, head: SRRHead) -> PromptAssessment:
        from srr_guard.scorer.inference import assess_prompt

        prefix = request.encoding.prefix
        assert prefix.instruction is not None
        assert prefix.request is not None
        try:
            return assess_prompt(head, instruction=prefix.instruction, request=prefix.request)
        except ValueError as error:
            raise ScoringError(f"the gate gave numbers that must not be used: {error}") from error

    def _rank(self, request: ScoringRequest, head: SRRHead) -> Ranking:
        from srr_guard.scorer.inference import judge, list_scores, request_familiarity

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
        probes, graded = judged.probes, head.config.graded
        try:
            ranking = Ranking.from_scores(
                scores=list_scores(head, judged).tolist(),
                p_safe=judged.p_safe.tolist(),
                p_help=probes.p_help.tolist() if graded else None,
                p_refusal=probes.p_refusal.tolist() if graded else None,
                bounds=self._bundle.info.bounds,
                familiarity=request_familiarity(head, features),
            )
        except ValueError as error:
            raise ScoringError(f"the scorer gave numbers that must not be used: {error}") from error
        return ranking.take([request.texts.index(text) for text in request.wanted])


def shared_engine(bundle: ScorerBundle, spec: ModelSpec) -> ScoringEngine:
    """The process's engine for a bundle and a reference LLM."""
    key = ("scoring", bundle.folder.resolve(), spec)
    return host.shared(key, lambda: ScoringEngine(bundle, spec))
