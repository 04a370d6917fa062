"""Policies: safe defaults, errors that name field, value and mend, JSON round trip."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from pydantic_core import PydanticSerializationError

from srr_guard.errors import ConfigurationError, SamplingError
from srr_guard.policy import DecisionPolicy, Policies, SamplingPolicy


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
        ("initial", 0),
        ("accept_at", 1.2),
        ("accept_help_at", -0.1),
        ("temperatures", ()),
        ("seed", -1),
        ("timeout", float("inf")),
        ("deadline", float("inf")),
        ("backoff", float("inf")),
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
        ("prefer", "shrug"),
        ("scoring_timeout", 0),
        ("refusal", ""),
        ("refusal", " \n"),
        ("refusal", "\u200b"),
        ("scoring_timeout", float("inf")),
    ],
)
def test_bad_decision_values_name_field_and_value(field, value):
    with pytest.raises(ConfigurationError, match="DecisionPolicy") as caught:
        DecisionPolicy(**{field: value})
    assert f"{field}={value!r}" in str(caught.value)


def test_min_candidates_that_can_never_be_met():
    with pytest.raises(ConfigurationError, match="min_candidates=3 can never be met with n=2"):
        SamplingPolicy(n=2, min_candidates=3)


def test_initial_candidates_that_make_no_sense():
    with pytest.raises(ConfigurationError, match="initial=5 is more than n=4: give 4 or less"):
        SamplingPolicy(initial=5)
    with pytest.raises(ConfigurationError, match="min_candidates=2: raise initial"):
        SamplingPolicy(accept_at=0.9, min_candidates=2)
    assert SamplingPolicy(accept_at=0.9, min_candidates=2, initial=2).initial == 2


@pytest.mark.parametrize("bad", [(int,), ("builtins.nonsense",), ValueError])
def test_retry_on_takes_exception_classes(bad):
    with pytest.raises(ConfigurationError, match="retry_on"):
        SamplingPolicy(retry_on=bad)


def test_function_has_no_json_form():
    policy = DecisionPolicy(threshold=0.7, prefer=len)
    with pytest.raises(PydanticSerializationError, match="no JSON form"):
        policy.model_dump_json()
    text = policy.model_dump_json(exclude={"prefer"})
    assert DecisionPolicy.model_validate_json(text) == DecisionPolicy(threshold=0.7)


def test_policies_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        SamplingPolicy().n = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    "policy",
    [
        SamplingPolicy(n=8, timeout=None, batched="never"),
        SamplingPolicy(n=8, initial=2, accept_at=0.97, temperatures=(0.2, 1.0), seed=7),
        SamplingPolicy(retry_on=(ConnectionError, SamplingError)),
        DecisionPolicy(threshold=0.9, prefer="safest", scoring_timeout=None),
    ],
)
def test_json_round_trip(policy):
    assert type(policy).model_validate_json(policy.model_dump_json()) == policy


def test_files_of_policies_that_other_editors_write(tmp_path):
    file = tmp_path / "policies.json"
    file.write_text(Policies().model_dump_json(), encoding="utf-8-sig")
    assert Policies.load(file) == Policies()
    file.write_text("[" * 100_000)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Policies.load(file)


def test_files_of_policies_are_utf8_in_any_locale(tmp_path):
    write = """if True:
        import sys
        from srr_guard.policy import DecisionPolicy, Policies
        policies = Policies(decision=DecisionPolicy(refusal="Nein, das m\\u00f6chte ich nicht."))
        policies.save(sys.argv[1])
    """
    file = tmp_path / "policies.json"
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    subprocess.run([sys.executable, "-c", write, str(file)], env=ascii_only, check=True, timeout=60)
    assert Policies.load(file).decision.refusal == "Nein, das möchte ich nicht."


@pytest.mark.parametrize("name", ["temperatures", "system_prompts"])
def test_more_settings_than_candidates_are_refused(name):
    values = {"temperatures": (0.1, 0.5, 0.9), "system_prompts": (None, "a", "b")}[name]
    with pytest.raises(ConfigurationError, match=rf"{name}=.* are 3 for n=2.*raise n to 3"):
        SamplingPolicy(n=2, **{name: values})
    assert len({SamplingPolicy(n=3, **{name: values}).recipe(i) for i in range(3)}) == 3
