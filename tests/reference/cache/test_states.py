"""States recorded during generation are those of an encoding afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import Family, save_tiny_lm

from srr_guard import LocalChatModel, SRRScorer
from srr_guard.conversation import Conversation
from srr_guard.reference import ReferenceLLM
from srr_guard.reference.cache.partial import Window
from srr_guard.reference.cache.prefixes import Prefix
from srr_guard.reference.cache.states import ModelKey, RecordedAnswer, StateCache
from srr_guard.reference.encoding.request import EncodingRequest
from srr_guard.reference.features import FeatureSpec
from srr_guard.reference.host import host
from srr_guard.reference.template import PromptIds
from srr_guard.scorer.bundle import ScorerBundle

DEPTHS = (1, 3)


@pytest.fixture(autouse=True)
def states(monkeypatch: pytest.MonkeyPatch) -> StateCache:
    states = StateCache(most=64)
    monkeypatch.setattr(host, "states", states)
    return states


def key(folder: Path) -> ModelKey:
    return str(folder), "cpu", "float32"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
@pytest.mark.parametrize("length", [1, 2, 24])
def test_states_are_those_of_an_encoding(
    family: Family, length: int, tmp_path: Path, states: StateCache
) -> None:
    folder = save_tiny_lm(tmp_path, family=family, layers=4)
    states.subscribe(key(folder), DEPTHS)
    model = LocalChatModel(model=folder, max_new_tokens=length, temperature=2.0, seed=3)
    model.sample_candidates("Hi there", 6)
    assert len(states)
    llm = ReferenceLLM.load(folder)
    lengths = set()
    for (_, depths, prompt, answer), found in states:
        latest = llm.template.text_ids("Hi there")
        start = next(i for i in range(len(prompt)) if list(prompt[i:][: len(latest)]) == latest)
        prefix = Prefix(PromptIds(ids=list(prompt), request=range(start, start + len(latest))))
        encoding = EncodingRequest(prefix, [Window(answer)], [0])
        llm.step([encoding], FeatureSpec(depths))
        expected = encoding.features()
        for name in ("instruction", "request"):
            torch.testing.assert_close(
                getattr(found, name), getattr(expected, name), atol=1e-4, rtol=1e-4
            )
        torch.testing.assert_close(found.mean, expected.mean[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.last, expected.last[0], atol=1e-4, rtol=1e-4)
        lengths.add(len(answer))
    assert max(lengths) == length  # its last token too


def test_nothing_is_recorded_that_nobody_wants(tiny_folder: Path, states: StateCache) -> None:
    LocalChatModel(model=tiny_folder, max_new_tokens=4).invoke("Hi")
    assert not len(states)


def test_the_oldest_answers_give_way(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = StateCache(most=3)
    monkeypatch.setattr(host, "states", states)
    states.subscribe(key(tiny_folder), DEPTHS)
    LocalChatModel(model=tiny_folder, max_new_tokens=6, temperature=2.0).sample_candidates("Hi", 8)
    assert len(states) == 3


@pytest.mark.model
def test_ranking_what_the_reference_llm_wrote_needs_no_pass(
    monkeypatch: pytest.MonkeyPatch, states: StateCache
) -> None:
    scorer = SRRScorer.from_pretrained()
    states.subscribe(host.key(scorer.reference), (12, 16, 20))
    question = "Name three colours of autumn leaves."
    answers = LocalChatModel(max_new_tokens=24, seed=1).sample_candidates(question, 4)
    llm = scorer.engine.encoder()  # where both have one precision, that of the chat model
    written = {answer for (*_, answer), _ in states}
    # sampling may split a word otherwise than the tokenizer does; such answers are read again
    texts = [a.text for a in answers if tuple(llm.template.candidate_ids(a.text)) in written]
    assert len(texts) >= 2
    passes: list[int] = []
    real = llm.step
    monkeypatch.setattr(llm, "step", lambda *a, **k: (passes.append(1), real(*a, **k)))
    free = scorer.score(question, texts)
    assert passes == []
    states.clear()
    paid = scorer.score(question, texts)
    assert passes
    assert free.order == paid.order
    assert free.p_safe == pytest.approx(paid.p_safe, abs=1e-3)


def test_what_is_recalled_of_a_prompt_is_not_taken_for_its_encoding(
    tiny_folder: Path, states: StateCache
) -> None:
    states.subscribe(key(tiny_folder), DEPTHS)
    model = LocalChatModel(model=tiny_folder, max_new_tokens=4, temperature=2.0, seed=3)
    model.invoke("Hi there")
    ((_, _, _, answer), found) = next(iter(states))
    llm = ReferenceLLM.load(tiny_folder)
    spec = FeatureSpec(DEPTHS)
    both = [llm.begin("Hi there", ["x"], spec) for _ in range(2)]
    both[0].windows = [Window(answer)]
    both[0].recall(lambda *_: found)
    assert both[0].finished
    llm.step([both[1]], spec)
    assert both[1].finished


def test_an_answer_drawn_in_other_tokens_than_its_text_is_read_again(
    tiny_folder: Path, tiny_bundle: ScorerBundle, states: StateCache
) -> None:
    """Its score is that of its text; the recorded states stay unused, exact ones are taken."""
    scorer = SRRScorer(bundle=tiny_bundle, reference=str(tiny_folder), device="cpu")
    depths = scorer.engine.spec.depths
    scorer.warm_up()
    llm = host.submit(scorer.engine.encoder).result()
    prompt = llm.template.prompt(Conversation.of("Hi"), limit=200).ids
    text = "fine words"
    own = tuple(llm.template.candidate_ids(text))
    drawn = tuple(llm.template.text_ids("fine")) + tuple(llm.template.text_ids("words")) + (3,)
    clean = scorer.score("Hi", [text]).p_safe[0]
    far = RecordedAnswer(*(torch.full((len(depths), llm.width), 50.0) for _ in range(4)))
    model = host.key(scorer.reference)
    states.keep(model, depths, prompt, drawn, far)
    llm.clear_caches()
    assert scorer.score("Hi", [text]).p_safe[0] == clean
    states.keep(model, depths, prompt, own, far)
    assert abs(scorer.score("Hi", [text]).p_safe[0] - clean) > 1e-3
