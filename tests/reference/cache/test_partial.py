from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import Family, save_tiny_lm

from srr_guard.reference import ReferenceLLM
from srr_guard.reference.cache.partial import PartialWindow, PartialWindowCache
from srr_guard.reference.features import FeatureSpec
from srr_guard.reference.template import PromptIds

PROMPT = "How do magnets work?"
TEXT = "They line up tiny regions, each of which is a magnet by itself. " * 3
LAYOUT = FeatureSpec((1, 3), window=64, overlap=16)


def read_ahead(llm: ReferenceLLM, *texts: str) -> int:
    """Read unfinished texts; the number of tokens that this took."""
    encoding = llm.begin(PROMPT, texts, LAYOUT, ahead="unfinished")
    tokens = encoding.left
    while not encoding.finished:
        llm.step([encoding], LAYOUT)
    return tokens


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma2", "bloom"])
def test_an_answer_read_in_pieces_has_the_same_features(family: Family, tmp_path: Path) -> None:
    folder = save_tiny_lm(tmp_path, family=family, layers=3)
    whole, pieces = (ReferenceLLM.load(folder) for _ in range(2))
    for end in (0, 1, 2, 20, 21, 60, 90, len(TEXT)):
        read_ahead(pieces, TEXT[:end], f"Well, {TEXT[:end]}")
    answers = [TEXT, f"Well, {TEXT}", "Well, no.", TEXT[:40] + "!"]
    expected = whole.encode_many([(PROMPT, answers)], LAYOUT)[0]
    found = pieces.encode_many([(PROMPT, answers)], LAYOUT)[0]
    for name in ("instruction", "request", "mean", "last"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), atol=1e-4, rtol=1e-4
        )
    assert found.lengths.tolist() == expected.lengths.tolist()


def test_only_what_is_new_is_read(tiny_folder: Path) -> None:
    llm = ReferenceLLM.load(tiny_folder)
    first = read_ahead(llm, "x" * 20)
    assert first > 18  # the prompt too; the last two tokens may yet change
    assert read_ahead(llm, "x" * 20) == 0
    assert read_ahead(llm, "x" * 30) == 10
    assert llm.begin(PROMPT, ["x" * 30], LAYOUT).left == 2
    assert llm.begin("Another prompt", ["x" * 30], LAYOUT).left > 30


def test_what_was_read_as_unfinished_may_be_the_end(tiny_folder: Path) -> None:
    llm = ReferenceLLM.load(tiny_folder)
    read_ahead(llm, "x" * 20)
    encoding = llm.begin(PROMPT, ["x" * 18, "x" * 10], LAYOUT)
    assert encoding.finished
    alone = ReferenceLLM.load(tiny_folder).encode_many([(PROMPT, ["x" * 18, "x" * 10])], LAYOUT)[0]
    torch.testing.assert_close(encoding.features().mean, alone.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(encoding.features().last, alone.last, atol=1e-4, rtol=1e-4)


def test_answers_that_are_begun_together_read_their_prompt_once(tiny_folder: Path) -> None:
    llm = ReferenceLLM.load(tiny_folder)
    begun = [llm.begin(PROMPT, [text], LAYOUT, ahead="unfinished") for text in ("x" * 9, "y" * 9)]
    assert begun[0].prefix is begun[1].prefix
    llm.step(begun, LAYOUT)
    assert all(encoding.finished for encoding in begun)
    alone = ReferenceLLM.load(tiny_folder).encode_many([(PROMPT, ["x" * 9, "y" * 9])], LAYOUT)[0]
    found = llm.encode_many([(PROMPT, ["x" * 9, "y" * 9])], LAYOUT)[0]
    for name in ("instruction", "request", "mean", "last"):
        torch.testing.assert_close(getattr(found, name), getattr(alone, name), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("before", [None, [("system", "Be kind."), ("user", "And tides?")]])
def test_a_prompt_whose_encoding_failed_is_begun_anew(
    tiny_folder: Path, before: list[tuple[str, str]] | None
) -> None:
    llm = ReferenceLLM.load(tiny_folder)
    prompt = [*before, ("user", PROMPT)] if before else PROMPT
    if before:  # a part of the prompt is known then
        llm.encode(before, ["x"], depths=LAYOUT.depths)
    handle = llm.backbone.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    failed = llm.begin(prompt, ["x"], LAYOUT)
    assert bool(failed.prefix.known) == bool(before)
    with pytest.raises(ZeroDivisionError):
        llm.step([failed], LAYOUT)
    handle.remove()
    again = llm.encode(prompt, ["x"], depths=LAYOUT.depths)  # while `failed` is still there
    alone = ReferenceLLM.load(tiny_folder).encode(prompt, ["x"], depths=LAYOUT.depths)
    for name in ("instruction", "request", "mean", "last"):
        torch.testing.assert_close(getattr(again, name), getattr(alone, name), atol=1e-4, rtol=1e-4)


PROMPT_IDS = PromptIds(ids=[1, 2, 3], request=range(1, 2))


def draft(*ids: int) -> PartialWindow:
    return PartialWindow(PROMPT_IDS, list(ids), states=[torch.zeros(len(ids), 1)])


def kept(store: PartialWindowCache, *ids: int) -> None:
    window = store.window(PROMPT_IDS, ids)
    window.partial = draft(*ids)
    store.keep(window)


def test_a_longer_draft_takes_the_place_of_the_one_it_continues() -> None:
    store = PartialWindowCache(max_bytes=1000)
    kept(store, *range(8))
    kept(store, *range(12))
    assert (len(store), store.bytes) == (1, 48)
    kept(store, *range(8), 0, 0)  # another answer that begins alike
    assert (len(store), store.bytes) == (2, 48 + 40)
    assert store.window(PROMPT_IDS, range(20)).known == 12


def test_the_budget_is_kept() -> None:
    store = PartialWindowCache(max_bytes=100)
    for first in range(5):
        kept(store, *[first] * 10)
    assert (len(store), store.bytes) == (2, 80)
    kept(store, *[9] * 100)  # over the budget alone
    assert store.window(PROMPT_IDS, [9] * 100).known == 0
    assert store.window(PROMPT_IDS, [4] * 10).known == 10
