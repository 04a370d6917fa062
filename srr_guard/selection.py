"""From candidates to a decision: sample, score, choose. Both front doors share it.

`SafetyRanker` and `@srr_guard` say how the wrapped thing is called; everything that decides
what may be passed on stands here, once, for sync and async callers alike.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import wait
from functools import reduce
from typing import Any, Literal, NoReturn

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage

from srr_guard._threads import Workers
from srr_guard._trial import Trial
from srr_guard.conversation import Conversation, candidate_text
from srr_guard.decision import Candidate, Decision, Ranking, Reason, Totals
from srr_guard.errors import (
    BelowThresholdError,
    ConfigurationError,
    SamplingError,
    ScoringError,
)
from srr_guard.policy import DecisionPolicy, SamplingPolicy
from srr_guard.sampling import AsyncRound, Round, abandon, workers
from srr_guard.scoring import ReadAhead, ResponseScorer, SupportsReadAhead

logger = logging.getLogger("srr_guard")

# For calls that would block the event loop. A queue in front of them is better than
# thousands of threads.
blocking_calls = Workers(max_threads=256)


def refuse_like(text: str, output: Any) -> AIMessage | str | None:
    """The refusal in the form of an answer; None where no honest value has that form."""
    if isinstance(output, BaseMessage):
        return AIMessage(text)
    return text if isinstance(output, str) else None


class Selector:
    """Samples candidates, has them scored, decides which one is passed on.

    Safe to share between threads and tasks: the only state it keeps is the default scorer,
    once loaded, and the running totals.

    Args:
        scorer: What ranks the candidates; None: the shipped scorer, loaded on first use.
        sampling: How candidates are sampled.
        decision: What may be passed on.
        on_decision: Called with each decision before it takes effect, also with those that
            end in an error. What it raises reaches the caller. Under async callers it runs
            on the event loop, so it must be quick.
        tunable: Whether the calls given to `decide` take the policy's `temperatures`,
            `system_prompts` and `seed`, and stream where it says `read_ahead`.
        text: Renders an output to the text that is scored.
        refuse: Gives the policy's refusal the form of an output; None: it has no such form.

    Raises:
        ConfigurationError: An argument is of the wrong kind.
    """

    def __init__(
        self,
        *,
        scorer: ResponseScorer | None,
        sampling: SamplingPolicy,
        decision: DecisionPolicy,
        on_decision: Callable[[Decision], object] | None,
        tunable: Literal["each_call", "nothing"] = "nothing",
        text: Callable[[Any], str] = candidate_text,
        refuse: Callable[[str, Any], Any] = refuse_like,
    ) -> None:
        _require(scorer is None or isinstance(scorer, ResponseScorer), "scorer", scorer)
        _require(isinstance(sampling, SamplingPolicy), "sampling", sampling)
        _require(isinstance(decision, DecisionPolicy), "decision", decision)
        _require(on_decision is None or callable(on_decision), "on_decision", on_decision)
        for name in ("temperatures", "system_prompts", "seed", "read_ahead"):
            if tunable == "nothing" and (value := getattr(sampling, name)) not in (None, False):
                raise ConfigurationError(
                    f"{name}={value!r} reaches no model here: a function makes its own calls; "
                    "wrap the model in a SafetyRanker, or leave it out"
                )
        if sampling.read_ahead:
            _require(scorer is None or isinstance(scorer, SupportsReadAhead), "read_ahead", scorer)
        self._scorer = scorer
        self._sampling = sampling
        self._policy = decision
        self._on_decision = on_decision
        self._text = text
        self._refuse = refuse
        self._loading = threading.Lock()
        self._counting = threading.Lock()
        self._totals = Totals()

    @property
    def totals(self) -> Totals:
        """What all requests came to so far."""
        return self._totals

    def decide(
        self,
        conversation: Conversation,
        call: Callable[[int], Any],
        *,
        batched: Callable[[range], Sequence[Any]] | None = None,
    ) -> Decision:
        """Sample, score and decide, on the caller's thread and on threads of its own.

        Args:
            conversation: What was asked.
            call: Makes one candidate, see `Round`.
            batched: Makes several candidates at once, see `Round`.

        Raises:
            SamplingError: Too few candidates came back, or none may be passed on.
            ScorerError: The candidates could not be scored and the policy says to raise.
        """
        trial = Trial(self._sampling, self._policy)
        while (indices := trial.next_round()) is not None:
            with Round(
                call,
                self._sampling,
                indices,
                batched=batched,
                deadline=trial.left(),
                text=self._text,
            ) as calls:
                while trial.waiting:
                    trial.receive(calls.wait(for_all=not trial.eager))
                    if trial.unscored:
                        with trial.scoring():
                            trial.take(self._score(conversation, trial.texts))
        return self._conclude(trial)

    async def adecide(
        self,
        conversation: Conversation,
        call: Callable[[int], Awaitable[Any]],
        *,
        batched: Callable[[range], Awaitable[Sequence[Any]]] | None = None,
    ) -> Decision:
        """Like `decide`, without blocking the event loop."""
        trial = Trial(self._sampling, self._policy)
        while (indices := trial.next_round()) is not None:
            async with AsyncRound(
                call,
                self._sampling,
                indices,
                batched=batched,
                deadline=trial.left(),
                text=self._text,
            ) as calls:
                while trial.waiting:
                    trial.receive(await calls.wait(for_all=not trial.eager))
                    if trial.unscored:
                        with trial.scoring():
                            trial.take(await self._ascore(conversation, trial.texts))
        return self._conclude(trial)

    def reader(self, conversation: Conversation) -> ReadAhead:
        """What reads a candidate while it is written, where the policy says `read_ahead`."""
        scorer = self._load_scorer()
        assert isinstance(scorer, SupportsReadAhead)  # checked when this was made
        return scorer.read_ahead(conversation)

    async def areader(self, conversation: Conversation) -> ReadAhead:
        """Like `reader`, without blocking the event loop."""
        if self._scorer is None:
            await blocking_calls.run(self._load_scorer)
        return self.reader(conversation)

    def _score(self, conversation: Conversation, texts: list[str]) -> Ranking:
        """Have texts scored, on a thread that can be given up on.

        Raises:
            ScoringError: It takes longer than the policy's `scoring_timeout`.
        """
        call = workers.submit(lambda: self._load_scorer().score(conversation, texts))
        try:
            done, _ = wait([call], timeout=self._policy.scoring_timeout)
            return call.result() if done else self._too_slow()
        except asyncio.CancelledError as error:
            raise _cancelled() from error
        finally:
            workers.release(call)

    async def _ascore(self, conversation: Conversation, texts: list[str]) -> Ranking:
        async def score() -> Ranking:
            scorer = self._scorer
            if scorer is None:
                scorer = await blocking_calls.run(self._load_scorer)
            return await scorer.ascore(conversation, texts)

        call = asyncio.create_task(score())
        try:
            done, _ = await asyncio.wait([call], timeout=self._policy.scoring_timeout)
            if call.cancelled():
                raise _cancelled()
            return call.result() if done else self._too_slow()
        finally:
            abandon(call)

    def _too_slow(self) -> NoReturn:
        raise ScoringError(
            f"scoring took longer than scoring_timeout={self._policy.scoring_timeout} s: raise it, "
            "or give the scorer shorter texts or a faster device"
        )

    def _load_scorer(self) -> ResponseScorer:
        if self._scorer is None:
            with self._loading:
                if self._scorer is None:
                    from srr_guard.scoring import SRRScorer

                    self._scorer = SRRScorer.from_pretrained()
        return self._scorer

    def _conclude(self, trial: Trial) -> Decision:
        """Apply the decision policy, and tell `on_decision`."""
        try:
            trial.require_enough()
        except SamplingError:
            self._tell(self._decision(trial, "failed", None))
            raise
        policy = self._policy
        chosen: Candidate | None = None
        action: Literal["accept", "refuse", "raise", "pass"]
        if trial.ranking is None:
            action, chosen = policy.scorer_error, trial.candidates[0]
        elif safe := trial.eligible():
            action, chosen = "accept", trial.choose(safe)
        else:
            action, chosen = policy.below_threshold, trial.scored[trial.ranking.best]
        match action:
            case "accept":
                decision = self._decision(trial, trial.success, chosen)
            case "pass":
                self._log_bypass(trial)
                decision = self._decision(trial, "passed_through", chosen)
            case _:
                decision = self._decision(trial, "refused", None)
        if decision.chosen is not None:
            decision = _with_output(decision, _deliver(chosen.output, decision, chosen))
        elif action == "refuse":
            refusal = self._refuse(policy.refusal, trial.candidates[0].output)
            decision = _with_output(decision, _deliver(refusal, decision, None))
        self._tell(decision)
        if decision.output is None:
            raise trial.error or self._below_threshold(decision, action)
        return decision

    def _decision(self, trial: Trial, reason: Reason, chosen: Candidate | None) -> Decision:
        causes = trial.causes
        return Decision(
            reason=reason,
            chosen=chosen,
            candidates=trial.scored or trial.candidates,
            ranking=trial.ranking,
            sampled=trial.asked,
            failed=len(causes),
            distinct=len(trial.texts),
            failures=tuple(type(cause).__name__ for cause in causes),
            timings=trial.timings(),
            totals=self._count(trial.asked, bypassed=reason == "passed_through"),
        )

    def _tell(self, decision: Decision) -> None:
        if self._on_decision is not None:
            self._on_decision(decision)

    def _below_threshold(self, decision: Decision, action: str) -> BelowThresholdError:
        error = BelowThresholdError(decision, threshold=self._policy.threshold)
        if action == "refuse":
            kind = type(decision.candidates[0].output).__name__
            error.add_note(
                f"raised in place of a refusal: the answers are of type {kind!r}, and a refusal "
                "can only stand in for a str or a message"
            )
        return error

    def _count(self, candidates: int, *, bypassed: bool) -> Totals:
        """Add one request to the totals; the totals with it."""
        with self._counting:
            before = self._totals
            self._totals = Totals(
                requests=before.requests + 1,
                candidates=before.candidates + candidates,
                bypasses=before.bypasses + bypassed,
            )
            return self._totals

    def _log_bypass(self, trial: Trial) -> None:
        if trial.error is not None:
            logger.warning(
                "bypass: an unscored answer was passed on, as scorer_error='pass' says (%s)",
                type(trial.error.__cause__ or trial.error).__name__,
            )
        else:
            logger.warning(
                "bypass: an answer below the threshold of %s was passed on, as "
                "below_threshold='pass' says",
                self._policy.threshold,
            )


def _require(holds: bool, name: str, value: object) -> None:
    if not holds:
        wanted = {
            "scorer": "an object with `score` and `ascore` (SRRScorer, FakeScorer), or None",
            "sampling": "a SamplingPolicy",
            "decision": "a DecisionPolicy",
            "on_decision": "a function that takes a Decision, or None",
            "read_ahead": "a scorer that has `read_ahead` (SRRScorer), or leave read_ahead out",
        }[name]
        raise ConfigurationError(f"{name}={value!r} cannot be used: give {wanted}")


def _cancelled() -> ScoringError:
    return ScoringError("scoring was cancelled from inside, not by its caller")


def _with_output(decision: Decision, output: Any) -> Decision:
    return decision.model_copy(update={"output": output})


def _deliver(output: Any, decision: Decision, chosen: Candidate | None) -> Any:
    """The output as the caller gets it; on a message rides what was decided and its cost."""
    if not isinstance(output, AIMessage):
        return output
    summary = decision.summary()
    if chosen is not None and output.usage_metadata is not None:
        summary["chosen_usage"] = output.usage_metadata
    return output.model_copy(
        update={
            "response_metadata": {**output.response_metadata, "srr_guard": summary},
            "usage_metadata": _usage(decision.candidates),
        }
    )


def _usage(candidates: Sequence[Candidate]) -> UsageMetadata | None:
    """Tokens of all candidates together, those not passed on included."""
    outputs = [c.output for c in candidates if isinstance(c.output, AIMessage)]
    usages = [m.usage_metadata for m in outputs if m.usage_metadata is not None]
    return reduce(add_usage, usages) if usages else None
