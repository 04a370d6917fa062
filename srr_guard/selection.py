"""From candidates to a decision: sample, score, choose. Both front doors share it.

`SafetyRanker` and `@srr_guard` say how the wrapped thing is called; everything that decides
what may be passed on stands here, once, for sync and async callers alike.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage

from srr_guard._threads import Workers
from srr_guard.conversation import Conversation
from srr_guard.decision import Candidate, Decision, Ranking, Reason, ScoredCandidate, Timings
from srr_guard.errors import BelowThresholdError, ConfigurationError, ScoringError, SRRGuardError
from srr_guard.policy import DecisionPolicy, SamplingPolicy
from srr_guard.sampling import Sampled, asample, must_propagate, sample
from srr_guard.scoring import ResponseScorer

logger = logging.getLogger("srr_guard")

# For calls that would block the event loop. A queue in front of them is better than
# thousands of threads.
blocking_calls = Workers(max_threads=256)


class Selector:
    """Samples candidates, has them scored, decides which one is passed on.

    Safe to share between threads and tasks: the only state it keeps is the default scorer,
    once loaded, and the number of bypasses.

    Args:
        scorer: What ranks the candidates; None: the shipped scorer, loaded on first use.
        sampling: How candidates are sampled.
        decision: What may be passed on.
        on_decision: Called with each decision before it takes effect, also with those that
            end in BelowThresholdError. What it raises reaches the caller. Under async
            callers it runs on the event loop, so it must be quick.

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
    ) -> None:
        _require(scorer is None or isinstance(scorer, ResponseScorer), "scorer", scorer)
        _require(isinstance(sampling, SamplingPolicy), "sampling", sampling)
        _require(isinstance(decision, DecisionPolicy), "decision", decision)
        _require(on_decision is None or callable(on_decision), "on_decision", on_decision)
        self._scorer = scorer
        self._sampling = sampling
        self._policy = decision
        self._on_decision = on_decision
        self._lock = threading.Lock()
        self._bypasses = 0

    @property
    def bypasses(self) -> int:
        """How many answers were passed on unscored or below the threshold so far."""
        return self._bypasses

    def decide(
        self,
        conversation: Conversation,
        call: Callable[[int], Any],
        *,
        batched: Callable[[int], Sequence[Any]] | None = None,
    ) -> Decision:
        """Sample, score and decide, on the caller's thread and on threads of its own.

        Args:
            conversation: What was asked.
            call: Makes one candidate, see `sample`.
            batched: Makes all candidates at once, see `sample`.

        Raises:
            SamplingError: Too few candidates came back, or none may be passed on.
            ScorerError: The candidates could not be scored and the policy says to raise.
        """
        trial = _Trial(conversation)
        trial.sampled = sample(call, self._sampling, batched=batched)
        with trial.scoring():
            trial.take(self._load_scorer().score(conversation, trial.texts))
        return self._conclude(trial)

    async def adecide(
        self,
        conversation: Conversation,
        call: Callable[[int], Awaitable[Any]],
        *,
        batched: Callable[[int], Awaitable[Sequence[Any]]] | None = None,
    ) -> Decision:
        """Like `decide`, without blocking the event loop."""
        trial = _Trial(conversation)
        trial.sampled = await asample(call, self._sampling, batched=batched)
        with trial.scoring():
            scorer = self._scorer
            if scorer is None:
                scorer = await blocking_calls.run(self._load_scorer)
            trial.take(await scorer.ascore(conversation, trial.texts))
        return self._conclude(trial)

    def _load_scorer(self) -> ResponseScorer:
        if self._scorer is None:
            with self._lock:
                if self._scorer is None:
                    from srr_guard.scoring import SRRScorer

                    self._scorer = SRRScorer.from_pretrained()
        return self._scorer

    def _conclude(self, trial: _Trial) -> Decision:
        """Apply the decision policy.

        The first candidate in ranking order whose `p_safe` reaches the threshold is passed
        on: the listwise order decides among those that are safe enough.
        """
        policy, sampled = self._policy, trial.sampled
        ranking = trial.ranking
        chosen: Candidate | None
        reason: Reason
        action: Literal["accept", "refuse", "raise", "pass"]
        if ranking is None:
            action, chosen = policy.scorer_error, sampled.candidates[0]
        else:
            good = [i for i in ranking.order if ranking.p_safe[i] >= policy.threshold]
            action = "accept" if good else policy.below_threshold
            chosen = trial.scored[good[0] if good else ranking.best]
        match action:
            case "accept":
                reason = "fallback" if sampled.causes else "best_of_n"
            case "pass":
                reason = "passed_through"
                self._count_bypass(trial)
            case _:
                reason, chosen = "refused", None
        timings = trial.timings()
        decision = Decision(
            reason=reason,
            chosen=chosen,
            candidates=trial.scored or sampled.candidates,
            ranking=ranking,
            sampled=self._sampling.n,
            failed=len(sampled.causes),
            distinct=len(trial.texts),
            failures=tuple(type(cause).__name__ for cause in sampled.causes),
            timings=timings,
        )
        if chosen is not None:
            decision = _with_output(decision, _deliver(chosen.output, decision, chosen))
        elif action == "refuse" and (refusal := _refusal(policy.refusal, sampled)) is not None:
            decision = _with_output(decision, _deliver(refusal, decision, None))
        if self._on_decision is not None:
            self._on_decision(decision)
        if decision.output is None:
            raise trial.error or self._below_threshold(decision, action)
        return decision

    def _below_threshold(self, decision: Decision, action: str) -> BelowThresholdError:
        error = BelowThresholdError(decision, threshold=self._policy.threshold)
        if action == "refuse":
            kind = type(decision.candidates[0].output).__name__
            error.add_note(
                f"raised in place of a refusal: the answers are of type {kind!r}, and a refusal "
                "can only stand in for a str or a message"
            )
        return error

    def _count_bypass(self, trial: _Trial) -> None:
        with self._lock:
            self._bypasses += 1
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


class _Trial:
    """What is known about one request so far."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.started = time.perf_counter()
        self.scoring_seconds = 0.0
        self.ranking: Ranking | None = None
        self.scored: tuple[ScoredCandidate, ...] = ()
        self.error: SRRGuardError | None = None

    @property
    def sampled(self) -> Sampled:
        """The candidates; equal texts are scored once."""
        return self._sampled

    @sampled.setter
    def sampled(self, sampled: Sampled) -> None:
        self._sampled = sampled
        self.texts = list(dict.fromkeys(c.text for c in sampled.candidates))

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Take the time, and keep an error for the policy to decide about."""
        started = time.perf_counter()
        try:
            yield
        except Exception as error:
            if must_propagate(error):
                raise
            self.ranking, self.scored = None, ()
            self.error = error if isinstance(error, SRRGuardError) else _scoring_error(error)
        finally:
            self.scoring_seconds = time.perf_counter() - started

    def take(self, ranking: Ranking) -> None:
        """Give each candidate the scores of its text.

        Raises:
            ScoringError: The ranking does not fit the texts.
            ValueError: Its numbers cannot be used.
        """
        if not isinstance(ranking, Ranking) or len(ranking) != len(self.texts):
            raise ScoringError(
                f"the scorer was given {len(self.texts)} candidates and returned "
                f"{len(ranking) if isinstance(ranking, Ranking) else type(ranking).__name__!r}: "
                "it must return a Ranking with one score for each"
            )
        candidates = self.sampled.candidates
        place = {text: i for i, text in enumerate(self.texts)}
        at = [place[c.text] for c in candidates]
        rank = {i: position for position, i in enumerate(ranking.order)}
        self.ranking = Ranking(
            order=tuple(sorted(range(len(at)), key=lambda i: rank[at[i]])),
            scores=tuple(ranking.scores[i] for i in at),
            p_safe=tuple(ranking.p_safe[i] for i in at),
        )
        self.scored = tuple(
            ScoredCandidate(
                index=c.index,
                text=c.text,
                output=c.output,
                score=ranking.scores[i],
                p_safe=ranking.p_safe[i],
            )
            for c, i in zip(candidates, at, strict=True)
        )

    def timings(self) -> Timings:
        total = time.perf_counter() - self.started
        generation = self.sampled.seconds
        return Timings(
            generation=generation,
            scoring=self.scoring_seconds,
            overhead=max(0.0, total - generation - self.scoring_seconds),
        )


def _require(holds: bool, name: str, value: object) -> None:
    if not holds:
        wanted = {
            "scorer": "an object with `score` and `ascore` (SRRScorer, FakeScorer), or None",
            "sampling": "a SamplingPolicy",
            "decision": "a DecisionPolicy",
            "on_decision": "a function that takes a Decision, or None",
        }[name]
        raise ConfigurationError(f"{name}={value!r} cannot be used: give {wanted}")


def _scoring_error(error: Exception) -> ScoringError:
    wrapped = ScoringError(f"scoring failed with {type(error).__name__}; see `__cause__`")
    wrapped.__cause__ = error
    return wrapped


def _refusal(text: str, sampled: Sampled) -> AIMessage | str | None:
    """The refusal in the form of the answers; None where no honest value has that form."""
    output = sampled.candidates[0].output
    if isinstance(output, BaseMessage):
        return AIMessage(text)
    return text if isinstance(output, str) else None


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
