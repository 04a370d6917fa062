from __future__ import annotations

import pytest
import torch

from srr_guard.errors import InvalidInputError
from srr_guard.reference.cache.partial import Window
from srr_guard.reference.cache.prefixes import Prefix
from srr_guard.reference.encoding.request import EncodingRequest, shares
from srr_guard.reference.features import FeatureSpec
from srr_guard.reference.template import PromptIds


def request(prompt: int, *windows: int, encoded: bool = False) -> EncodingRequest:
    state = torch.zeros(1, 1) if encoded else None
    ids = PromptIds(ids=[0] * prompt, request=range(prompt - 1, prompt))
    prefix = Prefix(ids, instruction=state, request=state)
    return EncodingRequest(prefix, [Window([0] * w) for w in windows], list(range(len(windows))))


def tokens(given: list[tuple[EncodingRequest, list[int]]]) -> int:
    prompts = sum(0 if e.prefix.encoded else len(e.prefix.prompt.ids) for e, _ in given)
    return prompts + sum(len(e.windows[i]) for e, windows in given for i in windows)


def test_what_fits_goes_in_one_pass() -> None:
    requests = [request(10, 5, 5), request(10, 5)]
    assert [w for _, w in shares(requests, 100)] == [[0, 1], [0]]
    assert [e.left for e in requests] == [10, 10]  # the prompts, until the pass is made


def test_a_pass_stays_within_its_budget() -> None:
    requests = [request(10, *[20] * 30) for _ in range(5)]
    assert tokens(shares(requests, 100)) <= 100


@pytest.mark.parametrize("encoded", [True, False])
def test_a_huge_request_holds_up_nobody_and_gets_on(encoded: bool) -> None:
    huge = request(10, *[50] * 1000, encoded=encoded)
    small = [request(10, 20) for _ in range(3)]
    given = dict(shares([huge, *small], 256))
    assert [given[e] for e in small] == [[0]] * 3
    assert len(given[huge]) == 3  # one to get on, two more that fit


def test_what_is_larger_than_the_budget_goes_alone() -> None:
    first, second = request(500, 5), request(10, 5)
    assert shares([first, second], 100) == [(first, [])]
    late = request(10, 500, encoded=True)
    assert shares([late, second], 100) == [(late, [0])]


@pytest.mark.parametrize(("window", "overlap"), [(0, 0), (8, 8), (8, -1)])
def test_windows_that_make_no_sense(window: int, overlap: int) -> None:
    with pytest.raises(InvalidInputError, match="make no sense"):
        FeatureSpec((1,), window, overlap)
