"""`client.responses` of the real `openai` client, over a transport that answers from a script."""

from __future__ import annotations

import itertools
import json
import sys
import threading
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import ParsedResponse, Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter
from srr_guard_integrations.openai_client import guard_openai

from srr_guard import DecisionPolicy, SamplingPolicy
from srr_guard.errors import (
    AllCandidatesFailedError,
    ConfigurationError,
    InvalidInputError,
    MissingExtraError,
    UnguardedError,
)
from srr_guard.policy import DEFAULT_REFUSAL
from srr_guard.testing import FakeScorer

THOUGHT = {
    "type": "reasoning",
    "id": "rs",
    "summary": [{"type": "summary_text", "text": "how to be good"}],
    "encrypted_content": "zzz",
}


def said(text: str, **more: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    common = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
    return {**common, "content": [part], **more}


def called(name: str, arguments: str) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": "f",
        "call_id": "c",
        "name": name,
        "arguments": arguments,
        "status": "completed",
    }


BAD, GOOD = [said("a bad answer")], [THOUGHT, said("a good answer")]


class Script:
    """Answers each request with the next output: a list of items, a whole response, a status."""

    def __init__(self, *outputs: Any) -> None:
        self.outputs = itertools.cycle(outputs)
        self.requests: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.requests.append(json.loads(request.content))
            output = next(self.outputs)
        if isinstance(output, int):
            return httpx.Response(output, json={"error": {"message": "no"}})
        more = output if isinstance(output, dict) else {"output": output}
        common = {"id": "r1", "object": "response", "created_at": 1, "model": "m", "tools": []}
        rest = {"parallel_tool_calls": True, "tool_choice": "auto", "status": "completed"}
        usage = {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 15,
        }
        return httpx.Response(200, json={**common, **rest, "usage": usage, **more})

    async def later(self, request: httpx.Request) -> httpx.Response:
        return self(request)


COMMON: dict[str, Any] = {"api_key": "x", "base_url": "http://test/v1", "max_retries": 0}


def settings(**given: Any) -> dict[str, Any]:
    scorer = FakeScorer(lambda _, text: 0.9 if "good" in text or "search" in text else 0.1)
    return {"scorer": scorer, "sampling": SamplingPolicy(n=4, attempts=1), **given}


def client(script: Script, **given: Any) -> openai.OpenAI:
    http = httpx.Client(transport=httpx.MockTransport(script))
    return guard_openai(openai.OpenAI(http_client=http, **COMMON), **settings(**given))


def aclient(script: Script, **given: Any) -> openai.AsyncOpenAI:
    http = httpx.AsyncClient(transport=httpx.MockTransport(script.later))
    return guard_openai(openai.AsyncOpenAI(http_client=http, **COMMON), **settings(**given))


def create(guarded: Any, **kwargs: Any) -> Any:
    return guarded.responses.create(**{"model": "m", "input": "How do magnets work?", **kwargs})


class Answer(BaseModel):
    text: str


def test_the_best_of_n_responses_comes_back():
    script = Script(BAD, GOOD)
    response = create(client(script), temperature=0.7, store=False)
    assert isinstance(response, Response)
    assert response.output_text == "a good answer"
    assert [(r["temperature"], r["store"]) for r in script.requests] == [(0.7, False)] * 4
    assert response.srr_guard["reason"] == "best_of_n"
    assert response.srr_guard["chosen_usage"]["total_tokens"] == 15
    assert response.usage.total_tokens == 60
    assert response.usage.output_tokens_details.reasoning_tokens == 8
    assert json.loads(response.model_dump_json())["srr_guard"]["sampled"] == 4


def test_reasoning_items_are_scored_and_kept():
    scorer = FakeScorer(lambda _, text: 0.9)
    response = create(client(Script(GOOD), scorer=scorer, sampling=SamplingPolicy(n=1)))
    assert scorer.calls == [("a good answer", "how to be good")]
    assert response.output[0].summary[0].text == "how to be good"
    assert response.output[0].encrypted_content == "zzz"


def test_tool_calls_are_scored_and_passed_on_unchanged():
    script = Script([called("delete_all", "{}")], [called("search", '{"q": "magnets"}')])
    scorer = settings()["scorer"]
    response = create(client(script, scorer=scorer))
    (call,) = response.output
    assert (call.name, call.arguments, call.call_id) == ("search", '{"q": "magnets"}', "c")
    assert sorted(scorer.calls[0]) == [
        "[tool call] delete_all({})",
        '[tool call] search({"q": "magnets"})',
    ]


def test_the_whole_conversation_reaches_the_scorer():
    asked = []

    class Watching(FakeScorer):
        def score(self, conversation, candidates):
            asked.append(conversation)
            return super().score(conversation, candidates)

    guarded = client(Script(GOOD), scorer=Watching(lambda *_: 0.9))
    first = create(guarded)
    result = {"type": "function_call_output", "call_id": "c", "output": "42"}
    items = ({"role": "user", "content": "q"}, *first.output, called("f", "{}"), result)
    create(guarded, instructions="Be brief.", input=(item for item in items))
    assert [(turn.role, turn.text) for turn in asked[-1].turns] == [
        ("system", "Be brief."),
        ("user", "q"),
        ("assistant", "a good answer\n[tool call] f({})"),
        ("tool", "42"),
    ]


def test_images_are_refused():
    image = {"type": "image_generation_call", "id": "i", "status": "completed", "result": "eA=="}
    guarded = client(Script([said("a good one"), image]))
    assert create(guarded).output_text == DEFAULT_REFUSAL
    lax = client(Script([said("a good one"), image]), decision=DecisionPolicy(unreadable="pass"))
    assert create(lax).output[1].result == "eA=="


def test_a_refusal_is_a_response_without_any_of_the_answer():
    leaky = [{**THOUGHT, "summary": [{"type": "summary_text", "text": "bad"}]}, *BAD]
    response = create(client(Script(leaky), decision=DecisionPolicy(refusal="I'd rather not.")))
    assert (response.output_text, response.status) == ("I'd rather not.", "completed")
    assert response.srr_guard["reason"] == "refused"
    assert response.usage.total_tokens == 60
    assert "bad" not in response.model_dump_json()
    assert len(response.output) == 1


def test_what_the_providers_filter_took_away_is_a_refusal():
    taken = {
        "status": "incomplete",
        "incomplete_details": {"reason": "content_filter"},
        "output": [],
    }
    script = Script(taken)
    scorer = FakeScorer(lambda *_: 0.9)
    response = create(client(script, scorer=scorer, sampling=SamplingPolicy(n=2)))
    assert response.output_text == DEFAULT_REFUSAL
    assert response.incomplete_details is None
    assert len(script.requests) == 2


def test_failed_candidates_are_counted():
    failed = {"status": "failed", "error": {"code": "server_error", "message": "no"}, "output": []}
    response = create(client(Script(500, GOOD, failed, [said("")])))
    assert (response.srr_guard["failed"], response.srr_guard["reason"]) == (3, "fallback")
    with pytest.raises(openai.InternalServerError) as caught:
        create(client(Script(500)))
    assert isinstance(caught.value, AllCandidatesFailedError)
    with pytest.raises(AllCandidatesFailedError, match="server_error"):
        create(client(Script(failed)))


def test_cut_off_responses_are_candidates():
    cut = {
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "output": [said("a good start")],
    }
    response = create(client(Script(cut)))
    assert (response.output_text, response.status) == ("a good start", "incomplete")
    events = list(create(client(Script(cut)), stream=True))
    assert events[-1].type == "response.incomplete"


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"previous_response_id": "r0"}, ConfigurationError, "give the whole conversation"),
        ({"background": True}, ConfigurationError, "background"),
        ({"input": []}, InvalidInputError, "no messages"),
        ({"input": openai.omit}, InvalidInputError, "input=None"),
    ],
)
def test_bad_arguments(kwargs, error, match):
    script = Script(GOOD)
    with pytest.raises(error, match=match):
        create(client(script), **kwargs)
    assert script.requests == []


def test_arguments_that_are_not_given_are_left_out():
    omitted = {"previous_response_id": openai.omit, "text": openai.NOT_GIVEN}
    assert create(client(Script(GOOD)), **omitted).output_text == "a good answer"


class TestSchema:
    """The misfit is the safest, and is not chosen."""

    script = staticmethod(
        lambda: Script([said('{"text": 1, "note": "good"}')], [said('{"text": "bad"}')])
    )
    scorer = FakeScorer(lambda _, text: 0.9 if "good" in text else 0.6)

    def test_create(self):
        form = {"type": "json_schema", "name": "A", "schema": Answer.model_json_schema()}
        response = create(client(self.script(), scorer=self.scorer), text={"format": form})
        assert response.output_text == '{"text": "bad"}'
        assert response.srr_guard["failed"] == 2

    def test_parse(self):
        guarded = client(self.script(), scorer=self.scorer)
        response = guarded.responses.parse(model="m", input="q", text_format=Answer)
        assert isinstance(response, ParsedResponse)
        assert response.output_parsed == Answer(text="bad")
        assert response.srr_guard["failed"] == 2

    def test_stream(self):
        guarded = client(self.script(), scorer=self.scorer)
        with guarded.responses.stream(model="m", input="q", text_format=Answer) as stream:
            done = [e for e in stream if e.type == "response.output_text.done"]
            final = stream.get_final_response()
        assert done[0].parsed == final.output_parsed == Answer(text="bad")

    def test_tools(self):
        tool = openai.pydantic_function_tool(Answer)["function"]
        tools = [{"type": "function", **tool}]
        script = Script([called("Answer", '{"text": "bad"}')], [said("good")])
        guarded = client(script, scorer=self.scorer)
        response = create(guarded, tools=tools, tool_choice="required")
        assert response.output[0].arguments == '{"text": "bad"}'
        assert response.srr_guard["failed"] == 2

    def test_a_call_of_a_tool_that_was_not_given_is_a_failed_candidate(self):
        tools = [{"type": "function", **openai.pydantic_function_tool(Answer)["function"]}]
        given = '{"text": "good"}'
        script = Script([called("look_up", given)], [called("Answer", given)])
        response = create(client(script), tools=tools)
        assert (response.output[0].name, response.srr_guard["failed"]) == ("Answer", 2)

    def test_a_plain_refusal_stays_a_text_where_tools_are_given(self):
        tools = [{"type": "function", **openai.pydantic_function_tool(Answer)["function"]}]
        response = create(client(Script([said("bad")])), tools=tools)
        assert response.output_text == DEFAULT_REFUSAL

    @pytest.mark.parametrize("way", ["create", "parse", "stream"])
    def test_a_refusal_is_not_parsed(self, way):
        guarded = client(Script([said('{"text": "bad"}')]))
        if way == "stream":
            with guarded.responses.stream(model="m", input="q", text_format=Answer) as stream:
                response = stream.get_final_response()
        elif way == "parse":
            response = guarded.responses.parse(model="m", input="q", text_format=Answer)
        else:
            response = create(guarded, text={"format": {"type": "json_object"}})
        assert response.output[0].content[0].refusal == DEFAULT_REFUSAL
        assert response.output_text == ""
        if way != "create":
            assert response.output_parsed is None


def test_streaming_selects_then_emits():
    script = Script(BAD, GOOD)
    with create(client(script), stream=True) as stream:
        events = list(stream)
    assert [e.type for e in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [e.sequence_number for e in events] == list(range(15))
    assert events[10].delta == "a good answer"
    assert events[-1].response.output_text == "a good answer"
    assert events[-1].response.srr_guard["reason"] == "best_of_n"
    assert events[-1].response.usage.total_tokens == 60
    assert not any("stream" in request for request in script.requests)
    known: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    for event in events:  # each is an event of the API
        assert type(known.validate_python(event.to_dict())) is type(event)


def test_a_closed_stream_gives_nothing():
    stream = create(client(Script(GOOD)), stream=True)
    stream.close()
    assert list(stream) == []


def test_streaming_needs_the_extra(monkeypatch):
    guarded = client(Script(GOOD))
    monkeypatch.setitem(sys.modules, "openai.types", None)
    with pytest.raises(MissingExtraError, match=r"srr-guard\[openai\]"):
        create(guarded, stream=True)


def test_the_clients_own_stream_manager():
    script = Script([called("delete", "{}")], [said("so"), called("search", '{"q": 1}')])
    guarded = client(script)
    with guarded.responses.stream(model="m", input="q") as stream:
        assert list(stream.until_done()) == []
        final = stream.get_final_response()
    assert final.output_text == "so"
    assert final.output[1].arguments == '{"q": 1}'
    assert final.srr_guard["reason"] == "best_of_n"
    with guarded.responses.stream(model="m", input="q") as stream:
        snapshots = [e.snapshot for e in stream if e.type.endswith(".delta")]
    assert snapshots == ["so", '{"q": 1}']
    with pytest.raises(UnguardedError, match=r"responses\.retrieve"):
        guarded.responses.stream(response_id="r1").__enter__()


def test_a_streamed_refusal():
    with client(Script(BAD)).responses.stream(model="m", input="q") as stream:
        deltas = [e.delta for e in stream if e.type == "response.output_text.delta"]
        assert deltas == [DEFAULT_REFUSAL]
        assert stream.get_final_response().output_text == DEFAULT_REFUSAL


@pytest.fixture
def warm():
    """Builds the client's classes, which would block the event loop once."""
    guarded = client(Script(GOOD))
    guarded.responses.parse(model="m", input="q")
    with guarded.responses.stream(model="m", input="q") as stream:
        stream.until_done()


@pytest.mark.usefixtures("warm")
async def test_the_async_client():
    script = Script([said('{"text": "bad"}')], [said('{"text": "good"}')])
    async with aclient(script) as guarded:
        response = await create(guarded)
        assert response.output_text == '{"text": "good"}'
        assert (response.usage.total_tokens, len(script.requests)) == (60, 4)
        parsed = await guarded.responses.parse(model="m", input="q", text_format=Answer)
        assert parsed.output_parsed == Answer(text="good")
        async with await create(guarded, stream=True) as events:
            types = [event.type async for event in events]
        assert (types[0], types[-1]) == ("response.created", "response.completed")
        async with guarded.responses.stream(model="m", input="q", text_format=Answer) as stream:
            texts = [e.snapshot async for e in stream if e.type == "response.output_text.delta"]
            final = await stream.get_final_response()
        assert texts == ['{"text": "good"}']
        assert final.output_parsed == Answer(text="good")
        with pytest.raises(ConfigurationError, match="background"):
            await create(guarded, background=True)


def test_dicts_have_the_shape_too():
    answers = itertools.cycle(["a bad answer", "a good answer"])

    class Responses:
        def create(self, **_: Any) -> dict[str, Any]:
            return {"output": [said(next(answers))], "usage": {"total_tokens": 2}}

    response = create(guard_openai(SimpleNamespace(responses=Responses()), **settings()))
    assert response["output"][0]["content"][0]["text"] == "a good answer"
    assert response["usage"] == {"total_tokens": 8}
    assert response["srr_guard"]["reason"] == "best_of_n"
