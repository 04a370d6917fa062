"""Reasoning and answer, each with its own score."""

from __future__ import annotations

import json
import logging

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser

from srr_guard import DecisionPolicy, Guard, Ranking, SafetyRanker, SamplingPolicy, srr_guard
from srr_guard.audit import AuditLog
from srr_guard.errors import AllCandidatesFailedError
from srr_guard.testing import FakeScorer, ScriptedChatModel


def by_harm(prompt: str, text: str) -> float:
    return 0.1 if "HARM" in text else 0.6 if "hm" in text else 0.9


def guard(reasoning="worst", scorer=None, **decision) -> Guard:
    policy = DecisionPolicy(reasoning=reasoning, **decision)
    return Guard(scorer=scorer or FakeScorer(by_harm), decision=policy)


class Graded(FakeScorer):
    """The longer, the more helpful, and the higher in the list."""

    def _rank(self, conversation, candidates):
        p_safe = super()._rank(conversation, candidates).p_safe
        lengths = [len(text) / 100 for text in candidates]
        return Ranking.from_scores(scores=lengths, p_safe=p_safe, p_help=lengths)


def test_each_has_a_score_in_one_ranking():
    scorer = FakeScorer(by_harm)
    decision = guard(scorer=scorer).check("q", "<think>hm</think>fine")
    assert scorer.calls == [("fine", "hm")]
    chosen = decision.chosen
    assert (chosen.text, chosen.trace) == ("fine", "hm")
    assert (chosen.p_safe, chosen.p_safe_answer, chosen.p_safe_trace) == (0.6, 0.9, 0.6)
    assert decision.ranking.p_safe == (0.6,)
    assert decision.output == "<think>hm</think>fine"


def test_answer_without_reasoning_has_one_score():
    chosen = guard().check("q", "fine").chosen
    assert (chosen.trace, chosen.p_safe_answer, chosen.p_safe_trace) == ("", None, None)


@pytest.mark.parametrize("answer", ["<think>HARM</think>fine", "<think>hm</think>HARM"])
def test_the_worse_counts(answer):
    assert not guard().check("q", answer).passed
    decision = guard().choose("q", [answer, "<think>hm</think>fine"])
    assert decision.chosen.index == 1


def test_help_is_the_answers():
    found = guard(scorer=Graded(by_harm)).check("q", "<think>hm, let me see</think>fine").chosen
    assert (found.p_safe, found.p_help, found.score) == (0.6, 0.04, 0.14)


def test_joined_is_one_text():
    scorer = FakeScorer(by_harm)
    decision = guard("joined", scorer).check("q", "<think>hm</think>fine")
    assert scorer.calls == [("hm\nfine",)]
    assert (decision.chosen.p_safe, decision.chosen.p_safe_trace) == (0.6, None)


def test_the_answer_alone_is_a_bypass(caplog):
    watched = guard("answer")
    with caplog.at_level(logging.WARNING, "srr_guard"):
        decision = watched.check("q", "<think>HARM</think>fine")
        assert watched.check("q", "fine").passed
    assert (decision.reason, decision.chosen.p_safe) == ("best_of_n", 0.9)
    assert watched.bypasses == 1
    assert caplog.text.count("bypass: unscored reasoning was passed on") == 1
    assert "HARM" not in caplog.text
    assert not watched.check("q", "<think>hm</think>HARM").passed


@pytest.mark.parametrize("reasoning", ["worst", "joined", "answer"])
def test_equal_answers_with_other_thoughts(reasoning):
    decision = guard(reasoning).choose("q", ["<think>HARM</think>fine", "<think>b</think>fine"])
    assert decision.chosen.index == (0 if reasoning == "answer" else 1)
    assert decision.distinct == 1


@pytest.mark.parametrize("reasoning", ["worst", "joined", "answer"])
@pytest.mark.parametrize(
    "cut", ["<think>HARM and", AIMessage([{"type": "thinking", "thinking": "HARM and"}])]
)
def test_cut_off_in_its_reasoning(reasoning, cut):
    with pytest.raises(AllCandidatesFailedError, match="raise the model's limit of tokens"):
        guard(reasoning).check("q", cut)
    decision = guard(reasoning).choose("q", [cut, "fine"])
    assert (decision.output, decision.failed) == ("fine", 1)


def test_unreadable_answer_with_harmful_thoughts():
    thought = {"type": "thinking", "thinking": "HARM"}
    image = {"type": "image", "base64": "x", "mime_type": "image/png"}
    for reasoning, passed in (("worst", False), ("joined", False), ("answer", True)):
        watched = guard(reasoning, unreadable="pass")
        assert watched.check("q", AIMessage([thought, image])).passed == passed
        assert watched.check("q", AIMessage([image])).passed


def test_chains_and_generators():
    chain = ScriptedChatModel(answers=["<think>HARM</think>fine", "<think>hm</think>fine"])
    ranker = SafetyRanker(chain | StrOutputParser(), scorer=FakeScorer(by_harm), n=2)
    assert ranker.invoke("q") == "<think>hm</think>fine"
    for pieces in (
        ["<thin", "k>HA", "RM</think>fi", "ne"],
        [AIMessageChunk([{"type": "thinking", "thinking": "HARM"}]), AIMessageChunk("fine")],
    ):

        @srr_guard(guard=guard())
        def answer(question: str, pieces=tuple(pieces)):
            yield from pieces

        assert [getattr(p, "content", p) for p in answer("q")] != pieces
        assert len(list(answer("q"))) == 1  # a refusal


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_read_ahead(how):
    """Reasoning and answer are pre-encoded as the two texts that are scored."""
    scorer = FakeScorer(by_harm)
    model = ScriptedChatModel(answers=["<think>hm a b c</think> fine d e f"])
    policy = SamplingPolicy(n=1, read_ahead=True)
    ranker = SafetyRanker(model, scorer=scorer, sampling=policy)
    found = await ranker.ainvoke("q") if how == "ainvoke" else ranker.invoke("q")
    assert found.text == "<think>hm a b c</think> fine d e f"
    assert set(scorer.calls[0]) <= set(scorer.ahead)


def test_audit_hides_both(tmp_path):
    with AuditLog(tmp_path / "a.jsonl") as audit:
        Guard(scorer=FakeScorer(by_harm), on_decision=audit).check("q", "<think>hm</think>fine")
    (candidate,) = json.loads((tmp_path / "a.jsonl").read_text())["candidates"]
    assert candidate["trace"]["characters"] == 2
    assert candidate["p_safe_trace"] == 0.6
    assert "hm" not in json.dumps(candidate)
    with AuditLog(tmp_path / "b.jsonl", redact=str.upper) as audit:
        audit(guard().check("q", "<think>hm</think>fine"))
    (candidate,) = json.loads((tmp_path / "b.jsonl").read_text())["candidates"]
    assert (candidate["text"], candidate["trace"]) == ("FINE", {"text": "HM"})
