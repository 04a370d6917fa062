"""Policies: safe defaults, errors that name field, value and mend, JSON round trip."""

from __future__ import annotations

import pytest

from srr_guard.errors import ConfigurationError
from srr_guard.policy import DecisionPolicy, SamplingPolicy


def test_defaults_fail_closed():
    policy = DecisionPolicy()
    assert policy.below_threshold == "refuse"
    assert policy.scorer_error == "raise"
    assert policy.threshold > 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", -1),
        ("n", 257),
        ("n", "many"),
        ("min_candidates", 0),
        ("attempts", 0),
        ("backoff", -0.1),
        ("timeout", 0),
        ("deadline", -5),
        ("batched", "always"),
        ("nonsense", 1),
    ],
)
def test_bad_sampling_values_name_field_and_value(field, value):
    with pytest.raises(ConfigurationError, match="SamplingPolicy") as caught:
        SamplingPolicy(**{field: value})
    assert f"{field}={value!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threshold", 1.1),
        ("threshold", float("nan")),
        ("below_threshold", "shrug"),
        ("scorer_error", "shrug"),
        ("refusal", ""),
    ],
)
def test_bad_decision_values_name_field_and_value(field, value):
    with pytest.raises(ConfigurationError, match="DecisionPolicy") as caught:
        DecisionPolicy(**{field: value})
    assert f"{field}={value!r}" in str(caught.value)


def test_min_candidates_that_can_never_be_met():
    with pytest.raises(ConfigurationError, match="min_candidates=3 can never be met with n=2"):
        SamplingPolicy(n=2, min_candidates=3)


def test_policies_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        SamplingPolicy().n = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    "policy",
    [SamplingPolicy(n=8, timeout=None, batched="never"), DecisionPolicy(threshold=0.9)],
)
def test_json_round_trip(policy):
    assert type(policy).model_validate_json(policy.model_dump_json()) == policy
