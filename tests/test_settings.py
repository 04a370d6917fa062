"""Functions of another kind are refused where they are given."""

from __future__ import annotations

import pytest

from srr_guard import Guard, SafetyRanker, srr_guard
from srr_guard.audit import AuditLog
from srr_guard.errors import ConfigurationError
from srr_guard.settings import require_function
from srr_guard.testing import FakeScorer


async def later(*args):
    raise AssertionError


def pieces(*args):
    yield


async def later_pieces(*args):
    yield


class Later:
    async def __call__(self, *args):
        raise AssertionError


WRONG = [later, pieces, later_pieces, Later(), 7]


@pytest.mark.parametrize("wrong", WRONG)
def test_functions_that_are_called_for_their_result(wrong, tmp_path):
    for make in (
        lambda: SafetyRanker(lambda q: "a", prompt=wrong),
        lambda: srr_guard(text=wrong),
        lambda: AuditLog(tmp_path / "a.jsonl", redact=wrong),
        lambda: require_function("name", wrong, "a function"),
    ):
        with pytest.raises(ConfigurationError, match=r"give|not known"):
            make()


@pytest.mark.parametrize("wrong", WRONG[:-1])
def test_prompt_of_a_decorator(wrong):
    with pytest.raises(ConfigurationError, match="prompt="):
        srr_guard(prompt=wrong)


@pytest.mark.parametrize("wrong", [pieces, later_pieces, 7])
def test_hooks(wrong):
    with pytest.raises(ConfigurationError, match="on_decision="):
        Guard(on_decision=wrong)


def test_scorers_whose_score_is_async():
    class Scorer(FakeScorer):
        async def score(self, conversation, candidates):
            raise AssertionError

    with pytest.raises(ConfigurationError, match="scorer="):
        Guard(scorer=Scorer(lambda prompt, text: 0.9))


@pytest.mark.parametrize("fine", [None, str, len, print, lambda x: x])
def test_functions_that_are_fine(fine):
    require_function("name", fine, "a function")
