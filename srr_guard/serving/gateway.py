"""The state of one gateway: what is configured now, what is counted, whether it is ready."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

from srr_guard.audit import AuditLog
from srr_guard.conversation import Conversation
from srr_guard.decision import Decision, Ranking
from srr_guard.errors import (
    ConfigurationError,
    InvalidInputError,
    ScorerBusyError,
    ScoringError,
    SRRGuardError,
)
from srr_guard.observability import Telemetry, each_of
from srr_guard.protocols import (
    PromptGate,
    ReadAhead,
    ResponseScorer,
    SupportsEarlyCut,
    SupportsReadAhead,
)
from srr_guard.scorer import RemoteScorer, SRRScorer
from srr_guard.serving.backends import Backend, UpstreamBackend
from srr_guard.serving.config import GatewayConfig, ScorerConfig
from srr_guard.serving.keys import Keys
from srr_guard.serving.local_backend import LocalBackend
from srr_guard.serving.metrics import Metrics
from srr_guard.serving.note import current_note, note_of_request
from srr_guard.serving.policies import ActivePolicy, PolicyBook
from srr_guard.serving.problems import HttpError
from srr_guard.serving.upstreams import Upstreams

logger = logging.getLogger("srr_guard.serving")

_RELOADED = ("policies", "keys", "limits")
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_PROBE_EVERY = 0.5  # shorter than any rest, so that none is missed
_PROBE = ("Is this server ready?", ["Yes, it is."])


@dataclass(frozen=True)
class _Live:
    """What a reload replaces, all at once."""

    config: GatewayConfig
    keys: Keys
    policies: PolicyBook


class Gateway:
    """One gateway.

    Args:
        config: Its settings.
        scorer: Ranks the answers; None: the one of the settings.
        on_decision: Told of each decision, beside metrics, audit log and telemetry.
        inside: Gives the requests being served now.
        model: Stands in for the local model in tests.

    Attributes:
        scorer: Ranks the answers.
        metrics: Counts what happens.
        backend: Answers; None where the gateway only scores.
    """

    def __init__(
        self,
        config: GatewayConfig,
        *,
        scorer: ResponseScorer | None = None,
        on_decision: Callable[[Decision], object] | None = None,
        inside: Callable[[], int],
        model: Any = None,
    ) -> None:
        self._inner = scorer or scorer_of(config.scorer)
        self.metrics = Metrics(inside=inside, waiting=self._waiting)
        self.scorer = _Measured(self._inner, self.metrics)
        hooks: list[Callable[[Decision], object]] = [_note_decision, self.metrics.decided]
        if config.audit is not None:
            hooks.append(AuditLog(config.audit))
        if config.telemetry:
            hooks.append(Telemetry())
        if on_decision is not None:
            hooks.append(on_decision)
        self._hook = each_of(*hooks)
        self._live = self._made(config)
        self.backend: Backend | None = None
        if config.local is not None:
            self.backend = LocalBackend(config.local, model)
        elif config.upstreams:
            self.backend = UpstreamBackend(
                Upstreams(
                    config.upstreams,
                    answer_bytes=config.limits.answer_bytes,
                    observe=self.metrics.called,
                )
            )
        self._ready = self._lost = False
        self._why = "no score has been made yet"

    @property
    def config(self) -> GatewayConfig:
        """The settings that hold now."""
        return self._live.config

    @property
    def keys(self) -> Keys:
        """The keys that hold now."""
        return self._live.keys

    @property
    def explains(self) -> Any:
        """The scorer, if it can take a score apart; None otherwise."""
        return self._inner if hasattr(self._inner, "explain") else None

    @property
    def not_ready(self) -> str | None:
        """Why requests should go elsewhere; None when they may come."""
        if not self._ready:
            return self._why
        return "no scorer answers" if self._lost or not self._reachable else None

    def policy(self, asked: Any, *, checking: bool = False) -> ActivePolicy:
        """The policy of the request that is being served, which its note then names.

        Args:
            asked: The request's `srr_guard` object.
            checking: Answers are checked, none are made.

        Raises:
            InvalidInputError: It asks for what does not exist or is not allowed.
        """
        note = current_note()
        found = self._live.policies.select(note.key, asked, checking=checking)
        note.policy = found.name
        return found

    def answering(self) -> Backend:
        """What answers.

        Raises:
            HttpError: Nothing does, or no scorer could score the answers.
        """
        if self.backend is None:
            raise HttpError(404, "this server only scores: it has no upstream", code="no_upstream")
        if self._lost or not self._reachable:
            raise HttpError(
                503, "no scorer answers at the moment", code="scorer_unavailable", retry_after=1.0
            )
        return self.backend

    def reload(self, config: GatewayConfig) -> None:
        """Take over policies, keys and limits; requests under way keep theirs.

        Raises:
            ConfigurationError: A policy makes no sense here, or no key is left.
        """
        before = self._live.config
        if before.keys and not config.keys:  # as in a file that is only half written
            raise ConfigurationError(
                "keys: none is left, and everyone would be served: restart for that"
            )
        others = [n for n in type(before).model_fields if n not in _RELOADED]
        kept = {name: getattr(before, name) for name in others}
        if changed := [n for n in others if getattr(config, n) != getattr(before, n)]:
            logger.warning("%s changed: restart for that", ", ".join(changed))
        self._live = self._made(config.model_copy(update=kept))
        self.metrics.reloaded("ok")
        logger.info("policies, keys and limits were read again")

    def keep(self, error: Exception) -> None:
        """Go on with the settings that hold, because the new ones make no sense."""
        self.metrics.reloaded("refused")
        said = error if isinstance(error, SRRGuardError) else type(error).__name__
        logger.error("the settings were not read again: %s", said)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The time in which requests come."""
        async with AsyncExitStack() as stack:
            if self.backend is not None:
                await stack.enter_async_context(self.backend.opened())
            probing = asyncio.create_task(self._probe())
            try:
                yield
            finally:
                self._ready, self._why = False, "the server stops"
                self.metrics.is_ready(False)
                probing.cancel()
                with suppress(asyncio.CancelledError):
                    await probing
                if isinstance(self._inner, RemoteScorer):
                    self._inner.close()

    async def _probe(self) -> None:
        """Make a score until there is one; later, where it is doubtful that one can be made."""
        await self._warm_up()
        while True:
            await asyncio.sleep(_PROBE_EVERY)
            if not (self._lost or self.scorer.doubtful) and self._reachable:
                continue
            self.scorer.doubtful = False
            try:
                await self._inner.ascore(*_PROBE)
            except Exception as error:  # noqa: BLE001 (whatever it is, it is not ready)
                self._now_lost(True, type(error).__name__)
            else:
                self._now_lost(False)

    def _now_lost(self, lost: bool, why: str = "") -> None:
        if lost and not self._lost:
            logger.warning("no scorer answers (%s)", why)
        elif self._lost and not lost:
            logger.info("a scorer answers again")
        self._lost = lost
        self.metrics.is_ready(not lost)

    async def _warm_up(self) -> None:
        """Make a score; again and again until there is one."""
        wait = _FIRST_WAIT
        while True:
            try:
                await self._inner.ascore(*_PROBE)
            except Exception as error:  # noqa: BLE001 (whatever it is, it is not ready)
                self._why = f"no score could be made ({type(error).__name__})"
                text = str(error) if isinstance(error, SRRGuardError) else ""
                logger.warning("%s: %s", self._why, text)
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
            else:
                self._ready = True
                self.metrics.is_ready(True)
                logger.info("ready: a score has been made")
                return

    def _made(self, config: GatewayConfig) -> _Live:
        book = PolicyBook(
            config,
            scorer=self.scorer,
            gate=self._inner if isinstance(self._inner, PromptGate) else None,
            follows_rows=isinstance(self._inner, SupportsEarlyCut),
            on_decision=self._hook,
        )
        return _Live(config, Keys(config.keys), book)

    @property
    def _reachable(self) -> bool:
        """False while all remote scorers are left alone."""
        return not isinstance(self._inner, RemoteScorer) or self._inner.available

    def _waiting(self) -> int | None:
        if not self._ready or not isinstance(self._inner, SRRScorer):
            return None
        return self._inner.engine.waiting


def scorer_of(config: ScorerConfig) -> ResponseScorer:
    """The scorer of the settings; nothing is loaded yet.

    Raises:
        BundleNotFoundError: There is no such bundle.
    """
    if config.urls:
        return RemoteScorer(config.urls, key=config.secret(), timeout=config.timeout)
    return SRRScorer.from_pretrained(
        config.name, reference=config.reference, device=config.device, dtype=config.dtype
    )


class _Measured:
    """A scorer whose work is counted (see `ResponseScorer`).

    Attributes:
        doubtful: It failed since this was set to False, and not for what it was asked.
    """

    def __init__(self, scorer: ResponseScorer, metrics: Metrics) -> None:
        self.doubtful = False
        self._scorer = scorer
        self._metrics = metrics

    def score(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        return self._scorer.score(conversation, candidates)

    def read_ahead(self, conversation: Conversation) -> ReadAhead:
        """Pre-encode an answer where the scorer can; elsewhere its beginnings are only scored."""
        if isinstance(self._scorer, SupportsReadAhead):
            return self._scorer.read_ahead(conversation)
        return _not_ahead

    def early_cut(self, below: float) -> Any:
        """A floor for the local model; the book of policies has seen that the scorer has one."""
        return cast("SupportsEarlyCut", self._scorer).early_cut(below)

    async def ascore(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        started = time.perf_counter()
        try:
            return await self._scorer.ascore(conversation, candidates)
        except (InvalidInputError, ScorerBusyError):
            raise
        except Exception as error:
            self.doubtful = True
            if isinstance(error, SRRGuardError):
                raise
            raise ScoringError(f"scoring failed with {type(error).__name__}") from error
        finally:
            seconds = time.perf_counter() - started
            self._metrics.scored(len(candidates), sum(map(len, candidates)), seconds)


def _not_ahead(text: str, *, done: bool = False) -> None:
    """Pre-encode nothing."""


def _note_decision(decision: Decision) -> None:
    if (note := note_of_request.get()) is not None:
        note.decision = decision
