"""The real `openai` client against a small HTTP server on this machine."""

from __future__ import annotations

import copy
import doctest
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import openai
import pydantic
import pytest
import srr_guard_integrations.openai_client as adapter
import srr_guard_integrations.openai_streams as streams
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from srr_guard_integrations.openai_client import guard_chat_completions

from srr_guard import DecisionPolicy, SamplingPolicy
from srr_guard.errors import (
    AllCandidatesFailedError,
    BelowThresholdError,
    ConfigurationError,
    InvalidInputError,
    MissingExtraError,
)
from srr_guard.testing import FakeScorer

ASK = [{"role": "user", "content": "How do magnets work?"}]


def says(text: str | None, **message: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **message}


def calls(name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return says(None, tool_calls=[{"id": "call_1", "type": "function", "function": function}])


class Server(ThreadingHTTPServer):
    """Answers each request with the next message of its script."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.script([says("a bad answer"), says("a good answer")])

    def script(self, messages: list[Any]) -> None:
        self.messages = itertools.cycle(messages)

    def answer(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            self.requests.append(request)
            number, message = len(self.requests), next(self.messages)
        if isinstance(message, int):
            return message, {"error": {"message": "scripted", "type": "server_error"}}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return 200, {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": request["model"],
            "choices": [] if message is None else [choice],
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 15,
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
        }


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = self.server.answer(request)
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        body = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url(server), api_key="none", max_retries=0) as client:
        yield client


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/v1"


def scorer() -> FakeScorer:
    return FakeScorer(lambda _, answer: 0.9 if "good" in answer or "search" in answer else 0.1)


def guarded(client: Any, **settings: Any) -> Any:
    settings.setdefault("sampling", SamplingPolicy(n=4, attempts=1))
    settings.setdefault("scorer", scorer())
    return guard_chat_completions(client, **settings)


def create(client: Any, **kwargs: Any) -> Any:
    return client.chat.completions.create(model="m", **{"messages": ASK, **kwargs})


def test_the_best_of_n_completions_comes_back(server, client):
    completion = create(guarded(client), temperature=0.7)
    assert isinstance(completion, ChatCompletion)
    assert completion.choices[0].message.content == "a good answer"
    assert completion.choices[0].finish_reason == "stop"
    assert [r["temperature"] for r in server.requests] == [0.7] * 4
    assert completion.srr_guard["reason"] == "best_of_n"
    assert completion.srr_guard["p_safe"] == 0.9
    assert json.loads(completion.model_dump_json())["srr_guard"]["sampled"] == 4


def test_usage_is_the_sum_over_the_candidates(client):
    completion = create(guarded(client))
    assert completion.usage.total_tokens == 60
    assert completion.usage.completion_tokens_details.reasoning_tokens == 8
    assert completion.srr_guard["chosen_usage"]["total_tokens"] == 15


def test_types_and_other_resources_pass_through(client):
    ours = guarded(client)
    assert [m.id for m in ours.models.list()] == ["m"]
    assert ours.base_url == client.base_url
    assert ours.chat.completions.delete == client.chat.completions.delete
    assert copy.copy(ours).api_key == "none"


def test_copies_of_the_client_are_guarded_too(server, client):
    for ours in (guarded(client).with_options(timeout=5), guarded(client).copy(timeout=5)):
        assert "srr_guard" in create(ours).model_extra
    with guarded(openai.OpenAI(base_url=url(server), api_key="none")) as ours:
        assert "srr_guard" in create(ours).model_extra


def test_tool_calls_are_scored_and_passed_on_unchanged(server, client):
    server.script([calls("delete_all", "{}"), calls("search", '{"q": "magnets"}')])
    watching = scorer()
    completion = create(guarded(client, scorer=watching))
    function = completion.choices[0].message.tool_calls[0].function
    assert (function.name, function.arguments) == ("search", '{"q": "magnets"}')
    assert sorted(watching.calls[0]) == [
        "[tool call] delete_all({})",
        '[tool call] search({"q": "magnets"})',
    ]


def test_a_call_of_a_tool_that_was_not_given_is_a_failed_candidate(server, client):
    server.script([calls("look_up", '{"q": "good"}'), calls("search", '{"q": "a good one"}')])
    tools = [{"type": "function", "function": {"name": "search"}}]
    for given in ({"tools": tools}, {"extra_body": {"tools": tools}}):
        completion = create(guarded(client), **given)
        assert completion.choices[0].message.tool_calls[0].function.name == "search"
        assert completion.srr_guard["failed"] == 2


def test_odd_messages_are_scored_too(server, client):
    custom = {"id": "c", "type": "custom", "custom": {"name": "sql", "input": "drop"}}
    legacy = {"name": "old", "arguments": "{}"}
    server.script(
        [
            calls("f", "{not json"),
            says(None, tool_calls=[custom]),
            says(None, function_call=legacy),
            says(None, refusal="No, but a good one."),
        ]
    )
    watching = scorer()
    completion = create(guarded(client, scorer=watching))
    assert completion.choices[0].message.refusal == "No, but a good one."
    assert sorted(watching.calls[0]) == [
        "No, but a good one.",
        "[invalid tool call] f({not json)",
        "[tool call] old({})",
        '[tool call] sql({"input": "drop"})',
    ]


def test_the_whole_conversation_reaches_the_scorer(client):
    prompts = []

    class Watching(FakeScorer):
        def score(self, conversation, candidates):
            prompts.append(conversation)
            return super().score(conversation, candidates)

    answered = ChatCompletion.model_validate(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": calls("f", '{"a": 1}')}],
        }
    )
    create(
        guarded(client, scorer=Watching(lambda *_: 0.9)),
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            answered.choices[0].message,
            {"role": "tool", "tool_call_id": "call_1", "content": "42"},
            {"role": "assistant", "tool_calls": calls("g", "{bad")["tool_calls"]},
            *ASK,
        ],
    )
    assert [(t.role, t.text) for t in prompts[0].turns] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", '[tool call] f({"a": 1})'),
        ("tool", "42"),
        ("assistant", "[invalid tool call] g({bad)"),
        ("user", "How do magnets work?"),
    ]


def test_a_refusal_is_a_completion_without_any_of_the_answer(server, client):
    leaky = says(
        "bad", reasoning_content="how to be bad", tool_calls=calls("f", "{}")["tool_calls"]
    )
    server.script([leaky])
    completion = create(guarded(client, decision=DecisionPolicy(refusal="I'd rather not.")))
    choice = completion.choices[0]
    assert choice.message.content == choice.message.refusal == "I'd rather not."
    assert choice.finish_reason == "content_filter"
    assert completion.srr_guard["reason"] == "refused"
    assert completion.usage.total_tokens == 60
    assert "bad" not in completion.model_dump_json()
    assert not choice.message.tool_calls


def test_below_the_threshold_may_raise(server, client):
    server.script([says("bad")])
    with pytest.raises(BelowThresholdError):
        create(guarded(client, decision=DecisionPolicy(below_threshold="raise")))


def test_failed_candidates_are_counted(server, client):
    server.script([500, says("a good answer"), None, says("")])
    completion = create(guarded(client))
    assert completion.srr_guard["failed"] == 3
    assert completion.srr_guard["reason"] == "fallback"
    assert completion.usage.total_tokens == 15
    server.script([500])
    with pytest.raises(AllCandidatesFailedError, match="InternalServerError"):
        create(guarded(client))


def test_streaming_selects_then_emits(server, client):
    stream = create(guarded(client), stream=True, stream_options={"include_usage": True})
    with stream as chunks:
        chunks = list(chunks)
    assert all(isinstance(chunk, ChatCompletionChunk) for chunk in chunks)
    assert [c.choices[0].delta.content for c in chunks[:-1]] == ["a good answer", None]
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None, "stop"]
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 60)
    assert chunks[-1].srr_guard["reason"] == "best_of_n"
    assert len({(c.id, c.model, c.created) for c in chunks}) == 1
    assert not any("stream" in request for request in server.requests)


def test_a_streamed_tool_call_can_be_put_together_again(server, client):
    server.script([calls("search", '{"q": 1}')])
    chunks = list(create(guarded(client), stream=True))
    (call,) = chunks[0].choices[0].delta.tool_calls
    assert (call.index, call.id, call.function.name) == (0, "call_1", "search")
    assert call.function.arguments == '{"q": 1}'
    assert len(chunks) == 2


def test_a_closed_stream_gives_nothing(client):
    stream = create(guarded(client), stream=True)
    stream.close()
    assert list(stream) == []


def test_streaming_needs_the_extra(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai.types.chat", None)
    with pytest.raises(MissingExtraError, match=r"srr-guard\[openai\]"):
        create(guarded(client), stream=True)


def test_parse_gives_the_parsed_object(server, client):
    class Answer(pydantic.BaseModel):
        text: str

    server.script([says('{"text": "bad"}'), says('{"text": "good"}')])
    ours = guarded(client)
    completion = ours.chat.completions.parse(model="m", messages=ASK, response_format=Answer)
    assert completion.choices[0].message.parsed == Answer(text="good")
    server.script([says('{"text": "bad"}')])
    completion = ours.chat.completions.parse(model="m", messages=ASK, response_format=Answer)
    assert completion.choices[0].message.parsed is None


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"n": 2}, ConfigurationError, "n=2"),
        ({"extra_body": {"n": 2}}, ConfigurationError, "n=2"),
        ({"n": 1, "extra_body": {"n": 2}}, ConfigurationError, "n=2"),
        ({"extra_body": {"messages": ASK}}, ConfigurationError, "'messages' in extra_body"),
        ({"extra_body": {"stream": True}}, ConfigurationError, "'stream' in extra_body"),
        ({"extra_body": {"stream_options": {}}}, ConfigurationError, "'stream_options' in extra"),
        ({"extra_body": "n=2"}, ConfigurationError, "give a dict"),
        ({"messages": []}, InvalidInputError, "no messages"),
        ({"messages": "hi"}, InvalidInputError, "'hi' is not a list"),
        ({"messages": None}, InvalidInputError, "None is not a list"),
        ({"messages": [{"role": "user", "content": " "}]}, InvalidInputError, "empty"),
        ({"messages": [{"role": "user"}]}, InvalidInputError, "content"),
    ],
)
def test_bad_arguments(server, client, kwargs, error, text):
    with pytest.raises(error, match=text):
        create(guarded(client), **kwargs)
    assert server.requests == []


def test_n_of_one_is_fine(client):
    assert create(guarded(client), n=1).srr_guard["sampled"] == 4
    assert create(guarded(client), extra_body={"n": 1, "top_k": 3}).srr_guard["sampled"] == 4


@pytest.mark.parametrize("given", [{"type": "json_object"}, {"type": "text"}])
def test_what_extra_body_says_of_the_form_goes_over_the_rest(server, client, given):
    server.script([says("not a good JSON"), says('"good"')])
    other = {"type": "text" if given["type"] == "json_object" else "json_object"}
    made = create(guarded(client), response_format=other, extra_body={"response_format": given})
    assert made.srr_guard["failed"] == (2 if given["type"] == "json_object" else 0)


@pytest.mark.parametrize("thing", [None, SimpleNamespace(chat=SimpleNamespace())])
def test_something_that_is_no_client(thing):
    with pytest.raises(ConfigurationError, match=r"no `chat\.completions\.create`"):
        guard_chat_completions(thing)


def test_on_decision_sees_each_decision(client):
    seen = []
    create(guarded(client, on_decision=seen.append))
    assert [d.chosen.text for d in seen] == ["a good answer"]


@pytest.fixture
def warm(client):
    """Builds the client's classes, which would block the event loop once."""
    create(client)
    list(create(guarded(client), stream=True))


@pytest.mark.usefixtures("warm")
async def test_the_async_client(server):
    before = len(server.requests)
    client = openai.AsyncOpenAI(base_url=url(server), api_key="none", max_retries=0)
    async with guarded(client) as ours:
        completion = await create(ours)
        assert completion.choices[0].message.content == "a good answer"
        assert completion.usage.total_tokens == 60
        assert len(server.requests) - before == 4
        stream = await create(ours, stream=True)
        async with stream as chunks:
            texts = [c.choices[0].delta.content async for c in chunks]
        assert texts == ["a good answer", None]
        stream = await create(ours, stream=True)
        await stream.close()
        assert [c async for c in stream] == []
        with pytest.raises(ConfigurationError, match="n=3"):
            await create(ours, n=3)


def test_dicts_and_plain_objects_have_the_shape_too():
    answers = itertools.cycle([says("a bad answer"), says("a good answer")])

    def complete(**_: Any) -> dict[str, Any]:
        usage = {"total_tokens": 2, "cost": 0.5, "estimated": True}
        return {"choices": [{"message": next(answers), "finish_reason": "stop"}], "usage": usage}

    client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=complete)))
    completion = create(guarded(client))
    assert completion["choices"][0]["message"]["content"] == "a good answer"
    assert completion["usage"] == {"total_tokens": 8, "cost": 2.0, "estimated": True}
    assert completion["srr_guard"]["reason"] == "best_of_n"
    refused = create(guarded(client, scorer=FakeScorer(lambda *_: 0.0)))
    assert refused["choices"][0]["message"]["content"].startswith("I'm sorry")
    assert "answer" not in json.dumps(refused["choices"])


def test_importing_loads_neither_openai_nor_torch():
    code = (
        "import sys, srr_guard_integrations.openai_client;"
        "assert not {'openai', 'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(adapter).failed == doctest.testmod(streams).failed == 0


def answering(*messages: Any) -> tuple[Any, list[dict[str, Any]]]:
    """A client-shaped object that gives these messages in turn, and the requests it got."""
    given, requests = itertools.cycle(messages), []

    def create(**kwargs: Any) -> Any:
        requests.append(kwargs)
        choice = SimpleNamespace(message=next(given), finish_reason="stop")
        return SimpleNamespace(choices=[choice])

    completions = SimpleNamespace(create=create)
    return SimpleNamespace(chat=SimpleNamespace(completions=completions)), requests


def test_iterators_are_read_once_and_given_to_each_call() -> None:
    client, requests = answering(SimpleNamespace(role="assistant", content="good"))
    guarded = guard_chat_completions(client, scorer=FakeScorer(lambda p, a: 0.9), n=3)
    parts = ({"type": "text", "text": text} for text in ("How ", "so?"))
    guarded.chat.completions.create(
        messages=(m for m in [{"role": "user", "content": parts}]),
        tools=iter([{"type": "function", "function": {"name": "look"}}]),
        stop=("a", "b"),
    )
    content = [{"type": "text", "text": "How "}, {"type": "text", "text": "so?"}]
    assert [r["messages"] for r in requests] == [[{"role": "user", "content": content}]] * 3
    assert [len(r["tools"]) for r in requests] == [1, 1, 1]
    assert requests[0]["stop"] == ("a", "b")


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_beside_the_content_is_scored(field: str) -> None:
    bad = SimpleNamespace(role="assistant", content="fine", **{field: "HARM"})
    good = SimpleNamespace(role="assistant", content="fine too", **{field: "thoughts"})
    client, _ = answering(bad, good)
    scorer = FakeScorer(lambda prompt, answer: 0.1 if "HARM" in answer else 0.9)
    completion = guard_chat_completions(client, scorer=scorer, n=2).chat.completions.create(
        messages=[{"role": "user", "content": "q"}]
    )
    assert completion.choices[0].message is good
    assert sorted(scorer.calls[0]) == ["HARM", "fine", "fine too", "thoughts"]


class TestAttributes:
    """Code that inspects or patches a client finds what it would find without the guard."""

    def test_types(self, client):
        guard = guarded(client)
        assert isinstance(guard, type(client))
        assert isinstance(guard.chat, type(client.chat))
        assert isinstance(guard.chat.completions, type(client.chat.completions))

    def test_settings_reach_the_client(self, client):
        guard = guarded(client)
        guard.timeout = 7.0
        assert client.timeout == 7.0

    def test_what_is_put_in_the_place_of_a_guarded_method_calls_it(self, client, server):
        guard = guarded(client)
        inside = guard.chat.completions.create
        seen = []

        def traced(**kwargs):
            seen.append(inside(**kwargs))
            return seen[-1]

        guard.chat.completions.create = traced
        completion = guard.chat.completions.create(model="m", messages=ASK)
        assert seen == [completion]
        assert completion.srr_guard["reason"] == "best_of_n"
        plain = client.chat.completions.create(model="m", messages=ASK)
        assert not hasattr(plain, "srr_guard")

    @pytest.mark.parametrize("name", ["retrieve", "with_raw_response"])
    def test_closed_roads_stay_closed(self, client, name):
        guard = guarded(client)
        with pytest.raises(ConfigurationError, match="closed"):
            setattr(guard.chat.completions, name, print)

    @pytest.mark.filterwarnings("ignore:langsmith.wrappers:DeprecationWarning")
    def test_a_tracer_around_the_guard_sees_the_chosen_completion(self, client):
        from langsmith import Client
        from langsmith.run_helpers import tracing_context
        from langsmith.wrappers import wrap_openai

        told = []

        class Recording(Client):
            def create_run(self, *args, **kwargs):
                told.append(kwargs)

            def update_run(self, *args, **kwargs):
                told.append(kwargs)

        recording = Recording(api_url="http://127.0.0.1:1", api_key="x", auto_batch_tracing=False)
        wrapped = wrap_openai(guarded(client))
        with tracing_context(enabled=True, client=recording):
            completion = wrapped.chat.completions.create(model="m", messages=ASK)
        assert completion.choices[0].message.content == "a good answer"
        assert "a good answer" in repr(told)
        assert "a bad answer" not in repr(told)
