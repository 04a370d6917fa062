"""Candidates that are read while they are written: the same answers, decisions and scores."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.runnables import RunnableLambda

from srr_guard import (
    AllCandidatesFailedError,
    DecisionPolicy,
    SafetyRankedChatModel,
    SafetyRanker,
    SamplingPolicy,
    SRRScorer,
    srr_guard,
)
from srr_guard.conversation import Conversation
from srr_guard.core.cutting import StreamWatch
from srr_guard.decision import Ranking
from srr_guard.errors import ConfigurationError, InvalidInputError
from srr_guard.sources.streaming import acollect, collect
from srr_guard.testing import FakeScorer, ScriptedChatModel

AHEAD = SamplingPolicy(n=2, read_ahead=True)
LISTS = (["a"], ["b"], ["c"])
LOW = Ranking.from_scores(scores=[0.0], p_safe=[0.0])
ANSWERS = ["a bad answer to this", "a good answer to this"]


def by_word(prompt: str, answer: str) -> float:
    return 0.9 if "good" in answer else 0.1


@pytest.fixture(params=["sync", "async"])
def decide(request: pytest.FixtureRequest) -> Callable[..., Any]:
    def through_a_loop(guard: Any, prompt: Any) -> Any:
        return asyncio.run(guard.adecide(prompt))

    return (
        (lambda guard, prompt: guard.decide(prompt))
        if request.param == "sync"
        else (through_a_loop)
    )


def test_each_candidate_is_read_as_it_grows(decide: Callable[..., Any]) -> None:
    scorer = FakeScorer(by_word)
    guard = SafetyRanker(ScriptedChatModel(answers=ANSWERS), scorer=scorer, sampling=AHEAD)
    decision = decide(guard, "a question")
    assert type(decision.output) is AIMessage
    assert decision.output.content == ANSWERS[1]
    assert {c.text for c in decision.candidates} == set(ANSWERS)
    for answer in ANSWERS:
        words = answer.split()
        grown = [" ".join(words[: k + 1]) for k in range(len(words))]
        read = [text.strip() for text in scorer.ahead if text.strip() in grown]
        assert list(dict.fromkeys(read)) == grown


def test_the_message_is_the_one_that_invoke_gives(decide: Callable[..., Any]) -> None:
    message = AIMessage(
        "good, let me look",
        id="1",
        tool_calls=[{"name": "look", "args": {"for": "it"}, "id": "2", "type": "tool_call"}],
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    )
    found = []
    for sampling in (SamplingPolicy(n=1), SamplingPolicy(n=1, read_ahead=True)):
        model = ScriptedChatModel(answers=[message])
        guard = SafetyRanker(model, scorer=FakeScorer(by_word), sampling=sampling)
        found.append(decide(guard, "a question").output)
    plain, streamed = found
    for name in ("content", "tool_calls", "usage_metadata"):
        assert getattr(streamed, name) == getattr(plain, name)


def test_chains_and_functions_keep_their_kind_of_output(decide: Callable[..., Any]) -> None:
    scorer = FakeScorer(by_word)
    chain = ScriptedChatModel(answers=ANSWERS) | StrOutputParser()
    assert decide(SafetyRanker(chain, scorer=scorer, sampling=AHEAD), "a").output == ANSWERS[1]
    structured = ScriptedChatModel(answers=ANSWERS) | RunnableLambda(lambda m: {"text": m.text})
    guard = SafetyRanker(structured, scorer=scorer, sampling=AHEAD)
    assert decide(guard, "a").output == {"text": ANSWERS[1]}
    words = iter(("bad", "good"))
    function = SafetyRanker(lambda _: next(words), scorer=scorer, sampling=AHEAD)
    assert decide(function, "a").output == "good"


def test_json_is_taken_whole_and_a_list_in_chunks_is_refused(decide: Callable[..., Any]) -> None:
    def answered(text: str) -> Any:
        chain = ScriptedChatModel(answers=[text]) | JsonOutputParser()
        sampling = SamplingPolicy(n=1, read_ahead=True)
        return decide(SafetyRanker(chain, scorer=FakeScorer(by_word), sampling=sampling), "a")

    assert answered('{"good": [1, 2], "b": 3}').output == {"good": [1, 2], "b": 3}
    with pytest.raises(AllCandidatesFailedError) as caught:
        answered('["good", "and", "more"]')
    assert "set `read_ahead=False`" in str(caught.value.__cause__)


def test_streams_that_cannot_be_joined_are_closed() -> None:
    closed = []

    def watch(*, trace: bool = False) -> StreamWatch:
        return StreamWatch(lambda text, done=False: None, None, lambda text: LOW, None)

    def pieces() -> Iterator[list[str]]:
        try:
            yield from LISTS
        finally:
            closed.append("sync")

    async def apieces() -> AsyncIterator[list[str]]:
        try:
            for piece in LISTS:
                yield piece
        finally:
            closed.append("async")

    held, aheld = pieces(), apieces()
    with pytest.raises(InvalidInputError, match="cannot join a list"):
        collect(held, watch)
    assert closed == ["sync"]
    with pytest.raises(InvalidInputError, match="cannot join a list"):
        asyncio.run(acollect(aheld, watch))
    assert closed[1:] == ["async"]


def test_a_ranked_chat_model_reads_ahead_too() -> None:
    scorer = FakeScorer(by_word)
    model = SafetyRankedChatModel(
        model=ScriptedChatModel(answers=ANSWERS), scorer=scorer, sampling=AHEAD
    )
    assert model.invoke("a question").content == ANSWERS[1]
    assert scorer.ahead


def test_adaptive_sampling_reads_ahead_too(decide: Callable[..., Any]) -> None:
    scorer = FakeScorer(by_word)
    sampling = SamplingPolicy(n=4, accept_at=0.8, read_ahead=True)
    guard = SafetyRanker(
        ScriptedChatModel(answers=[ANSWERS[1], *ANSWERS]), scorer=scorer, sampling=sampling
    )
    decision = decide(guard, "a question")
    assert (decision.reason, decision.sampled) == ("accepted", 1)
    assert scorer.ahead


def test_nothing_is_read_ahead_unless_it_is_asked_for() -> None:
    scorer = FakeScorer(by_word)
    SafetyRanker(ScriptedChatModel(answers=ANSWERS), scorer=scorer).invoke("a question")
    assert not scorer.ahead


def test_a_blank_answer_fails_as_ever(decide: Callable[..., Any]) -> None:
    guard = SafetyRanker(
        ScriptedChatModel(answers=["", "good"]),
        scorer=FakeScorer(by_word),
        sampling=SamplingPolicy(n=2, attempts=1, read_ahead=True),
    )
    decision = decide(guard, "a question")
    assert (decision.failed, decision.reason) == (1, "fallback")


def test_it_needs_a_scorer_that_can_and_a_model_that_streams() -> None:
    class Plain:
        score = ascore = FakeScorer(by_word).score

    model = ScriptedChatModel(answers=ANSWERS)
    with pytest.raises(ConfigurationError, match="a scorer that has `read_ahead`"):
        SafetyRanker(model, scorer=Plain(), sampling=AHEAD)
    with pytest.raises(ConfigurationError, match="read_ahead=True reaches no model"):
        srr_guard(scorer=FakeScorer(by_word), sampling=AHEAD)(lambda prompt: "good")


class Tokens:
    """Counts the tokens that a scorer's reference LLM reads in each pass."""

    def __init__(self, scorer: SRRScorer, monkeypatch: pytest.MonkeyPatch) -> None:
        llm = scorer.engine.encoder()
        real, self.passes = llm.backbone.encode, []

        def counted(parts: Any, *args: Any, **kwargs: Any) -> Any:
            windows = sum(len(window) for part in parts for window in part.windows)
            prompts = sum(len(p.prefix.prompt.ids) for p in parts if not p.prefix.encoded)
            self.passes.append(windows + prompts)
            return real(parts, *args, **kwargs)

        monkeypatch.setattr(llm.backbone, "encode", counted)


@pytest.mark.model
def test_scores_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "The moon pulls on the sea and so the water rises and falls, twice in every day. "
    answers = [words * 2, f"Well, {words * 2}", "I can't help with that."]
    scorer = SRRScorer.from_pretrained()
    plain = scorer.score("How do the tides work?", answers)
    read = Tokens(scorer, monkeypatch)

    class Waiting(ScriptedChatModel):
        """Says nothing before the prompt is encoded."""

        def _stream(self, *args: Any, **kwargs: Any) -> Any:
            while not read.passes:
                time.sleep(0.001)
            return super()._stream(*args, **kwargs)

    guard = SafetyRanker(
        Waiting(answers=answers),
        scorer=scorer,
        sampling=SamplingPolicy(n=3, read_ahead=True, timeout=None),
        decision=DecisionPolicy(threshold=0.0),
    )
    decision = guard.decide("How do the tides work, please?")
    assert len(read.passes) >= 2  # the prompt while the answers are waited for, and their words
    assert decision.ranking is not None
    again = scorer.score("How do the tides work, please?", [c.text for c in decision.candidates])
    assert again.p_safe == pytest.approx(decision.ranking.p_safe, abs=1e-4)
    assert again.order == decision.ranking.order
    assert plain.order == tuple(answers.index(decision.candidates[i].text) for i in again.order)


@pytest.mark.model
def test_what_was_read_ahead_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = SRRScorer.from_pretrained()
    text = "Whatever the moon does to the sea it does twice in each and every single day."
    read = Tokens(scorer, monkeypatch)
    conversation = Conversation.of("And how does the moon do that?")
    draft = scorer.read_ahead(conversation)
    for end in range(0, len(text), 4):
        draft(text[:end])
    draft(text, done=True)
    llm = scorer.engine.encoder()
    while llm.begin(conversation, [text], scorer.engine.spec).left:
        time.sleep(0.001)
    read.passes.clear()
    scorer.score(conversation, [text])
    assert read.passes == []
