"""`Guard`: samples, scores, decides. Every wrapper and adapter is a thin shell on it."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from srr_guard.conversation import Conversation
from srr_guard.core.arguments import HOOK, in_full, refuse, require_fitting
from srr_guard.core.best_of_n import BestOfN
from srr_guard.core.calls import (
    AsyncCandidateCalls,
    CandidateCalls,
    FunctionSource,
    require_no_plan,
    require_plain,
)
from srr_guard.core.conclusion import Ended, conclude
from srr_guard.core.cutting import StreamWatch
from srr_guard.core.delivery import MessageDelivery
from srr_guard.core.in_flight import CallLimit
from srr_guard.core.observing import observes
from srr_guard.core.outcomes import Read, read_candidate
from srr_guard.core.scoring import TimedScorer
from srr_guard.decision import Decision, PromptAssessment, Totals
from srr_guard.errors import (
    ConfigurationError,
    InvalidInputError,
)
from srr_guard.gates.rulings import GateRuling, rule
from srr_guard.policy import DecisionPolicy, GatePolicy, SamplingPolicy, recipes_of
from srr_guard.protocols import (
    AnswerWatch,
    CandidateSource,
    Delivery,
    PlannedSource,
    PromptGate,
    ReadAhead,
    RefusesUnasked,
    ResponseScorer,
)
from srr_guard.recipes import Stepwise
from srr_guard.threads import require_asyncio, workers

T = TypeVar("T")


class Guard:
    """Passes on the best safe one of several answers; the product without a model.

    Wrappers and adapters share one guard where they are given the same (`guard=`), and with
    it the scorer and the totals. Safe to share between threads and tasks.

    Args:
        scorer: Ranks the candidates; None: the shipped scorer, loaded on first use.
        sampling: How candidates are sampled.
        decision: What may be passed on.
        gating: What is decided from the prompt alone, before there are candidates; None: nothing,
            unless there is a `gate`.
        gate: Assesses prompts; None: the scorer does, where there is a `gating` policy.
        on_decision: Called with each Decision before it takes effect, also with those that end
            in an error; what it raises reaches the caller. Under async callers it runs on the
            event loop, so it must be quick, or a coroutine function, which is awaited. Under
            sync callers a coroutine runs to its end in an event loop of its own.
        n: Short for `sampling=SamplingPolicy(n=...)`.
        threshold: Short for `decision=DecisionPolicy(threshold=...)`.

    Raises:
        ConfigurationError: An argument is of the wrong kind, or stands beside its short form.

    Example:
        >>> from srr_guard.testing import FakeScorer
        >>> scorer = FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1)
        >>> guard = Guard(scorer=scorer, n=2)
        >>> guard.choose("a question", ["a bad answer", "a good answer"]).output
        'a good answer'
        >>> guard.check("a question", "a bad answer").passed
        False
        >>> guard.decide("a question", lambda index: f"good answer {index}").output
        'good answer 0'
        >>> guard.totals.requests
        3
    """

    def __init__(
        self,
        *,
        scorer: ResponseScorer | None = None,
        sampling: SamplingPolicy | None = None,
        decision: DecisionPolicy | None = None,
        gating: GatePolicy | None = None,
        gate: PromptGate | None = None,
        on_decision: Callable[[Decision], object] | None = None,
        n: int | None = None,
        threshold: float | None = None,
    ) -> None:
        sampling = in_full(SamplingPolicy, "sampling", sampling, n=n)
        decision = in_full(DecisionPolicy, "decision", decision, threshold=threshold)
        if gate is not None and gating is None:
            gating = GatePolicy()
        require_fitting(
            scorer=scorer,
            sampling=sampling,
            decision=decision,
            gating=gating,
            gate=gate,
            on_decision=on_decision,
        )
        self._scorer = scorer
        self._gate = gate
        self._gating = gating
        self._has_plan = sampling.plan is not None or (
            gating is not None and gating.plan is not None
        )
        self._sampling = sampling
        self._policy = decision
        self._on_decision = on_decision
        self._limit = CallLimit(sampling.max_in_flight)
        self._scoring = TimedScorer(scorer, timeout=decision.scoring_timeout, gate=gate)
        self._counting = threading.Lock()
        self._totals = Totals()

    @property
    def scorer(self) -> ResponseScorer | None:
        """The scorer given; None stands for the shipped one."""
        return self._scorer

    @property
    def sampling(self) -> SamplingPolicy:
        """The sampling policy."""
        return self._sampling

    @property
    def decision(self) -> DecisionPolicy:
        """The decision policy."""
        return self._policy

    @property
    def gating(self) -> GatePolicy | None:
        """The gate's policy; None: there is no gate."""
        return self._gating

    @property
    def gate(self) -> PromptGate | None:
        """The prompt gate given; None stands for the scorer, or for no gate."""
        return self._gate

    @property
    def on_decision(self) -> Callable[[Decision], object] | None:
        """Called with each Decision."""
        return self._on_decision

    @property
    def totals(self) -> Totals:
        """Requests, candidates, bypasses, refusals by the gate and observed requests so far."""
        return self._totals

    @property
    def bypasses(self) -> int:
        """Answers passed on unscored or below the threshold so far, and `count_bypass` calls."""
        return self._totals.bypasses

    # ---- the verbs ----

    def decide(
        self,
        conversation: Any,
        call: Callable[[int], T] | CandidateSource[T],
        *,
        delivery: Delivery[T] | None = None,
    ) -> Decision[T]:
        """Sample candidates, score them, decide.

        Args:
            conversation: What was asked: anything that `Conversation.of` reads.
            call: Makes one candidate from its index, once per candidate and attempt, on a
                thread with a copy of the caller's context variables; or a `CandidateSource`.
            delivery: The form of the outputs; default: messages, text and objects.

        Raises:
            InvalidInputError: The conversation cannot be read.
            SamplingError: Too few candidates came back, or none may be passed on.
            ScorerError: The candidates could not be scored and the policy says to raise.
            ConfigurationError: The sampling policy has settings that `call` cannot take.
        """
        asked, source = Conversation.of(conversation), self._as_source(call)
        form = delivery or MessageDelivery()
        state = self._begun(asked, source)
        if state.gate_pending and _is_local(source):
            self._gate_into(state, asked, form)
        options = partial(self._call_options, form, state)
        while (indices := state.next_round()) is not None:
            made_by = _following(source, state)
            with CandidateCalls(made_by, self._sampling, indices, **options()) as calls:
                if state.gate_pending:  # while the first candidate is on its way
                    self._gate_into(state, asked, form)
                    calls.start(_following(source, state), state.rest_of_round())
                while state.waiting:
                    state.receive(calls.wait(for_all=not state.eager))
                    self._score_into(state, asked)
        return self._tell(self._conclude(state, form))

    async def adecide(
        self,
        conversation: Any,
        call: Callable[[int], Awaitable[T]] | CandidateSource[T],
        *,
        delivery: Delivery[T] | None = None,
    ) -> Decision[T]:
        """Like `decide`, without blocking the event loop; `call` is async, each call a task.

        Raises:
            ConfigurationError: The loop is not asyncio's.
        """
        require_asyncio()
        asked, source = Conversation.of(conversation), self._as_source(call)
        form = delivery or MessageDelivery()
        state = self._begun(asked, source)
        if state.gate_pending and _is_local(source):
            await self._agate_into(state, asked, form)
        options = partial(self._call_options, form, state)
        while (indices := state.next_round()) is not None:
            made_by = _following(source, state)
            async with AsyncCandidateCalls(made_by, self._sampling, indices, **options()) as calls:
                if state.gate_pending:  # while the first candidate is on its way
                    await self._agate_into(state, asked, form)
                    calls.start(_following(source, state), state.rest_of_round())
                while state.waiting:
                    state.receive(await calls.wait(for_all=not state.eager))
                    await self._ascore_into(state, asked)
        return await self._atell(self._conclude(state, form))

    def choose(
        self, prompt: Any, candidates: Sequence[T], *, delivery: Delivery[T] | None = None
    ) -> Decision[T]:
        """Rank answers you already have and decide which one may be passed on.

        The decision policy and the gate apply as in `decide`; of the sampling policy, nothing
        does. Blank answers count as failed.

        Args:
            prompt: What was asked: anything that `Conversation.of` reads.
            candidates: At least one answer: str, messages, objects.
            delivery: The form of the answers; default: messages, text and objects.

        Raises:
            InvalidInputError: The prompt cannot be read, or there are no candidates.
            SamplingError: All answers are blank, or none may be passed on.
            ScorerError: They could not be scored and the policy says to raise.
        """
        asked, form = Conversation.of(prompt), delivery or MessageDelivery()
        state = self._given_answers(asked, candidates, form)
        if state.gate_pending:
            self._gate_into(state, asked, form)
        self._score_into(state, asked)
        return self._tell(self._conclude(state, form))

    async def achoose(
        self, prompt: Any, candidates: Sequence[T], *, delivery: Delivery[T] | None = None
    ) -> Decision[T]:
        """Like `choose`, without blocking the event loop.

        Raises:
            ConfigurationError: The loop is not asyncio's.
        """
        require_asyncio()
        asked, form = Conversation.of(prompt), delivery or MessageDelivery()
        state = self._given_answers(asked, candidates, form)
        if state.gate_pending:
            await self._agate_into(state, asked, form)
        await self._ascore_into(state, asked)
        return await self._atell(self._conclude(state, form))

    def check(self, prompt: Any, answer: T, *, delivery: Delivery[T] | None = None) -> Decision[T]:
        """Decide whether one answer may be passed on; see `Decision.passed` and `choose`."""
        return self.choose(prompt, [answer], delivery=delivery)

    async def acheck(
        self, prompt: Any, answer: T, *, delivery: Delivery[T] | None = None
    ) -> Decision[T]:
        """Like `check`, without blocking the event loop."""
        return await self.achoose(prompt, [answer], delivery=delivery)

    def read_ahead(self, conversation: Conversation) -> ReadAhead:
        """Start pre-encoding one streamed answer, for sources that stream.

        Loads the shipped scorer if need be, which blocks.
        """
        return self._scoring.read_ahead(conversation)

    def watch(self, conversation: Conversation, *, trace: bool = False) -> AnswerWatch:
        """Follow one streamed answer, for sources that stream: read ahead, and cut it off.

        Loads the shipped scorer if need be, which blocks.

        Args:
            conversation: What was asked.
            trace: Its reasoning is followed, not the answer itself.
        """
        below = self._sampling.cut_below
        if observes(self._policy, conversation) or (trace and self._policy.reasoning == "answer"):
            below = None
        return StreamWatch(
            self.read_ahead(conversation),
            below,
            lambda text: self._scoring.score(conversation, [text]),
            lambda text: self._scoring.ascore(conversation, [text]),
        )

    def early_cut(self, conversation: Conversation) -> Any | None:
        """Make a floor for answers that a local model writes; None: none is cut off.

        Loads the shipped scorer if need be, which blocks.

        Args:
            conversation: What was asked.
        """
        below = self._sampling.cut_below
        apart = self._policy.reasoning == "answer"  # reasoning may be as it likes
        if below is None or apart or observes(self._policy, conversation):
            below = 0.0
        searched = any(isinstance(r, Stepwise) for r in recipes_of(self._sampling, self._gating))
        return self._scoring.early_cut(below) if below or searched else None

    def count_bypass(self) -> Totals:
        """Add a bypass to the totals, for a door that is told to let something pass unscored.

        Returns:
            The totals with it.
        """
        return self._add(bypasses=1)

    def __reduce__(self) -> Any:
        """Copy and pickle the settings; a copy counts from 0 and loads its own scorer."""
        names = ("scorer", "sampling", "decision", "gating", "gate", "on_decision")
        return _rebuild, ({name: getattr(self, name) for name in names},)

    def __repr__(self) -> str:
        return f"Guard(n={self._sampling.n}, threshold={self._policy.threshold})"

    # ---- candidates ----

    def _as_source(self, call: Any) -> CandidateSource[Any]:
        if hasattr(call, "sample") and hasattr(call, "batches"):
            if self._has_plan and not isinstance(call, PlannedSource):
                require_no_plan(self._sampling, self._gating)
            return cast("CandidateSource[Any]", call)
        if not callable(call):
            raise ConfigurationError(
                f"call={call!r} makes no candidates: give a function of their index"
            )
        require_plain(self._sampling, self._gating)
        return FunctionSource(call)

    def _call_options(self, form: Delivery[Any], state: BestOfN) -> dict[str, Any]:
        return {"read": self._reader(form), "limit": self._limit, "deadline": state.left()}

    def _reader(self, form: Delivery[Any]) -> Read:
        return partial(read_candidate, delivery=form, refusal=self._policy.refusal)

    def _begun(self, asked: Conversation, source: CandidateSource[Any]) -> BestOfN:
        return BestOfN(
            self._sampling,
            self._policy,
            observing=observes(self._policy, asked),
            gated=self._gating is not None,
            skipped=source.skipped if isinstance(source, PlannedSource) else (),
        )

    def _given_answers(self, asked: Conversation, candidates: Any, form: Delivery[Any]) -> BestOfN:
        if isinstance(candidates, (str, bytes)) or not isinstance(candidates, Sequence):
            raise InvalidInputError(
                f"candidates must be a list of answers, got {type(candidates).__name__!r}"
            )
        if not candidates:
            raise InvalidInputError("there are no candidates to rank: give at least one")
        plain = {"n": len(candidates), "accept_at": None, "min_candidates": 1, "deadline": None}
        state = BestOfN(
            self._sampling.model_copy(update=plain),
            self._policy,
            observing=observes(self._policy, asked),
            gated=self._gating is not None,
        )
        state.given(len(candidates))
        read = self._reader(form)
        state.receive({i: read(i, candidate) for i, candidate in enumerate(candidates)})
        return state

    # ---- the gate ----

    def _gate_into(self, state: BestOfN, asked: Conversation, form: Delivery[Any]) -> None:
        known = _form_is_known(form, self._policy.refusal)
        with state.assessing(form_known=known):
            state.ruled(self._ruling(state, self._scoring.assess(asked)), form_known=known)

    async def _agate_into(self, state: BestOfN, asked: Conversation, form: Delivery[Any]) -> None:
        known = _form_is_known(form, self._policy.refusal)
        with state.assessing(form_known=known):
            assessment = await self._scoring.aassess(asked)
            state.ruled(self._ruling(state, assessment), form_known=known)

    def _ruling(self, state: BestOfN, assessment: PromptAssessment) -> GateRuling:
        assert self._gating is not None
        return rule(assessment, self._gating, state.sampling, self._policy)

    # ---- scoring ----

    def _score_into(self, state: BestOfN, conversation: Conversation) -> None:
        if state.unscored:
            with state.scoring():
                texts = state.texts
                state.take(self._scoring.score(conversation, texts) if texts else None)

    async def _ascore_into(self, state: BestOfN, conversation: Conversation) -> None:
        if state.unscored:
            with state.scoring():
                texts = state.texts
                state.take(await self._scoring.ascore(conversation, texts) if texts else None)

    # ---- deciding ----

    def _conclude(self, state: BestOfN, form: Delivery[T]) -> Ended[T]:
        return conclude(state, form, count=self._add)

    def _tell(self, ended: Ended[T]) -> Decision[T]:
        decision, error = ended
        told = self._told(decision)
        if inspect.isawaitable(told):
            workers.submit(asyncio.run, _finish(told)).result()
        if error is not None:
            raise error
        return decision

    async def _atell(self, ended: Ended[T]) -> Decision[T]:
        decision, error = ended
        told = self._told(decision)
        if inspect.isawaitable(told):
            await told
        if error is not None:
            raise error
        return decision

    def _told(self, decision: Decision[Any]) -> object:
        told = self._on_decision(decision) if self._on_decision else None
        if inspect.isgenerator(told) or inspect.isasyncgen(told):  # it has not run at all
            refuse("on_decision", self._on_decision, HOOK)
        return told

    def _add(self, **counts: int) -> Totals:
        """Add to the totals, by the names that `Totals` has for its counts, and return them."""
        with self._counting:
            before = self._totals
            more = {name: getattr(before, name) + count for name, count in counts.items()}
            self._totals = before.model_copy(update=more)
            return self._totals


def _is_local(source: CandidateSource[Any]) -> bool:
    return isinstance(source, PlannedSource) and source.local


def _following(source: CandidateSource[Any], state: BestOfN) -> CandidateSource[Any]:
    """The source that follows the plan which the gate has left."""
    if not state.by_plan or not isinstance(source, PlannedSource):
        return source
    by_gate = source.by_gate()
    if isinstance(by_gate, PlannedSource):
        state.skipped = tuple(dict.fromkeys((*state.skipped, *by_gate.skipped)))
    return by_gate


def _form_is_known(form: Delivery[Any], refusal: str) -> bool:
    return isinstance(form, RefusesUnasked) and form.refusal_unasked(refusal) is not None


async def _finish(told: Awaitable[object]) -> None:
    await told


def _rebuild(settings: dict[str, Any]) -> Guard:
    return Guard(**settings)
