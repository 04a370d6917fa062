from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, Family, save_tiny_lm

from srr_guard.conversation import Conversation
from srr_guard.reference import ReferenceLLM
from srr_guard.reference.cache.prefixes import Prefix, PrefixCache
from srr_guard.reference.template import PromptIds

FIRST = [("system", "Be kind to everyone, always."), ("user", "How do tides work?")]
LATER = [*FIRST, ("assistant", "The moon pulls."), ("user", "And the sun?")]


def prompt(*ids: int, request: range | None = None) -> PromptIds:
    return PromptIds(ids=list(ids), request=request or range(len(ids) - 1, len(ids)))


def encoded(*ids: int, tokens: int = 1) -> Prefix:
    keys = [torch.zeros(1, 1, len(ids), tokens)]
    state = torch.zeros(1, 1)
    return Prefix(prompt(*ids), keys, list(keys), len(ids), instruction=state, request=state)


class Passes:
    """Counts the tokens of the forward passes of a reference LLM."""

    def __init__(self, llm: ReferenceLLM) -> None:
        self.tokens: list[int] = []
        llm.backbone.layers[0].register_forward_hook(
            lambda _m, _args, states: self.tokens.append(states.shape[1])
        )


@pytest.fixture
def llm(tiny_folder: Path) -> ReferenceLLM:
    return ReferenceLLM.load(tiny_folder)


def test_a_prompt_that_comes_back_is_not_encoded_again(llm: ReferenceLLM) -> None:
    passes = Passes(llm)
    llm.encode(FIRST, ["abc", "defgh"], depths=(2, 4))
    llm.encode(FIRST, ["xyz"], depths=(2, 4))
    prompt_tokens = len(llm.template.prompt(Conversation.of(FIRST), limit=500).ids)
    assert passes.tokens == [prompt_tokens + 8, 3]


@pytest.mark.parametrize("family", FAMILIES)
def test_features_after_a_cached_prefix_are_the_same(family: Family, tmp_path: Path) -> None:
    folder = save_tiny_lm(tmp_path, family=family, layers=4)
    warm, cold = ReferenceLLM.load(folder), ReferenceLLM.load(folder)
    warm.encode(FIRST, ["The moon."], depths=(2, 4))
    for talk in (FIRST, LATER):
        got = warm.encode(talk, ["Yes, it does.", "No."], depths=(2, 4))
        expected = cold.encode(talk, ["Yes, it does.", "No."], depths=(2, 4))
        for name in ("instruction", "request", "mean", "last"):
            torch.testing.assert_close(
                getattr(got, name), getattr(expected, name), atol=1e-5, rtol=1e-4
            )


def test_a_later_turn_takes_over_the_common_beginning(llm: ReferenceLLM) -> None:
    passes = Passes(llm)
    llm.encode(FIRST, ["abc"], depths=(2, 4))
    llm.encode(LATER, ["abc"], depths=(2, 4))
    assert passes.tokens[1] < passes.tokens[0]


def test_the_states_of_the_latest_turn_are_never_taken_over() -> None:
    cache = PrefixCache(10_000)
    cache.keep(encoded(*range(30)))
    prefix = cache.prefix(prompt(*range(40), request=range(20, 30)))
    assert (prefix.known, prefix.encoded) == (20, False)
    assert cache.prefix(prompt(*range(40), request=range(5, 30))).known == 0  # not worth it


def test_least_recently_used_prompts_give_way() -> None:
    one = encoded(*range(20))
    cache = PrefixCache(2 * one.bytes)
    prefixes = [encoded(*range(k, k + 20)) for k in (0, 100, 200)]
    cache.keep(prefixes[0])
    cache.keep(prefixes[1])
    assert cache.prefix(prefixes[0].prompt) is prefixes[0]
    cache.keep(prefixes[2])
    assert (len(cache), cache.bytes) == (2, 2 * one.bytes)
    assert cache.prefix(prefixes[0].prompt) is prefixes[0]
    assert cache.prefix(prefixes[1].prompt) is not prefixes[1]


def test_what_is_larger_than_the_budget_is_not_kept() -> None:
    cache = PrefixCache(10)
    cache.keep(encoded(*range(20)))
    assert (len(cache), cache.bytes) == (0, 0)
