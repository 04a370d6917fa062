"""Each value of a policy reaches the code that acts: another value, another outcome."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from srr_guard import DecisionPolicy, Ranking, SafetyRanker, SamplingPolicy
from srr_guard.errors import SRRGuardError
from srr_guard.recipes import Plain
from srr_guard.testing import FakeScorer

unique = itertools.count()


class Probe(BaseChatModel):
    """Fails at first, hangs at will, and says how it was called."""

    temperature: float = 0.7
    seed: int | None = None
    failures: int = 0
    image: bool = False
    trace: bool = False
    hang: Any = None
    calls: list[str]

    @property
    def _llm_type(self):
        return "probe"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.calls.append("single")
        if len(self.calls) <= self.failures:
            raise ConnectionError
        if self.hang:
            self.hang()
        turns = len(messages)
        text = f"{self.temperature} {self.seed} {turns} #{next(unique)}"
        text = f"<think>#{next(unique)}</think>{text}" if self.trace else text
        message = AIMessage([text, {"type": "image", "url": "x"}] if self.image else text)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def sample_candidates(self, messages, n, *, stop=None, **kwargs):
        self.calls.append(f"batch of {n}")
        text = f"{self.temperature} {self.seed} {len(messages)}"
        return [AIMessage(f"{text} #{next(unique)}") for _ in range(n)]


class Scores(FakeScorer):
    """The later, the safer, and the lower in the list; nothing helps much."""

    hang: Any = None

    def _rank(self, conversation, candidates):
        if self._error:
            raise self._error
        if self.hang:
            self.hang()
        n = len(candidates)
        p_safe = [0.6 + 0.3 * i / max(1, n - 1) for i in range(n)]
        return Ranking.from_scores(
            scores=[-abs(i - 1) for i in range(n)],
            p_safe=p_safe,
            p_help=[0.3] * n,
            familiarity=0.2,
        )


@pytest.fixture
def waits(monkeypatch):
    """The waits before second attempts, which take no time here."""
    waits = []
    monkeypatch.setattr("srr_guard.core.calls.sleep_using_event", lambda event: waits.append)
    return waits


def observe(
    sampling, decision, *, limits=None, hangs=None, waits=(), failures=0, error=None, **model
):
    hang = limits.hang_thread if limits else None
    model = Probe(hang=hang if hangs == "model" else None, failures=failures, calls=[], **model)
    scorer = Scores(lambda prompt, text: 0.0, error=error)
    scorer.hang = (lambda: hang("scorer")) if hangs == "scorer" else None
    guard = SafetyRanker(
        model,
        scorer=scorer,
        sampling=SamplingPolicy(**{"backoff": 0.0, "batched": "never", **sampling}),
        decision=DecisionPolicy(**decision),
    )
    try:
        made = guard.decide("q")
        text, *_ = made.output.text.split("#")
        end = (made.reason, made.chosen and made.chosen.index, made.sampled, text)
    except SRRGuardError as raised:
        end = (type(raised).__name__, str(raised))
    slow = sum(waits) >= 0.55
    return (*end, sorted(model.calls), slow, bool(scorer.ahead))


def test_equal_values_give_equal_outcomes():
    """Else the tests below would show nothing."""
    assert observe({"n": 3}, {}) == observe({"n": 3}, {})


# field: two values, then what else is needed for the difference to show
SAMPLING = {
    "n": (1, 2, {}),
    "initial": (1, 2, {"accept_at": 0.0, "accept_help_at": 0.0, "n": 3, "min_candidates": 1}),
    "accept_at": (None, 0.5, {"accept_help_at": 0.2}),
    "accept_help_at": (0.2, 0.4, {"accept_at": 0.5}),
    "min_candidates": (1, 2, {"n": 2, "attempts": 1, "failures": 1}),
    "attempts": (1, 3, {"n": 1, "failures": 2}),
    "retry_on": ((ValueError,), (ConnectionError,), {"n": 1, "failures": 1}),
    "backoff": (0.0, 1.2, {"n": 1, "failures": 1}),
    "backoff_max": (0.0, 5.0, {"n": 1, "failures": 1, "backoff": 1.2}),
    "timeout": (0.1, 5.0, {"n": 1, "hangs": "model"}),
    "deadline": (0.1, 5.0, {"n": 1, "hangs": "model"}),
    "batched": ("auto", "never", {}),
    "read_ahead": (False, True, {}),
    "plan": (None, (Plain(), Plain(temperature=0.1)), {"n": 2}),
    "temperatures": (None, (0.1, 0.2), {"n": 2}),
    "system_prompts": (None, (None, "Be careful."), {"n": 2}),
    "seed": (None, 3, {"n": 2}),
}
DECISION = {
    "threshold": (0.5, 0.95, {}),
    "prefer": ("best", "safest", {"n": 3}),
    "min_familiarity": (0.0, 0.5, {"n": 3}),
    "below_threshold": ("refuse", "raise", {"threshold": 1.0}),
    "refusal": ("No.", "Never.", {"threshold": 1.0}),
    "scorer_error": ("raise", "refuse", {"error": RuntimeError()}),
    "unreadable": ("refuse", "pass", {"image": True}),
    "scoring_timeout": (0.1, 5.0, {"hangs": "scorer"}),
    "reasoning": ("worst", "joined", {"trace": True, "n": 2}),
    "mode": ("enforce", "observe", {"threshold": 1.0}),
    "enforce_share": (0.0, 1.0, {"threshold": 1.0, "mode": "observe"}),
}
CASES = [(SamplingPolicy, *item) for item in SAMPLING.items()]
CASES += [(DecisionPolicy, *item) for item in DECISION.items()]


def test_no_value_is_forgotten():
    elsewhere = {"max_in_flight", "cut_below"}  # tests/core: test_in_flight, test_cutting
    assert set(SAMPLING) == set(SamplingPolicy.model_fields) - elsewhere
    assert set(DECISION) == set(DecisionPolicy.model_fields)


@pytest.mark.parametrize(("policy", "field", "case"), CASES, ids=[c[1] for c in CASES])
def test_another_value_another_outcome(policy, field, case, limits, waits):
    one, other, needs = case
    seen = []
    for value in (one, other):
        settings = {**needs, field: value}
        sampling = {k: v for k, v in settings.items() if k in SamplingPolicy.model_fields}
        decision = {k: v for k, v in settings.items() if k in DecisionPolicy.model_fields}
        rest = {k: v for k, v in settings.items() if k not in {**sampling, **decision}}
        waits.clear()
        limits.new_request()
        seen.append(observe(sampling, decision, limits=limits, waits=waits, **rest))
    assert seen[0] != seen[1], f"{policy.__name__}.{field} makes no difference"
