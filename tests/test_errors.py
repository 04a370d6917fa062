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
    SamplingError,
)
from srr_guard.testing import FakeScorer, ScriptedChatModel


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
        AllCandidatesFailedError.of([ValueError("a")]),
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


class RateLimitedError(Exception):
    """As providers have them: it wants arguments, and carries a response."""

    def __init__(self, message: str, *, response: object) -> None:
        super().__init__(message)
        self.response = response


class TestAllFailedAlike:
    @pytest.mark.parametrize(
        "cause",
        [
            ConnectionResetError(104, "reset"),
            TimeoutError("late"),
            KeyError("question"),
            UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
            RateLimitedError("slow down", response=429),
        ],
        ids=lambda cause: type(cause).__name__,
    )
    def test_it_is_also_of_their_type(self, cause):
        error = AllCandidatesFailedError.of([cause, cause])
        assert isinstance(error, AllCandidatesFailedError)
        assert isinstance(error, type(cause))
        assert type(error).__name__ == "AllCandidatesFailedError"
        assert str(error).startswith("all 2 candidates failed; the first one with")
        assert error.causes == (cause, cause)
        assert getattr(error, "response", None) == getattr(cause, "response", None)

    def test_causes_of_several_types(self):
        error = AllCandidatesFailedError.of([ValueError("a"), KeyError("b")])
        assert type(error) is AllCandidatesFailedError

    def test_own_errors_and_types_that_cannot_be_combined(self):
        for cause in (SamplingError("blank"), ExceptionGroup("many", [ValueError()])):
            assert type(AllCandidatesFailedError.of([cause])) is AllCandidatesFailedError

    def test_without_causes(self):
        error = AllCandidatesFailedError.of(())
        assert type(error) is AllCandidatesFailedError
        assert error.causes == ()

    def test_pickle(self):
        error = pickle.loads(pickle.dumps(AllCandidatesFailedError.of([TimeoutError("late")])))
        assert isinstance(error, TimeoutError)
        assert str(error.causes[0]) == "late"

    def test_outer_fallbacks_and_retries_recognise_it(self):
        model = ScriptedChatModel(answers=[RateLimitedError("x", response=429)])
        guard = SafetyRanker(model, scorer=FakeScorer(lambda p, a: 0.9), n=2)
        backup = ScriptedChatModel(answers=["backup"])
        chain = guard.with_fallbacks([backup], exceptions_to_handle=(RateLimitedError,))
        assert chain.invoke("q").text == "backup"
        with pytest.raises(RateLimitedError) as caught:
            guard.invoke("q")
        assert caught.value.response == 429


FIELDS = [
    (OSError(28, "no space", "file"), ("errno", "strerror", "filename")),
    (ConnectionResetError(104, "reset"), ("errno",)),
    (ImportError("no", name="n", path="p"), ("name", "path")),
    (UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), ("start", "end", "reason", "object")),
    (SyntaxError("bad", ("f", 1, 2, "text")), ("filename", "lineno", "text")),
]


@pytest.mark.parametrize(("cause", "names"), FIELDS, ids=lambda found: type(found).__name__)
def test_the_fields_of_the_cause_are_kept(cause, names):
    error = AllCandidatesFailedError.of([cause, cause])
    for found in (error, pickle.loads(pickle.dumps(error))):
        assert isinstance(found, type(cause))
        assert [getattr(found, n) for n in names] == [getattr(cause, n) for n in names]
        assert str(found).startswith("all 2 candidates failed")
