"""Best-of-N: the state of one request, from the first candidate to the choice.

No threads, no tasks and no model: `Guard.decide` and `Guard.adecide` share it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from srr_guard.characters import is_blank
from srr_guard.core.outcomes import Outcome, must_propagate
from srr_guard.decision import Candidate, Gated, Ranking, Reason, ScoredCandidate, Timings
from srr_guard.errors import (
    AllCandidatesFailedError,
    ConfigurationError,
    NotEnoughCandidatesError,
    SamplingError,
    ScoringError,
    SRRGuardError,
)
from srr_guard.gates.rulings import GateRuling
from srr_guard.policy import DecisionPolicy, SamplingPolicy

logger = logging.getLogger("srr_guard")


class BestOfN:
    """The state of one request.

    Plain best-of-N is one round of n candidates, scored once. With `accept_at` the first
    round has `initial` candidates, each scored as soon as it is back; the second round has
    the rest. Each scoring covers all distinct texts so far, because listwise scores of
    different lists do not compare. With a gate the policies are those that it leaves; while it
    is waited for, the first round has one candidate.

    Args:
        sampling: How the request is sampled.
        decision: What may be passed on.
        observing: The first answer is passed on whatever is decided.
        gated: A gate is to rule on the request first.
        skipped: Why recipes were not followed.

    Attributes:
        policy: What may be passed on, as the gate leaves it.
        observing: As given.
        skipped: As given.
        gated: What the gate saw; None before, and without one.
        by_plan: The candidates after the first follow the gate's plan.
        past_gate: The gate failed and the policy lets the request pass.
        asked: How many candidates were asked for so far.
        candidates: The candidates that came back, by index.
        texts: Their distinct texts; not of those that have none, but parts that cannot be read.
        ranking: Ranking of `scored`; None until they are scored, and when scoring failed.
        scored: The scored candidates, by index.
        causes: Why candidates failed, in their order.
        error: Why scoring, or the gate, failed.
    """

    def __init__(
        self,
        sampling: SamplingPolicy,
        decision: DecisionPolicy,
        *,
        observing: bool = False,
        gated: bool = False,
        skipped: tuple[str, ...] = (),
    ) -> None:
        self.policy = decision
        self.observing = observing
        self.skipped = skipped
        self.gated: Gated | None = None
        self.by_plan = self.past_gate = False
        self.asked = 0
        self.candidates: tuple[Candidate, ...] = ()
        self.causes: tuple[Exception, ...] = ()
        self.texts: list[str] = []
        self.ranking: Ranking | None = None
        self.scored: tuple[ScoredCandidate, ...] = ()
        self.error: SRRGuardError | None = None
        self._sampling = sampling
        self._gate_pending = gated
        self._needs_first = observing
        self._outcomes: dict[int, Outcome] = {}
        self._accepted: list[ScoredCandidate] = []
        self._generation = self._scoring = 0.0
        self._started = self._resumed = time.perf_counter()

    # ---- what to do next ----

    def next_round(self) -> range | None:
        """Indices to sample next; None when it is time to decide."""
        first = self.asked
        if self._settled or first == self._sampling.n or (first and self.left() == 0.0):
            return None
        self.asked = self._end_of_round(first)
        self._resumed = time.perf_counter()
        return range(first, self.asked)

    def given(self, answers: int) -> None:
        """Take note that there are answers already, so that none is sampled."""
        self.asked = answers
        self._resumed = time.perf_counter()

    def rest_of_round(self) -> range:
        """What the first round has beside the candidate that was begun before the gate ruled."""
        first = self.asked
        self.asked = self._end_of_round(0)
        return range(first, self.asked)

    def _end_of_round(self, first: int) -> int:
        policy = self._sampling
        if self._gate_pending or self._ended:
            return 1
        return policy.initial if policy.accept_at is not None and not first else policy.n

    def left(self) -> float | None:
        """Seconds until the deadline; None: there is none."""
        if self._sampling.deadline is None:
            return None
        return max(0.0, self._started + self._sampling.deadline - time.perf_counter())

    @property
    def eager(self) -> bool:
        """True if each candidate of this round is scored as soon as it is back."""
        return self._sampling.accept_at is not None and self.asked <= self._sampling.initial

    @property
    def waiting(self) -> bool:
        """True while candidates of this round are still needed."""
        return not self._settled and len(self._outcomes) < self.asked

    @property
    def unscored(self) -> bool:
        """True if there are candidates to score."""
        complete = len(self._outcomes) == self._sampling.n
        too_few = complete and len(self.candidates) < self._sampling.min_candidates
        over = self.error is not None or self.refused
        return len(self.scored) < len(self.candidates) and not too_few and not over

    @property
    def refused(self) -> bool:
        """True if the gate refused the request."""
        return self.gated is not None and self.gated.verdict == "refused"

    @property
    def _ended(self) -> bool:
        """No candidate is needed any more, but for its form, or to be passed on unseen."""
        return bool(self._accepted) or self.error is not None or self.refused

    @property
    def _settled(self) -> bool:
        return self._ended and (not self._needs_first or 0 in self._outcomes)

    # ---- the gate ----

    @property
    def sampling(self) -> SamplingPolicy:
        """How the request is sampled, as the gate leaves it."""
        return self._sampling

    @property
    def gate_pending(self) -> bool:
        """True if a gate is to rule on the request."""
        return self._gate_pending

    def ruled(self, ruling: GateRuling, *, form_known: bool) -> None:
        """Take over what the gate says.

        Args:
            ruling: Its ruling.
            form_known: A refusal can be given without an answer.
        """
        self._sampling, self.policy = ruling.sampling, ruling.decision
        self.gated, self.by_plan = ruling.gated, ruling.by_plan
        self._needs_first |= ruling.refused and not form_known

    @contextmanager
    def assessing(self, *, form_known: bool) -> Iterator[None]:
        """Wait for the gate; its failure is a scorer's failure."""
        started = time.perf_counter()
        try:
            yield
        except Exception as error:
            if must_propagate(error) or isinstance(error, ConfigurationError):
                raise
            found = error if isinstance(error, SRRGuardError) else _scoring_error(error)
            kind = type(found.__cause__ or found).__name__
            self.gated = Gated(verdict="failed", threshold=self.policy.threshold, error=kind)
            if self.policy.scorer_error == "pass":
                self.past_gate = True
                logger.warning(
                    "bypass: the prompt gate failed (%s) and the request went on without it, as "
                    "scorer_error='pass' says",
                    kind,
                )
            else:
                self.error = found
                self._needs_first |= self.policy.scorer_error == "refuse" and not form_known
        finally:
            self._gate_pending = False
            if not self.asked:
                self._scoring += time.perf_counter() - started

    # ---- what came back ----

    def receive(self, outcomes: Mapping[int, Outcome]) -> None:
        """Record what came back, by candidate index."""
        now = time.perf_counter()
        self._generation += now - self._resumed
        self._resumed = now
        self._outcomes.update(outcomes)
        returned = [self._outcomes[i] for i in sorted(self._outcomes)]
        self.candidates = tuple(o for o in returned if isinstance(o, Candidate))
        self.causes = tuple(o for o in returned if isinstance(o, Exception))
        self.texts = list(dict.fromkeys(text for c in self.candidates for text in self._read(c)))

    def shortage(self) -> SamplingError | None:
        """The error of a request with too few candidates; None if there are enough."""
        required = self._sampling.min_candidates
        error: SamplingError
        if not self.candidates:
            error = AllCandidatesFailedError.of(self.causes)
        elif len(self.candidates) < required:
            error = NotEnoughCandidatesError(
                succeeded=len(self.candidates), required=required, causes=self.causes
            )
        else:
            return None
        error.__cause__ = next(iter(self.causes), None)
        return error

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Time one scoring; keep its error for the policy to decide about."""
        started = time.perf_counter()
        try:
            yield
        except Exception as error:
            if must_propagate(error):
                raise
            self.ranking, self.scored, self._accepted = None, (), []
            self.error = error if isinstance(error, SRRGuardError) else _scoring_error(error)
        finally:
            self._resumed = time.perf_counter()
            self._scoring += self._resumed - started

    def take(self, ranking: Ranking | None) -> None:
        """Give each candidate the scores of its text; the lowest where it has none.

        Args:
            ranking: Scores of `texts`; None where there are none.

        Raises:
            ScoringError: The ranking does not fit the texts.
            ValueError: Its numbers cannot be used.
        """
        if self.texts and (not isinstance(ranking, Ranking) or len(ranking) != len(self.texts)):
            raise ScoringError(
                f"the scorer was given {len(self.texts)} candidates and returned "
                f"{len(ranking) if isinstance(ranking, Ranking) else type(ranking).__name__!r}: "
                "return a Ranking with one score for each"
            )
        place = {text: i for i, text in enumerate(self.texts)}
        lowest = len(place)
        parts = [[place[text] for text in self._read(c)] or [lowest] for c in self.candidates]
        if ranking is None:
            ranking = Ranking.from_scores(scores=[0.0], p_safe=[0.0])
        elif [lowest] in parts:
            ranking = ranking.with_lowest()
        worst = [min(part, key=ranking.p_safe.__getitem__) for part in parts]
        self.ranking = ranking.take(worst, helpful=[part[0] for part in parts])
        self.scored = tuple(
            ScoredCandidate(
                **{**dict(c), **self.ranking.marks(i), **_apart(ranking, part)},
            )
            for i, (c, part) in enumerate(zip(self.candidates, parts, strict=True))
        )
        if self.eager and len(self._outcomes) < self._sampling.n:
            enough = len(parts) >= self._sampling.min_candidates
            self._accepted = [c for c in self._safe() if enough and self._acceptable(c)]

    # ---- what is chosen ----

    def eligible(self) -> tuple[ScoredCandidate, ...]:
        """The candidates that may be passed on, in ranking order."""
        return tuple(self._accepted or self._safe())

    def choose(self, candidates: tuple[ScoredCandidate, ...]) -> ScoredCandidate:
        """Pick the candidate that the policy prefers.

        Args:
            candidates: In ranking order.

        Raises:
            ConfigurationError: The policy's function returns none of them.
        """
        match self.policy.prefer:
            case "best" if not self._unfamiliar:
                return candidates[0]
            case "safest" | "best":
                return max(candidates, key=lambda c: c.p_safe)
            case "first":
                return min(candidates, key=lambda c: c.index)
            case choose:
                choice = choose(candidates)
        number = isinstance(choice, int) and not isinstance(choice, bool)
        for candidate in candidates:
            if choice is candidate or (number and choice == candidate.index):
                return candidate
        raise ConfigurationError(
            f"prefer={choose!r} returned "
            f"{choice if number else type(choice).__name__!r}: it must return "
            f"one of the candidates it is given, or its index, here one of "
            f"{sorted(c.index for c in candidates)}"
        )

    @property
    def success(self) -> Reason:
        """The decision's reason when a candidate is chosen."""
        if self._accepted:
            return "accepted"
        complete = len(self.candidates) == self._sampling.n
        return "best_of_n" if complete else "fallback"

    def timings(self) -> Timings:
        """Seconds spent so far."""
        spent = self._generation + self._scoring
        total = time.perf_counter() - self._started
        return Timings(
            generation=self._generation, scoring=self._scoring, overhead=max(0.0, total - spent)
        )

    def withheld(self) -> tuple[str, ...]:
        """Kinds of the parts that cannot be read, of candidates that would be safe by their text.

        Empty where the policy lets them pass.
        """
        hidden = [] if self.policy.unreadable == "pass" else self._good(unreadable=True)
        return tuple(dict.fromkeys(kind for c in hidden for kind in c.unreadable))

    def first_answer(self) -> Candidate | None:
        """The first answer that came back, a plain one where there is one."""
        plain = [c for c in self.candidates if c.recipe in (None, "plain")]
        return next(iter(plain or self.candidates), None)

    def passable(self) -> tuple[Candidate, ...]:
        """The candidates that a bypass may pass on, in ranking order where they are scored."""
        ranked = [self.scored[i] for i in self.ranking.order] if self.ranking else self.candidates
        everything = self.policy.unreadable == "pass"
        return tuple(c for c in ranked if not c.cut and (everything or not c.unreadable))

    @property
    def _unfamiliar(self) -> bool:
        familiarity = self.ranking.familiarity if self.ranking else None
        return familiarity is not None and familiarity < self.policy.min_familiarity

    def _safe(self) -> list[ScoredCandidate]:
        safe = self._good(unreadable=False)
        passes = self.policy.unreadable == "pass"
        return safe or (self._good(unreadable=True) if passes else [])

    def _good(self, *, unreadable: bool) -> list[ScoredCandidate]:
        """Safe candidates in ranking order; what has no text is safe as far as that goes."""
        order = self.ranking.order if self.ranking else ()
        threshold = self.policy.threshold
        return [
            c
            for c in (self.scored[i] for i in order)
            if bool(c.unreadable) == unreadable
            and not c.cut
            and (c.p_safe >= threshold or not self._read(c))
        ]

    def scores(self, candidate: Candidate) -> bool:
        """True if a candidate has something that is scored."""
        return bool(self._read(candidate))

    def _read(self, candidate: Candidate) -> list[str]:
        """The texts of a candidate that are scored: the answer first, then its reasoning."""
        texts = [candidate.text]
        if self.policy.reasoning == "worst":
            texts.append(candidate.trace)
        elif self.policy.reasoning == "joined" and candidate.trace:
            texts = [f"{candidate.trace}\n{candidate.text}"]
        return [text for text in texts if not is_blank(text)]

    def _acceptable(self, candidate: ScoredCandidate) -> bool:
        policy = self._sampling
        helpful = candidate.p_help is None or candidate.p_help >= policy.accept_help_at
        return helpful and policy.accept_at is not None and candidate.p_safe >= policy.accept_at


def _apart(ranking: Ranking, part: Sequence[int]) -> dict[str, float]:
    """The scores of answer and reasoning, where both were scored."""
    names = ("p_safe_answer", "p_safe_trace") if len(part) > 1 else ()
    return {name: ranking.p_safe[i] for name, i in zip(names, part, strict=False)}


def _scoring_error(error: Exception) -> ScoringError:
    wrapped = ScoringError(f"scoring failed with {type(error).__name__}; see `__cause__`")
    wrapped.__cause__ = error
    return wrapped
