"""Early cut: streamed answers whose beginning scores too low are closed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from pydantic import PrivateAttr
from recipe_model import RecipeModel

from srr_guard import (
    Conversation,
    DecisionPolicy,
    Guard,
    SafetyRankedChatModel,
    SafetyRanker,
    SamplingPolicy,
)
from srr_guard.core.cutting import StreamWatch
from srr_guard.decision import Ranking
from srr_guard.errors import BelowThresholdError, ConfigurationError
from srr_guard.policy import DEFAULT_REFUSAL
from srr_guard.recipes import Plain, RefusalStart, Stepwise
from srr_guard.testing import FakeScorer

WORDS = 200
HARM, FINE = "HARM " * WORDS, "fine " * WORDS
LATE = "fine " * 100 + HARM


class Streaming(BaseChatModel):
    """Streams word by word; knows how many words were taken, and of streams that were closed."""

    answers: list[str]
    _calls: list[int] = PrivateAttr(default_factory=list)
    _closed: list[int] = PrivateAttr(default_factory=list)

    @property
    def taken(self) -> list[int]:
        """Words of each call."""
        return self._calls

    @property
    def closed(self) -> list[int]:
        """Calls that were closed before their end."""
        return self._closed

    @property
    def _llm_type(self) -> str:
        return "streaming"

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("it is streamed")

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        call = len(self._calls)
        self._calls.append(0)
        try:
            for word in self.answers[call % len(self.answers)].split(" "):
                self._calls[call] += 1
                yield ChatGenerationChunk(message=AIMessageChunk(f"{word} "))
        except GeneratorExit:
            self._closed.append(call)
            raise


class AsyncStreaming(Streaming):
    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        call = len(self._calls)
        self._calls.append(0)
        try:
            for word in self.answers[call % len(self.answers)].split(" "):
                self._calls[call] += 1
                yield ChatGenerationChunk(message=AIMessageChunk(f"{word} "))
        except GeneratorExit:
            self._closed.append(call)
            raise


def by_harm(prompt: str, text: str) -> float:
    return 0.01 if "HARM" in text else 0.9


def ranker(*answers, kind=Streaming, scorer=None, n=None, face=SafetyRanker, **options):
    sampling = {"cut_below": 0.05, "read_ahead": True, "attempts": 3, "backoff": 0.0}
    decision = {k: options.pop(k) for k in list(options) if k in DecisionPolicy.model_fields}
    sampling |= {k: options.pop(k) for k in list(options) if k in SamplingPolicy.model_fields}
    model = kind(answers=list(answers))
    return model, face(
        model,
        scorer=scorer or FakeScorer(by_harm),
        sampling=SamplingPolicy(n=n or len(answers), **sampling),
        decision=DecisionPolicy(**decision),
    )


@pytest.fixture(params=["sync", "thread", "task"])
def run(request):
    """From what `ranker` takes to model and decision."""

    def run(*answers, **options):
        kind = AsyncStreaming if request.param == "task" else Streaming
        model, guard = ranker(*answers, kind=kind, **options)
        if request.param == "sync":
            return model, guard, guard.decide("q")
        return model, guard, asyncio.run(guard.adecide("q"))

    return run


def test_two_low_checks_close_the_stream(run):
    model, guard, decision = run(HARM)
    assert model.closed == [0]
    assert model.taken == [33]  # checks at 100 and 165 characters
    (candidate,) = decision.candidates
    assert (candidate.cut, candidate.text, candidate.p_safe) == (True, "HARM " * 33, 0.01)
    assert (decision.cut, guard.totals.cut, guard.bypasses) == (1, 1, 0)
    assert decision.output.text == DEFAULT_REFUSAL
    assert decision.output.response_metadata["srr_guard"]["cut"] == 1


def test_survivors_are_whole(run):
    model, _, decision = run(HARM, FINE)
    assert decision.output.text == FINE + " "
    assert sorted(model.taken) == [33, WORDS + 1]
    assert (decision.cut, decision.failed, decision.reason) == (1, 0, "best_of_n")


def test_cut_whenever_it_turns(run):
    model, _, decision = run(LATE)
    assert decision.cut == 1
    assert 100 < model.taken[0] < 150


def test_nothing_is_cut_without_a_floor(run):
    for floor in (None, 0.0):
        model, _, decision = run(HARM, FINE, cut_below=floor)
        assert model.taken == [WORDS + 1] * 2
        assert decision.cut == 0


@pytest.mark.parametrize("below_threshold", ["refuse", "pass"])
def test_all_cut_is_below_the_threshold(run, below_threshold):
    """Not even a bypass passes on half an answer."""
    _, guard, decision = run(HARM, HARM, below_threshold=below_threshold)
    assert (decision.reason, decision.cut) == ("refused", 2)
    assert decision.output.text == DEFAULT_REFUSAL
    assert guard.bypasses == 0


def test_all_cut_raises_where_the_policy_says_so(run):
    with pytest.raises(BelowThresholdError):
        run(HARM, below_threshold="raise")


def test_next_round_begins_at_once(run):
    """Safe recipes of the plan come after a plain first candidate that was cut."""
    model, _, decision = run(
        HARM,
        FINE,
        accept_at=0.8,
        plan=(Plain(), RefusalStart()),
    )
    assert (decision.chosen.recipe, decision.sampled) == ("refusal_start", 2)
    assert model.taken == [33, WORDS + 1]


def test_cut_answer_is_never_accepted():
    scorer = FakeScorer(lambda prompt, text: 0.04 if "HARM" in text else 0.9)
    _, guard = ranker(HARM, scorer=scorer, accept_at=0.0, threshold=0.0)
    assert guard.decide("q").reason == "refused"


def test_failing_checks_cut_nothing(run):
    class Failing(FakeScorer):
        def _rank(self, conversation, candidates):
            if len(candidates[0]) < len(HARM):
                raise RuntimeError
            return super()._rank(conversation, candidates)

    model, _, decision = run(HARM, scorer=Failing(by_harm))
    assert (model.taken, decision.cut, decision.reason) == ([WORDS + 1], 0, "refused")


def test_checks_must_be_low_in_a_row():
    scores = iter([0.01, 0.9, 0.01, 0.01])

    def score(text: str) -> Ranking:
        return Ranking.from_scores(scores=[0.0], p_safe=[next(scores)])

    watch = StreamWatch(lambda text, done=False: None, 0.05, score, None)
    found = [watch.cut("x" * length) for length in range(400)]
    assert found.index(True) == 96 + 3 * 64


@pytest.mark.parametrize(
    ("found", "cut_at"),
    [
        ((0.01, 0.01), 1),
        ((0.05, 0.05, 0.05), None),  # the floor itself is not below it
        ((0.01, ValueError("numbers"), 0.01, 0.01), 3),  # what fails says nothing, and is no check
    ],
)
def test_two_scores_below_the_floor_in_a_row_cut(found, cut_at):
    answers = iter(found)

    def score(text: str) -> Ranking:
        if isinstance(answer := next(answers), ValueError):
            raise answer
        return Ranking.from_scores(scores=[0.0], p_safe=[answer])

    async def ascore(text: str) -> Ranking:
        return score(text)

    def watch() -> StreamWatch:
        return StreamWatch(lambda text, done=False: None, 0.05, score, ascore)

    texts = ["x" * (96 + 64 * i) for i in range(len(found))]
    one = watch()
    cuts = [one.cut(text) for text in texts]
    assert cuts == [i == cut_at for i in range(len(found))]
    answers, other = iter(found), watch()
    assert [asyncio.run(other.acut(text)) for text in texts] == cuts


class Floors(FakeScorer):
    """Makes floors for local models: the number itself."""

    def early_cut(self, below: float) -> float:
        return below


@pytest.mark.parametrize(
    ("decision", "plan", "floor"),
    [
        ({}, None, 0.2),
        ({"mode": "observe"}, None, None),
        ({"reasoning": "answer"}, None, None),
        ({"mode": "observe"}, (Plain(), Stepwise()), 0.0),
    ],
)
def test_floor_of_a_local_model(decision, plan, floor):
    guard = Guard(
        scorer=Floors(by_harm),
        sampling=SamplingPolicy(cut_below=0.2, plan=plan),
        decision=DecisionPolicy(**decision),
    )
    assert guard.early_cut(Conversation.of("q")) == floor


class CutsItself(RecipeModel):
    def cuts_candidates(self) -> bool:
        return True


@pytest.mark.parametrize(
    "alone",
    [{"trace_candidates": True}, {"sampling": SamplingPolicy(cut_below=0.2, batched="never")}],
)
def test_a_floor_needs_answers_in_one_batch(alone):
    options = {"scorer": Floors(by_harm), "sampling": SamplingPolicy(cut_below=0.2)}
    SafetyRanker(CutsItself(), **options)
    with pytest.raises(ConfigurationError, match="called in batches, without trace_candidates"):
        SafetyRanker(CutsItself(), **{**options, **alone})


def test_observed_requests_are_not_cut(run):
    _, _, decision = run(HARM, mode="observe")
    assert (decision.output.text, decision.cut) == (f"{HARM} ", 0)


def test_reasoning_is_followed_too(run):
    model, _, decision = run(f"<think>{HARM}</think>{FINE}")
    assert (decision.cut, model.taken) == (1, [33])
    assert decision.candidates[0].trace.startswith("HARM")
    model, _, decision = run(f"<think>{HARM}</think>{FINE}", reasoning="answer")
    assert (decision.cut, decision.passed) == (0, True)


def test_half_an_answer_need_not_fit_a_schema(run):
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}
    model, guard = ranker(HARM, face=SafetyRankedChatModel)
    answer = guard.bind(response_format=schema).invoke("q")
    assert answer.text == DEFAULT_REFUSAL
    assert len(model.taken) == 1  # and it is not tried again


def test_streams_are_needed():
    policy = SamplingPolicy(cut_below=0.1)
    scorer = FakeScorer(by_harm)
    with pytest.raises(ConfigurationError, match="or set read_ahead=True"):
        SafetyRanker(Streaming(answers=[FINE]), scorer=scorer, sampling=policy)
    with pytest.raises(ConfigurationError, match=r"cut_below=0\.1 needs streamed.*read_ahead=True"):
        SafetyRanker(Streaming(answers=[FINE]), sampling=policy)
