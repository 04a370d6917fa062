"""The tree drawn in the docstring is the real one, and messages say the mend."""

from __future__ import annotations

import pickle
import re

import pytest

from srr_guard import DecisionPolicy, SafetyRanker, errors
from srr_guard.errors import (
    AllCandidatesFailedError,
    BelowThresholdError,
    ConfigurationError,
    MissingExtraError,
    NotEnoughCandidatesError,
)
from srr_guard.testing import FakeScorer


def drawn_tree() -> dict[str, tuple[str, str | None]]:
    """Class name -> (parent's name, the builtin it also is)."""
    tree: dict[str, tuple[str, str | None]] = {}
    path: list[str] = ["SRRGuardError"]
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^([│├└─ ]+)(\w+Error)(?: +\((\w+)\))?", line)
        if found:
            depth = len(found[1]) // 4
            tree[found[2]] = (path[depth - 1], found[3])
            path[depth:] = [found[2]]
    return tree


def real_classes() -> list[type[Exception]]:
    return [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]


def test_every_error_is_drawn():
    assert {c.__name__ for c in real_classes()} == {"SRRGuardError", *drawn_tree()}


@pytest.mark.parametrize("name", drawn_tree())
def test_drawn_place_is_the_real_one(name):
    parent, builtin = drawn_tree()[name]
    bases = [base.__name__ for base in getattr(errors, name).__bases__]
    assert bases == [parent, *([builtin] if builtin else [])]


def test_missing_extra_names_the_command():
    error = MissingExtraError(package="openai", extra="openai", purpose="The adapter")
    assert 'pip install "srr-guard[openai]"' in str(error)


def test_group_errors_hold_every_cause():
    causes = [ValueError("a"), OSError("b")]
    assert AllCandidatesFailedError(causes).causes == tuple(causes)
    error = NotEnoughCandidatesError(succeeded=1, required=2, causes=causes)
    assert error.causes == tuple(causes)
    assert "min_candidates=2" in str(error)


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("n=0 makes no sense"),
        MissingExtraError(package="openai", extra="openai", purpose="The adapter"),
        AllCandidatesFailedError([ValueError("a")]),
        NotEnoughCandidatesError(succeeded=1, required=2, causes=[ValueError("a")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_pickle(error):
    error.add_note("a note")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.args) == (type(error), str(error), error.args)
    assert copy.__notes__ == ["a note"]
    assert repr(getattr(copy, "causes", None)) == repr(getattr(error, "causes", None))


def test_pickled_errors_keep_the_decision():
    guard = SafetyRanker(
        lambda question: "bad",
        scorer=FakeScorer(lambda prompt, answer: 0.1),
        decision=DecisionPolicy(below_threshold="raise"),
    )
    with pytest.raises(BelowThresholdError) as caught:
        guard.invoke("q")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.decision == caught.value.decision
    assert str(copy) == str(caught.value)
