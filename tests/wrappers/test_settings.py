from __future__ import annotations

import inspect
from typing import get_type_hints

import pytest

from srr_guard import Guard, SamplingPolicy
from srr_guard.errors import ConfigurationError
from srr_guard.policy import GatePolicy
from srr_guard.recipes import Plain
from srr_guard.testing import FakeGate, FakeScorer
from srr_guard.wrappers.settings import SETTINGS, GuardSettings, guard_from

SCORER = FakeScorer(lambda prompt, answer: 0.9)


def test_adapters_take_all_that_a_guard_takes() -> None:
    taken = set(inspect.signature(Guard).parameters)
    assert set(get_type_hints(GuardSettings)) == taken | {"guard"}
    assert set(SETTINGS) < taken


def test_a_gate_reaches_the_guard_of_an_adapter() -> None:
    guard = guard_from(
        {"scorer": SCORER, "gate": FakeGate(lambda _: 0.99), "gating": GatePolicy(refuse_above=0.9)}
    )
    assert guard.decide("q", lambda index: "an answer").reason == "refused_by_gate"


@pytest.mark.parametrize(
    "settings",
    [
        {"sampling": SamplingPolicy(plan=(Plain(),))},
        {"gate": FakeGate(lambda _: 0.5), "gating": GatePolicy(plan=(Plain(),))},
    ],
    ids=["sampling", "gate"],
)
def test_plans_reach_no_model_there(settings: GuardSettings) -> None:
    with pytest.raises(ConfigurationError, match="reaches no model here"):
        guard_from({"scorer": SCORER, **settings})


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ConfigurationError, match="candidates: no such setting"):
        guard_from({"candidates": 4})  # type: ignore[typeddict-unknown-key]
