"""What a parser behind a model hides: that it refused."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import (
    JsonOutputParser,
    PydanticOutputParser,
    PydanticToolsParser,
    StrOutputParser,
)
from langchain_core.runnables import RunnableLambda, RunnableParallel
from pydantic import BaseModel
from rankers import ranker

from srr_guard import AllCandidatesFailedError, SafetyRankedChatModel, SafetyRanker, srr_guard
from srr_guard.policy import DEFAULT_REFUSAL, SamplingPolicy
from srr_guard.runnables.last_answer import LastAnswer
from srr_guard.testing import FakeScorer, ScriptedChatModel


class Plan(BaseModel):
    name: str


REFUSALS = {
    "OpenAI's field": AIMessage("", additional_kwargs={"refusal": "I will not."}),
    "OpenAI's filter": AIMessage("", response_metadata={"finish_reason": "content_filter"}),
    "filter in the middle": AIMessage("Mix the", response_metadata={"finish_reason": "SAFETY"}),
    "Anthropic's reason": AIMessage("No.", response_metadata={"stop_reason": "refusal"}),
    "a guard's": AIMessage("No.", response_metadata={"srr_guard": {"reason": "refused"}}),
    "a gate's": AIMessage("No.", response_metadata={"srr_guard": {"reason": "refused_by_gate"}}),
}
PARSERS = {
    "json": JsonOutputParser(),
    "pydantic": PydanticOutputParser(pydantic_object=Plan),
    "tools": PydanticToolsParser(tools=[Plan], first_tool_only=True),
    "function": RunnableLambda(lambda message: message.tool_calls[0]["args"]),
}
SHELLS = {
    "sync": SafetyRanker.decide,
    "async": lambda guard, asked: asyncio.run(guard.adecide(asked)),
}


def decide(chain, shell="sync", **options):
    scorer = FakeScorer(lambda prompt, answer: 0.9)
    sampling = SamplingPolicy(n=2, backoff=0, **options.pop("sampling", {}))
    return SHELLS[shell](SafetyRanker(chain, scorer=scorer, sampling=sampling, **options), "q")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_that_a_parser_hid_costs_one_call(refusal, parser, shell):
    model = ScriptedChatModel(answers=[REFUSALS[refusal]])
    with pytest.raises(AllCandidatesFailedError, match="refused"):
        decide(model | PARSERS[parser], shell)
    assert model.calls == 2


@pytest.mark.parametrize("options", [{"trace_candidates": True}, {"trace_candidates": "redacted"}])
@pytest.mark.parametrize("shell", SHELLS)
def test_traced_candidates_too(shell, options):
    model = ScriptedChatModel(answers=[REFUSALS["OpenAI's field"]])
    with pytest.raises(AllCandidatesFailedError, match="refused"):
        decide(model | PARSERS["json"], shell, **options)
    assert model.calls == 2


@pytest.mark.parametrize("shell", SHELLS)
def test_streamed_ones_too(shell):
    model = ScriptedChatModel(answers=[REFUSALS["OpenAI's filter"]])
    with pytest.raises(AllCandidatesFailedError, match="refused"):
        decide(model | PARSERS["json"], shell, sampling={"read_ahead": True})
    assert model.calls == 2


def test_an_answer_beside_refusals_is_passed_on():
    model = ScriptedChatModel(answers=[REFUSALS["a guard's"], '{"name": "tea"}'])
    decision = decide(model | PARSERS["pydantic"])
    assert decision.output == Plan(name="tea")
    assert (decision.failed, model.calls) == (1, 2)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("refusal", ["OpenAI's field", "OpenAI's filter"])
def test_a_refusal_without_text_is_one_in_a_chain_of_text(refusal, shell):
    model = ScriptedChatModel(answers=[REFUSALS[refusal]])
    decision = decide(model | StrOutputParser(), shell)
    assert decision.output == DEFAULT_REFUSAL
    assert decision.chosen.declined
    assert model.calls == 2


def test_the_refusal_of_a_guarded_model_inside():
    model = ScriptedChatModel(answers=["bad"])
    inside = SafetyRankedChatModel(model, scorer=FakeScorer(lambda *_: 0.1), n=1)
    with pytest.raises(AllCandidatesFailedError, match="refused"):
        decide(inside | PARSERS["json"])
    assert model.calls == 2


def test_an_answer_that_only_does_not_parse_is_sampled_again():
    model = ScriptedChatModel(answers=["good", '{"name": "good"}'])
    assert ranker(model=model | PARSERS["pydantic"], n=1).invoke("q") == Plan(name="good")
    assert model.calls == 2


def test_a_later_model_that_fails_is_tried_again():
    first = ScriptedChatModel(answers=[REFUSALS["OpenAI's field"]])
    second = ScriptedChatModel(answers=[OSError("no network"), "good"])
    both = first | RunnableLambda(lambda _: "q") | second
    assert ranker(model=both, n=1).invoke("q").text == "good"
    assert second.calls == 2


def test_an_answer_made_without_the_refusing_model_stays():
    first = ScriptedChatModel(answers=[REFUSALS["OpenAI's field"]])
    chain = first | RunnableLambda(lambda message: message.text or "good: nothing to say")
    assert ranker(model=chain, n=1).invoke("q") == "good: nothing to say"


def test_an_interrupt_is_no_refusal():
    def stop(_):
        raise KeyboardInterrupt

    model = ScriptedChatModel(answers=[REFUSALS["OpenAI's field"]])
    with pytest.raises(KeyboardInterrupt):
        ranker(model=model | RunnableLambda(stop), n=1).invoke("q")


def test_models_side_by_side_run_on():
    chain = RunnableParallel(
        a=ScriptedChatModel(answers=["good"]) | StrOutputParser(),
        b=ScriptedChatModel(answers=[REFUSALS["OpenAI's filter"]]) | StrOutputParser(),
    )
    assert ranker(model=chain, n=1).invoke("q") == {"a": "good", "b": ""}


@pytest.mark.parametrize("kind", ["sync", "async", "sync in a loop"])
class TestFunctions:
    """Functions that call a model and read what it says."""

    def call(self, kind, chain):
        guarded = srr_guard(
            scorer=FakeScorer(lambda *_: 0.9), sampling=SamplingPolicy(n=2, backoff=0)
        )
        if kind == "async":

            async def aanswer(question):
                return await chain.ainvoke(question)

            return asyncio.run(guarded(aanswer)("q"))
        function = guarded(lambda question: chain.invoke(question))
        return function("q") if kind == "sync" else asyncio.run(function.adecide("q")).output

    def test_a_parser_hides_a_refusal(self, kind):
        model = ScriptedChatModel(answers=[REFUSALS["OpenAI's field"]])
        with pytest.raises(AllCandidatesFailedError, match="refused"):
            self.call(kind, model | PARSERS["json"])
        assert model.calls == 2

    def test_a_text_is_empty(self, kind):
        model = ScriptedChatModel(answers=[REFUSALS["OpenAI's filter"]])
        assert self.call(kind, model | StrOutputParser()) == DEFAULT_REFUSAL
        assert model.calls == 2


@pytest.mark.parametrize("kind", ["sync", "async"])
class TestGenerators:
    def pieces(self, kind, chain):
        guarded = srr_guard(scorer=FakeScorer(lambda *_: 0.9), n=2)
        if kind == "sync":
            return list(guarded(chain.stream)("q"))

        async def stream(question):
            async for piece in chain.astream(question):
                yield piece

        async def collect():
            return [piece async for piece in guarded(stream)("q")]

        return asyncio.run(collect())

    def test_an_error_after_a_refusal(self, kind):
        model = ScriptedChatModel(answers=[REFUSALS["OpenAI's field"]])
        with pytest.raises(AllCandidatesFailedError, match="refused"):
            self.pieces(kind, model | PARSERS["function"])
        assert model.calls == 2

    def test_pieces_that_say_nothing(self, kind):
        model = ScriptedChatModel(answers=[REFUSALS["OpenAI's filter"]])
        assert self.pieces(kind, model | StrOutputParser()) == [DEFAULT_REFUSAL]
        assert model.calls == 2


def test_it_hears_no_chains():
    assert LastAnswer().ignore_chain
    assert not LastAnswer().declined
