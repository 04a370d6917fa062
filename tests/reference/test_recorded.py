"""States recorded during generation are those of an encoding afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import Family, save_tiny_lm

from srr_guard import LocalChatModel, SRRScorer
from srr_guard.reference import ReferenceLLM, recorded
from srr_guard.reference.drafts import Window
from srr_guard.reference.encoding import Encoding, Layout
from srr_guard.reference.packing import Stem
from srr_guard.reference.template import PromptIds

DEPTHS = (1, 3)


@pytest.fixture(autouse=True)
def nothing_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "_answers", type(recorded._answers)())
    monkeypatch.setattr(recorded, "_wanted", {})
    return


def place(folder: Path) -> recorded.Model:
    return str(folder), "cpu", "float32"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
@pytest.mark.parametrize("length", [1, 2, 24])
def test_states_are_those_of_an_encoding(family: Family, length: int, tmp_path: Path) -> None:
    folder = save_tiny_lm(tmp_path, family=family, layers=4)
    recorded.want(place(folder), DEPTHS)
    model = LocalChatModel(model=folder, max_new_tokens=length, temperature=2.0, seed=3)
    model.sample_candidates("Hi there", 6)
    assert recorded._answers
    llm = ReferenceLLM.load(folder)
    lengths = set()
    for (_, depths, prompt, answer), found in recorded._answers.items():
        latest = llm._template.text_ids("Hi there")
        start = next(i for i in range(len(prompt)) if list(prompt[i:][: len(latest)]) == latest)
        stem = Stem(PromptIds(ids=list(prompt), request=range(start, start + len(latest))))
        encoding = Encoding(stem, [Window(answer)], [0])
        llm.step([encoding], Layout(depths))
        expected = encoding.features()
        for name in ("instruction", "request"):
            torch.testing.assert_close(
                getattr(found, name), getattr(expected, name), atol=1e-4, rtol=1e-4
            )
        torch.testing.assert_close(found.mean, expected.mean[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.last, expected.last[0], atol=1e-4, rtol=1e-4)
        lengths.add(len(answer))
    assert max(lengths) == length  # its last token too


def test_nothing_is_recorded_that_nobody_wants(tiny_folder: Path) -> None:
    LocalChatModel(model=tiny_folder, max_new_tokens=4).invoke("Hi")
    assert not recorded._answers


def test_the_oldest_answers_give_way(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "_MOST", 3)
    recorded.want(place(tiny_folder), DEPTHS)
    LocalChatModel(model=tiny_folder, max_new_tokens=6, temperature=2.0).sample_candidates("Hi", 8)
    assert len(recorded._answers) <= 3


@pytest.mark.model
def test_ranking_what_the_reference_llm_wrote_needs_no_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scorer = SRRScorer.from_pretrained()
    llm, _ = scorer._engine()._parts()
    recorded.want((*scorer._engine()._place,), (12, 16, 20))
    question = "Name three colours of autumn leaves."
    answers = LocalChatModel(max_new_tokens=24, seed=1).sample_candidates(question, 4)
    written = {answer for *_, answer in recorded._answers}
    # sampling may split a word otherwise than the tokenizer does; such answers are read again
    texts = [a.text for a in answers if tuple(llm._template.candidate_ids(a.text)) in written]
    assert len(texts) >= 2
    passes: list[int] = []
    real = llm.step
    monkeypatch.setattr(llm, "step", lambda *a, **k: (passes.append(1), real(*a, **k)))
    free = scorer.score(question, texts)
    assert passes == []
    recorded._answers.clear()
    paid = scorer.score(question, texts)
    assert passes
    assert free.order == paid.order
    assert free.p_safe == pytest.approx(paid.p_safe, abs=1e-3)


def test_what_is_recalled_of_a_prompt_is_not_taken_for_its_encoding(tiny_folder: Path) -> None:
    recorded.want(place(tiny_folder), DEPTHS)
    model = LocalChatModel(model=tiny_folder, max_new_tokens=4, temperature=2.0, seed=3)
    model.invoke("Hi there")
    ((_, _, _, answer), found) = next(iter(recorded._answers.items()))
    llm = ReferenceLLM.load(tiny_folder)
    layout = Layout(DEPTHS)
    both = [llm.begin("Hi there", ["x"], layout) for _ in range(2)]
    both[0].windows = [Window(answer)]
    both[0].recall(lambda *_: found)
    assert both[0].finished
    llm.step([both[1]], layout)
    assert both[1].finished
