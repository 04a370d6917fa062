"""`SafetyRankedModule` and `SafetyReward`: the guard for DSPy.

The module is a subclass of a class of DSPy's, so importing this adapter imports it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Unpack

from langchain_core.messages import AIMessage
from pydantic import TypeAdapter, ValidationError

from srr_guard import Conversation, Decision, Guard
from srr_guard.core.calls import FunctionSource
from srr_guard.errors import (
    ConfigurationError,
    InvalidInputError,
    MissingExtraError,
    SamplingError,
    WithheldError,
)
from srr_guard.formats.converted import ConvertedDelivery
from srr_guard.wrappers.settings import GuardSettings, guard_from
from srr_guard_integrations.bypass import hand_out

try:
    import dspy
except ImportError as error:
    raise MissingExtraError(
        package="dspy", extra="dspy", purpose="srr_guard_integrations.dspy"
    ) from error


class SafetyRankedModule(dspy.Module):  # type: ignore[misc, unused-ignore]
    """A DSPy module whose prediction is the best safe one of several.

    The module inside runs n times side by side, each on a copy with a rollout id of its own, past
    DSPy's cache. All output fields of a prediction are scored, in their order, against all inputs.
    One that does not fit the types of the module's `signature` is a failed candidate, like one that
    DSPy itself cannot parse; what pydantic would convert fits.
    The chosen prediction has `srr_guard`, the decision as a dict. Its trace is the only one that
    optimizers see; with `track_usage` DSPy sums the tokens of all candidates.

    Under `dspy.streamify` no candidate is streamed: the chosen prediction comes whole. Tools run in
    each candidate: put a `dspy.ReAct` inside only where its tools may run n times. The history of
    the LM holds all candidates.

    Args:
        module: The module to guard.
        answer: The output field in which a refusal stands, with None in all others; None: a
            refusal has no form, and BelowThresholdError is raised. It must take a text.
        temperature: Of the candidates.
        settings: Those of `Guard`, or `guard=`, a guard to share (see `GuardSettings`).

    Raises:
        ConfigurationError: It is no module, a setting is of the wrong kind, or `answer` is a
            field of another type.

    Example:
        >>> from dspy.utils import DummyLM
        >>> from srr_guard.testing import FakeScorer
        >>> lm = DummyLM([{"answer": "a bad answer"}, {"answer": "a good answer"}])
        >>> scorer = FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1)
        >>> program = SafetyRankedModule(dspy.Predict("question -> answer"), n=2, scorer=scorer)
        >>> with dspy.context(lm=lm):
        ...     program(question="How do magnets work?").answer
        'a good answer'
    """

    def __init__(
        self,
        module: Any,
        *,
        answer: str | None = None,
        temperature: float = 1.0,
        **settings: Unpack[GuardSettings],
    ) -> None:
        super().__init__()
        if not isinstance(module, dspy.Module):
            raise ConfigurationError(f"module={module!r} cannot be guarded: give a dspy.Module")
        self.module = module
        self.guard: Guard = guard_from(settings)
        self._answer = answer
        self._temperature = temperature
        self._types = dict(_output_types(module))
        if misfit := self._misfit(answer, self.guard.decision.refusal):
            raise ConfigurationError(
                f"answer={answer!r} takes no refusal, which is a text ({misfit}): name a field of "
                "type str, or leave it out"
            )

    def forward(self, **inputs: Any) -> Any:
        """Predict, guarded.

        Raises:
            SamplingError: Too few candidates came back, or none may be passed on.
            ScorerError: The candidates could not be scored and the policy says to raise.
        """
        traces: dict[int, list[Any]] = {}
        self._require_lm()

        def call(index: int) -> Any:
            module = self._candidate(index)
            with dspy.context(trace=[], send_stream=None):
                made = module(**inputs)
                traces[index] = list(dspy.settings.trace)
            return made

        source = FunctionSource(call, isolated=False)
        return _traced(self.guard.decide(_asked(inputs), source, delivery=self._delivery()), traces)

    async def aforward(self, **inputs: Any) -> Any:
        """Like `forward`, without blocking the event loop."""
        traces: dict[int, list[Any]] = {}
        self._require_lm()

        async def call(index: int) -> Any:
            module = self._candidate(index)
            with dspy.context(trace=[], send_stream=None):
                made = await module.acall(**inputs)
                traces[index] = list(dspy.settings.trace)
            return made

        source = FunctionSource(call, isolated=False)
        decision = await self.guard.adecide(_asked(inputs), source, delivery=self._delivery())
        return _traced(decision, traces)

    def unguarded(self) -> Any:
        """Hand out the module inside: a bypass, logged and counted."""
        return hand_out(self.module, repr(self.module), guard=self.guard, of="module")

    def _require_lm(self) -> None:
        if not all(p.lm or dspy.settings.lm for p in self.module.predictors()):
            raise ConfigurationError("there is no LM: call `dspy.configure(lm=...)` first")

    def _candidate(self, index: int) -> Any:
        module = self.module.deepcopy()
        for predictor in module.predictors():
            lm = predictor.lm or dspy.settings.lm
            rollout = (lm.kwargs.get("rollout_id") or 0) + index
            predictor.lm = lm.copy(rollout_id=rollout, temperature=self._temperature)
        return module

    def _delivery(self) -> ConvertedDelivery[Any]:
        return ConvertedDelivery(
            message=self._message,
            refuse=None if self._answer is None else self._refusal,
            attach=_attach,
        )

    def _message(self, prediction: Any) -> AIMessage:
        if not isinstance(prediction, dspy.Prediction):
            raise InvalidInputError(
                f"the module returned a {type(prediction).__name__!r}: return a dspy.Prediction"
            )
        for name in self._types:
            if name not in prediction:
                raise SamplingError(
                    f"the candidate cannot be used: it lacks the output field {name!r}"
                )
            if misfit := self._misfit(name, prediction[name]):
                raise SamplingError(
                    f"the candidate cannot be used: the output field {name!r} does not fit its "
                    f"type ({misfit})"
                )
        return AIMessage(_text(prediction))

    def _misfit(self, name: str | None, value: Any) -> str | None:
        """Say why a value does not fit the type of an output field; None where it does."""
        if name is None or (adapter := self._types.get(name)) is None:
            return None
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            return str(error.errors()[0]["msg"])
        return None

    def _refusal(self, text: str, prediction: Any) -> Any:
        if self._answer not in prediction:
            raise ConfigurationError(
                f"answer={self._answer!r} is no output field: there are {sorted(prediction.keys())}"
            )
        return dspy.Prediction(**{**dict.fromkeys(prediction.keys()), self._answer: text})


class SafetyReward:
    """A reward for `dspy.BestOfN` and `dspy.Refine`: the `p_safe` of a prediction, in [0, 1].

    Give them the threshold of the guard. They pass the best prediction on even where none reaches
    it; SafetyRankedModule does not. Where scoring fails the attempt fails.

    Args:
        settings: Those of `Guard`, or `guard=`, a guard to share (see `GuardSettings`).

    Example:
        >>> from dspy.utils import DummyLM
        >>> from srr_guard.testing import FakeScorer
        >>> lm = DummyLM([{"answer": "a bad answer"}, {"answer": "a good answer"}])
        >>> reward = SafetyReward(
        ...     scorer=FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1)
        ... )
        >>> qa = dspy.Predict("question -> answer")
        >>> program = dspy.BestOfN(qa, N=2, reward_fn=reward, threshold=reward.threshold)
        >>> with dspy.context(lm=lm):
        ...     program(question="How do magnets work?").answer
        'a good answer'
    """

    def __init__(self, **settings: Unpack[GuardSettings]) -> None:
        self.guard: Guard = guard_from(settings)

    @property
    def threshold(self) -> float:
        """Lowest reward of what may be passed on."""
        return self.guard.decision.threshold

    def __call__(self, args: Mapping[str, Any], prediction: Any) -> float:
        """Score a prediction for these inputs.

        Raises:
            ScorerError: It could not be scored.
        """
        try:
            decision = self.guard.check(_asked(args), _text(prediction))
        except WithheldError as held:
            decision = held.decision
        return decision.ranking.p_safe[0] if decision.ranking else 0.0


def _output_types(module: Any) -> Iterator[tuple[str, TypeAdapter[Any]]]:
    """The types of the output fields in a module's signature, where it has one."""
    fields = getattr(getattr(module, "signature", None), "output_fields", None)
    for name, field in fields.items() if isinstance(fields, Mapping) else ():
        yield name, TypeAdapter(field.annotation)


def _asked(inputs: Mapping[str, Any]) -> Conversation:
    return Conversation.of(dict(inputs))


def _text(prediction: Any) -> str:
    """All output fields, one after the other."""
    values = [value for _, value in prediction.items() if value is not None]
    return "\n".join(v if isinstance(v, str) else json.dumps(v, default=str) for v in values)


def _attach(prediction: Any, decision: Decision[Any]) -> Any:
    finished = prediction.copy()
    finished.srr_guard = decision.summary()
    return finished


def _traced(decision: Decision[Any], traces: Mapping[int, list[Any]]) -> Any:
    """Add the trace of the chosen candidate to the caller's."""
    if decision.chosen is not None and dspy.settings.trace is not None:
        dspy.settings.trace.extend(traces[decision.chosen.index])
    return decision.output
