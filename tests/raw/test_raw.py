"""What clients and frameworks stream is added up before it is read."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from pydantic import BaseModel, ConfigDict, Field

from srr_guard import DecisionPolicy, SamplingPolicy, srr_guard
from srr_guard.errors import AllCandidatesFailedError, BelowThresholdError
from srr_guard.raw import raw_message
from srr_guard.reading import Reading, read, read_pieces
from srr_guard.testing import FakeScorer

OPTIONS: dict[str, Any] = {
    "scorer": FakeScorer(lambda prompt, text: 0.1 if "HARM" in text else 0.9),
    "sampling": SamplingPolicy(n=1, attempts=1),
}


class Quiz(BaseModel):
    """An answer of the app's own that has one choice, as completions have."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    choices: list[Any]


class Hidden(BaseModel):
    choices: list[Any] = Field(exclude=True)


def call(args, name=None):
    return {"name": name, "args": args, "id": None, "index": 0}


def completion(**message):
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **message}}
    common = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    return {**common, "choices": [choice]}


def chunk(**delta):
    common = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**common, "choices": [{"index": 0, "finish_reason": None, "delta": delta}]}


def api_call(args, name=None):
    return {"index": 0, "function": {"name": name, "arguments": args}}


SPLIT = {
    "text": [AIMessageChunk("HA"), AIMessageChunk("RM")],
    "call": [
        AIMessageChunk("", tool_call_chunks=[call('{"x": "HA', "f")]),
        AIMessageChunk("", tool_call_chunks=[call('RM"}')]),
    ],
    "fields": [
        AIMessageChunk("so", additional_kwargs={"a": "HA", "b": "x"}),
        AIMessageChunk("on", additional_kwargs={"a": "RM", "b": "y"}),
    ],
    "with metadata": [(AIMessageChunk("HA"), {"node": "n"}), (AIMessageChunk("RM"), {"node": "n"})],
    "of two messages": [AIMessageChunk("fine", id="1"), AIMessageChunk("HARM", id="2")],
    "api text": [chunk(role="assistant", content="HA"), chunk(content="RM")],
    "api reasoning": [
        chunk(reasoning_content="HA"),
        chunk(reasoning_content="RM"),
        chunk(content="fine"),
    ],
    "api refusal": [chunk(refusal="HA"), chunk(refusal="RM")],
    "api call": [
        chunk(tool_calls=[api_call('{"x": "HA', "f")]),
        chunk(tool_calls=[api_call('RM"}')]),
    ],
}


@pytest.mark.parametrize("name", SPLIT)
def test_harm_split_over_pieces_is_seen(name):
    @srr_guard(decision=DecisionPolicy(below_threshold="raise"), **OPTIONS)
    def stream(question):
        yield from SPLIT[name]

    with pytest.raises(BelowThresholdError):
        list(stream("q"))


def test_of_the_client_s_own_classes():
    types = pytest.importorskip("openai.types.chat")
    pieces = [chunk(role="assistant", content="a "), chunk(content="fine one"), chunk()]
    last = {**chunk(), "choices": [], "usage": {"total_tokens": 3}}
    made = [types.ChatCompletionChunk.model_validate(p) for p in pieces]
    made.append(types.ChatCompletionChunk.model_construct(**last))
    assert read_pieces(made) == read_pieces([*pieces, last]) == Reading("a fine one")
    whole = types.ChatCompletion.model_validate(completion(content="a fine one"))
    assert read(whole) == Reading("a fine one")


@pytest.mark.parametrize("content", ["", None])
def test_a_completion_that_says_nothing_is_blank(content):
    @srr_guard(**OPTIONS)
    def answer(question):
        return completion(content=content)

    with pytest.raises(AllCandidatesFailedError, match="blank"):
        answer("q")


def test_a_completion_is_read_as_its_message():
    said = completion(content="so", reasoning_content="hm", tool_calls=[api_call("{}", "f")])
    assert read(said) == Reading("so\n[tool call] f({})", trace="hm")
    assert "a source" in read({**completion(content="so"), "citations": ["a source"]}).text


@pytest.mark.parametrize(
    "value",
    [
        {"choices": ["a", "b"]},
        {"choices": [{"text": "legacy"}]},
        {"choices": [{"message": "text"}]},
        {"choices": [{"message": {}}] * 2},
        AIMessage("said"),
        "text",
    ],
)
def test_anything_else_is_left_alone(value):
    assert raw_message(value) is None


def test_chunks_that_cannot_be_added_are_read_one_by_one():
    odd = [AIMessageChunk("HA", additional_kwargs={"a": value}) for value in ("x", 1)]
    assert read_pieces(odd).text.count("HA") == 2


def test_answers_of_the_app_that_have_one_choice_are_read_as_they_are():
    assert raw_message(Quiz(choices=["Rome"])) is None
    assert read(Quiz(choices=[object()])).unreadable == ("object",)
    assert read(Quiz(choices=[{"text": "Rome"}])).text == '{"choices": [{"text": "Rome"}]}'
    assert read(Hidden(choices=[{"message": "Rome"}])).text == '{"choices": [{"message": "Rome"}]}'
    assert read(Hidden(choices=[{"message": {"content": "Rome"}}])).text.endswith('"Rome"}}]}')
