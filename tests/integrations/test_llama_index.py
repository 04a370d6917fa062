"""LLMs, agents and structured prediction of LlamaIndex, guarded."""

from __future__ import annotations

import asyncio
import doctest
import itertools
import logging
from typing import Any

import pytest
from adapters import REFUSAL, STRICT, Asked, guard_by_word
from pydantic import BaseModel, PrivateAttr

from srr_guard import BelowThresholdError
from srr_guard.errors import AllCandidatesFailedError, ConfigurationError, ScorerError
from srr_guard.testing import FakeScorer

pytest.importorskip("llama_index.core")

import srr_guard_integrations.llama_index as adapter
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ImageBlock,
    LLMMetadata,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.llms.mock import MockLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from srr_guard_integrations.llama_index import SafetyRankedLLM

# of LlamaIndex's own, where it looks for the steps of a workflow
pytestmark = pytest.mark.filterwarnings("ignore:.*(__fields|model_).*attribute")

ASK = [ChatMessage(role="user", content="a question")]
USAGE = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}


class Script(FunctionCallingLLM):
    """An LLM that gives the answers of a script: texts, blocks or errors."""

    _answers: Any = PrivateAttr()

    def __init__(self, *answers: Any) -> None:
        super().__init__()
        self._answers = itertools.cycle(answers)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_chat_model=True, is_function_calling_model=True)

    def _next(self) -> Any:
        given = next(self._answers)
        if isinstance(given, Exception):
            raise given
        return [TextBlock(text=given)] if isinstance(given, str) else given

    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        message = ChatMessage(role="assistant", blocks=self._next())
        return ChatResponse(message=message, additional_kwargs=dict(USAGE), raw={"id": "raw"})

    async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        await asyncio.sleep(0)
        return self.chat(messages, **kwargs)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=self._next()[0].text, additional_kwargs=dict(USAGE))

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return self.complete(prompt)

    def stream_chat(self, *_: Any, **__: Any) -> Any:
        raise AssertionError

    astream_chat = stream_complete = astream_complete = stream_chat

    def _prepare_chat_with_tools(
        self,
        tools: Any,
        user_msg: Any = None,
        chat_history: Any = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        said = [user_msg] if isinstance(user_msg, ChatMessage) else []
        if isinstance(user_msg, str):
            said = [ChatMessage(role="user", content=user_msg)]
        return {
            "messages": [*(chat_history or []), *said],
            "tools": [tool.metadata.to_openai_tool() for tool in tools],
            "tool_choice": "required" if tool_required else "auto",
        }

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        return [
            ToolSelection(
                tool_id=block.tool_call_id or "",
                tool_name=block.tool_name,
                tool_kwargs=block.tool_kwargs,
            )
            for block in response.message.blocks
            if isinstance(block, ToolCallBlock)
        ]


def guarded(*answers: Any, **settings: Any) -> SafetyRankedLLM:
    return SafetyRankedLLM(Script(*answers), guard=guard_by_word(**settings))


def calls(tool: str, /, **given: Any) -> list[Any]:
    return [ToolCallBlock(tool_call_id="1", tool_name=tool, tool_kwargs=given)]


class City(BaseModel):
    """A city."""

    name: str
    people: int


class TestAnswers:
    def test_chat(self):
        response = guarded("bad", "good").chat(ASK)
        assert response.message.content == "good"
        assert response.additional_kwargs["completion_tokens"] == 4
        assert response.additional_kwargs["srr_guard"]["reason"] == "best_of_n"

    async def test_achat(self):
        llm = guarded("bad", "good")
        made = await asyncio.gather(*(llm.achat(ASK) for _ in range(3)))
        assert {response.message.content for response in made} == {"good"}

    async def test_complete(self):
        llm = guarded("bad", "good")
        assert llm.complete("q").text == "good"
        assert (await llm.acomplete("q")).text == "good"
        assert llm.predict(PromptTemplate("{x}"), x="q") == "good"
        assert await llm.apredict(PromptTemplate("{x}"), x="q") == "good"

    def test_refusal(self):
        response = guarded([ThinkingBlock(content="t"), TextBlock(text="bad")]).chat(ASK)
        assert response.message.content == REFUSAL
        assert (response.raw, len(response.message.blocks)) == (None, 1)
        assert guarded("bad").complete("q").text == REFUSAL

    def test_strict(self):
        with pytest.raises(BelowThresholdError):
            guarded("bad", decision=STRICT).chat(ASK)

    def test_a_scorer_that_fails_lets_nothing_pass(self):
        broken = FakeScorer(lambda *_: 0.9, error=RuntimeError("broken"))
        with pytest.raises(ScorerError):
            guarded("good", scorer=broken).chat(ASK)

    def test_thinking_and_pictures(self):
        scorer = FakeScorer(lambda _, answer: 0.1 if "harm" in answer else 0.9)
        thinks = [ThinkingBlock(content="harm"), TextBlock(text="fine")]
        assert guarded(thinks, "well", scorer=scorer).chat(ASK).message.content == "well"
        picture = [TextBlock(text="good"), ImageBlock(image=b"aGk=")]
        assert guarded(picture).chat(ASK).message.content == REFUSAL

    def test_conversation(self):
        scorer = Asked()
        guarded("good", scorer=scorer).chat(
            [
                ChatMessage(role="system", content="Be brief."),
                ChatMessage(role="user", content="weather?"),
                ChatMessage(role="assistant", blocks=calls("look", city="Oslo")),
                ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": "1"}),
                ChatMessage(role="user", content="thanks"),
            ]
        )
        assert scorer.turns == [
            ("system", "Be brief."),
            ("user", "weather?"),
            ("assistant", '[tool call] look({"city": "Oslo"})'),
            ("tool", "sunny"),
            ("user", "thanks"),
        ]


class TestStreams:
    async def test_all(self):
        llm = guarded("bad", "good")
        assert [r.delta for r in llm.stream_chat(ASK)] == ["good"]
        assert [r.delta for r in llm.stream_complete("q")] == ["good"]
        assert [r.delta async for r in await llm.astream_chat(ASK)] == ["good"]
        assert [r.delta async for r in await llm.astream_complete("q")] == ["good"]
        assert "".join(llm.stream(PromptTemplate("{x}"), x="q")) == "good"

    def test_refusal(self):
        assert [r.delta for r in guarded("bad").stream_chat(ASK)] == [REFUSAL]


class TestTools:
    async def test_an_agent_makes_the_chosen_call_once(self):
        looked = []

        def look(city: str) -> str:
            """Look at a city."""
            looked.append(city)
            return "sunny"

        llm = guarded(calls("look", city="bad"), calls("look", city="good"), "bad", "good")
        agent = FunctionAgent(tools=[FunctionTool.from_defaults(look)], llm=llm)
        result = await agent.run("weather?")
        assert (str(result), looked) == ("good", ["good"])

    def test_where_a_tool_must_be_called(self):
        tool = FunctionTool.from_defaults(lambda city: city, name="look", description="x")
        llm = guarded("good", calls("look", city="good"))
        response = llm.chat_with_tools([tool], "q", tool_required=True)
        assert llm.get_tool_calls_from_response(response)[0].tool_kwargs == {"city": "good"}
        with pytest.raises(BelowThresholdError):
            guarded(calls("look", city="bad")).chat_with_tools([tool], "q", tool_required=True)

    def test_an_llm_without_tools(self):
        llm = SafetyRankedLLM(MockLLM(max_tokens=2), guard=guard_by_word())
        tool = FunctionTool.from_defaults(lambda city: city, name="look", description="x")
        with pytest.raises(ConfigurationError, match="calls no functions"):
            llm.chat_with_tools([tool], "q")

    async def test_structured_output(self):
        script = [calls("City", name="bad", people=1), calls("City", name="good", people=1)]
        prompt = PromptTemplate("Which {x}?")
        assert guarded(*script).structured_predict(City, prompt, x="city").name == "good"
        made = await guarded(*script).astructured_predict(City, prompt, x="city")
        assert made.name == "good"


class TestErrors:
    def test_candidates(self):
        response = guarded(RuntimeError("x"), "good").chat(ASK)
        assert response.additional_kwargs["srr_guard"]["reason"] == "fallback"
        with pytest.raises(AllCandidatesFailedError) as caught:
            guarded(TimeoutError("x")).chat(ASK)
        assert isinstance(caught.value, TimeoutError)

    def test_what_is_no_llm(self):
        with pytest.raises(ConfigurationError, match="LLM of LlamaIndex"):
            SafetyRankedLLM(object())  # type: ignore[arg-type]

    def test_unguarded(self, caplog):
        llm = guarded("bad")
        with caplog.at_level(logging.WARNING, logger="srr_guard"):
            assert llm.unguarded().complete("q").text == "bad"
        assert llm.guard.bypasses == 1
        assert llm.model_copy().complete("q").text == REFUSAL


def test_docstring():
    assert doctest.testmod(adapter).failed == 0


@pytest.mark.parametrize("people", ["3", 3.0])
def test_what_its_output_classes_convert_fits(people):
    made = guarded(calls("City", name="good", people=people)).structured_predict(
        City, PromptTemplate("a {x}"), x="city"
    )
    assert made == City(name="good", people=3)


def test_what_they_would_not_is_a_failed_candidate():
    script = [calls("City", name="good", people="many"), calls("City", name="good", people="3")]
    llm = guarded(*script)
    made = llm.structured_predict(City, PromptTemplate("a {x}"), x="city")
    assert made == City(name="good", people=3)
    with pytest.raises(AllCandidatesFailedError, match="does not fit"):
        guarded(*script[:1] * 4).structured_predict(City, PromptTemplate("a {x}"), x="city")
