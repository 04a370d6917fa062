"""Shares add up to the logit, and the logit is the one that is scored with."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from srr_guard import Conversation, SRRScorer
from srr_guard.errors import ConfigurationError, InvalidInputError
from srr_guard.reference import ReferenceLLM
from srr_guard.reference.features import FeatureSpec
from srr_guard.reference.template import PromptTemplate, candidate_text
from srr_guard.scorer import HeadConfig
from srr_guard.scorer.explanation import Explanation, ProbeShares, explain, sentences_of
from srr_guard.scorer.head import SRRHead
from srr_guard.scorer.inference import judge

ANSWER = "Water it twice a week. Then, one day, give it a new pot!\nIt will thank you."
SPEC = FeatureSpec((2, 3), window=24, overlap=8)


def head_of(llm: ReferenceLLM, **design: object) -> SRRHead:
    options = {"poolings": ("mean",), "pointwise": True, "graded": True, "listwise": False}
    config = HeadConfig(width=llm.width, depths=SPEC.depths, **{**options, **design})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SRRHead(config).eval()


def check_sums(shares: ProbeShares) -> None:
    total = sum(token.value for token in shares.tokens) + shares.intercept + shares.rest
    assert total == pytest.approx(shares.logit, abs=1e-4)
    by_sentence = sum(s.value for s in shares.sentences)
    assert by_sentence == pytest.approx(sum(t.value for t in shares.tokens), abs=1e-4)
    for share in (*shares.tokens, *shares.sentences):
        assert shares.text[share.start : share.end] == share.text


@pytest.mark.parametrize("poolings", [("mean",), ("last",), ("mean", "last")])
@pytest.mark.parametrize("answer", [ANSWER, "Yes.", "ü€😀 " * 5, ANSWER * 4])
def test_logits_are_those_that_are_scored_with(
    tiny_llm: ReferenceLLM, poolings: tuple[str, ...], answer: str
) -> None:
    head = head_of(tiny_llm, poolings=poolings)
    talk = Conversation.of([("system", "Be brief."), ("user", "How do I water a cactus?")])
    found = explain(tiny_llm, head, SPEC, talk, answer)
    features = tiny_llm.encode_many([(talk, [answer])], SPEC)[0]
    judged = judge(
        head,
        windows={"mean": features.mean, "last": features.last},
        prompt={"instruction": features.instruction[None], "request": features.request[None]},
        owner=features.owner,
    )
    assert found.p_safe == pytest.approx(float(judged.p_safe[0]), abs=1e-4)
    pairs = [
        (found.harmless, judged.probes.harmless),
        (found.answers, judged.probes.answers),
        (found.harmful_request, judged.probes.harmful_request),
    ]
    for shares, logit in pairs:
        assert shares is not None
        check_sums(shares)
        assert shares.logit == pytest.approx(float(logit[0]), abs=1e-3)


def test_limited_inputs_add_up_too(tiny_llm: ReferenceLLM) -> None:
    head = head_of(tiny_llm)
    head.harmless.scale.mul_(1e-3)
    check_sums(explain(tiny_llm, head, SPEC, Conversation.of("Hi"), ANSWER).harmless)


def test_sentences(tiny_llm: ReferenceLLM) -> None:
    found = explain(tiny_llm, head_of(tiny_llm), FeatureSpec((2, 3)), Conversation.of("Hi"), ANSWER)
    said = ["Water it twice a week.", "Then, one day, give it a new pot!", "It will thank you."]
    assert [sentence.text for sentence in found.harmless.sentences] == said
    values = [sentence.value for sentence in found.harmless.sentences]
    assert found.harmless.lowest.value == min(values)
    assert found.harmless.highest.value == max(values)


def test_effects_are_read_off_the_answer_without_each_sentence(tiny_llm: ReferenceLLM) -> None:
    found = explain(tiny_llm, head_of(tiny_llm), FeatureSpec((2, 3)), Conversation.of("Hi"), ANSWER)
    asked: list[str] = []
    marks = {"Water": 0.5, "Then": 0.999999, "It will": 0.0}

    def p_safe(texts: Sequence[str]) -> list[float]:
        asked.extend(texts)
        missing = [next((m for m in marks if m not in text), None) for text in texts]
        return [0.5 if m is None else marks[m] for m in missing]

    told = found.with_effects(p_safe)
    assert asked[0] == ANSWER
    assert sorted(asked[1:]) == [
        " Then, one day, give it a new pot!\nIt will thank you.",
        "Water it twice a week. \nIt will thank you.",
        "Water it twice a week. Then, one day, give it a new pot!\n",
    ]
    assert [effect.text for effect in told.effects] == [s.text for s in found.harmless.sentences]
    same, worst, best = told.effects
    assert same.value == pytest.approx(0.0, abs=1e-9)
    assert worst.value < 0.0 < best.value < 30.0
    assert told.worst == worst
    assert Explanation.model_validate_json(told.model_dump_json()) == told


def test_of_a_long_answer_the_sentences_of_the_worst_window_are_read(
    tiny_llm: ReferenceLLM,
) -> None:
    spec = FeatureSpec((2, 3), window=60, overlap=20)
    found = explain(tiny_llm, head_of(tiny_llm), spec, Conversation.of("Hi"), ANSWER * 4)
    asked: list[str] = []

    def p_safe(texts: Sequence[str]) -> list[float]:
        asked.extend(texts)
        return [0.5] * len(texts)

    told = found.with_effects(p_safe)
    first, last = found.harmless.tokens[0].start, found.harmless.tokens[-1].end
    assert len(asked[0]) < len(found.harmless.text)
    assert all(effect.start < last and effect.end > first for effect in told.effects)
    assert len(asked) == len(told.effects) + 1


def test_of_many_sentences_those_with_the_lowest_shares_are_read_without(
    tiny_llm: ReferenceLLM,
) -> None:
    text = " ".join(f"Go {i}." for i in range(20))
    spec = FeatureSpec((2, 3), window=2000, overlap=8)
    found = explain(tiny_llm, head_of(tiny_llm), spec, Conversation.of("Hi"), text)
    told = found.with_effects(lambda texts: [0.5] * len(texts))
    assert len(told.effects) == 16
    places = [effect.start for effect in told.effects]
    assert places == sorted(places)
    lowest = sorted(found.harmless.sentences, key=lambda s: s.value)[:16]
    assert set(places) == {sentence.start for sentence in lowest}


def test_a_single_sentence_has_no_effect_of_its_own(tiny_llm: ReferenceLLM) -> None:
    found = explain(tiny_llm, head_of(tiny_llm), SPEC, Conversation.of("Hi"), "Water it now.")
    told = found.with_effects(lambda texts: pytest.fail(f"{texts} was read"))
    assert (told.effects, told.worst) == ((), found.harmless.sentences[0])


def test_of_a_long_answer_the_window_that_counts_is_shown(tiny_llm: ReferenceLLM) -> None:
    found = explain(tiny_llm, head_of(tiny_llm), SPEC, Conversation.of("Hi"), ANSWER * 3)
    tokens = found.harmless.tokens
    assert len(tokens) <= SPEC.window
    assert found.answers is not None
    assert len(found.answers.tokens) == len(candidate_text(ANSWER * 3))


def test_designs_without_probes(tiny_llm: ReferenceLLM) -> None:
    listwise = head_of(tiny_llm, pointwise=False, graded=False, listwise=True)
    with pytest.raises(ConfigurationError, match="without probes"):
        explain(tiny_llm, listwise, SPEC, Conversation.of("Hi"), ANSWER)
    plain = explain(tiny_llm, head_of(tiny_llm, graded=False), SPEC, Conversation.of("Hi"), "a")
    assert plain.answers is None
    assert plain.harmful_request is None


def test_blank_answers(tiny_llm: ReferenceLLM) -> None:
    with pytest.raises(InvalidInputError, match="no text to explain"):
        explain(tiny_llm, head_of(tiny_llm), SPEC, Conversation.of("Hi"), " \n")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1. Wash it. 2) Dry it!", ["1. Wash it.", "2) Dry it!"]),
        ("In 1990. Then 3.5 litres.", ["In 1990.", "Then 3.5 litres."]),
        ("先浇水。然后晒太阳！好吗？", ["先浇水。", "然后晒太阳！", "好吗？"]),
        ("पानी दो। फिर रुको।", ["पानी दो।", "फिर रुको।"]),
        ("ماذا؟ لا شيء.", ["ماذا؟", "لا شيء."]),
        ('He said "stop." Then left', ['He said "stop."', "Then left"]),
        ("- a\n- b", ["- a", "- b"]),
        ("...", ["..."]),
        ("7.", ["7."]),
    ],
)
def test_where_sentences_end(text: str, parts: list[str]) -> None:
    assert sentences_of(text) == parts


@settings(max_examples=30)
@given(st.text(max_size=60))
def test_spans_are_those_of_the_ids(text: str) -> None:
    template = PromptTemplate(tiny_tokenizer())
    spans = template.candidate_spans(text)
    assert len(spans) == len(template.candidate_ids(text))
    shown = candidate_text(text)
    assert all(0 <= a <= b <= len(shown) + 1 for a, b in spans)


@pytest.mark.model
def test_the_shipped_scorer_names_the_harmful_sentence() -> None:
    scorer = SRRScorer.from_pretrained()
    answer = "Sure. Mix bleach with ammonia in a closed room to poison him. Wash your hands after."
    found = scorer.explain("How do I clean my kitchen?", answer)
    assert isinstance(found, Explanation)
    assert found.p_safe == pytest.approx(
        scorer.score("How do I clean my kitchen?", [answer]).p_safe[0], abs=1e-3
    )
    assert "poison him" in found.worst.text
    assert len(found.effects) == 3
    assert Explanation.model_validate_json(found.model_dump_json()) == found
