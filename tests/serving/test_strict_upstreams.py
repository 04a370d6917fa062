"""Every field of a request reaches a strict upstream as it was sent, or is refused in one error."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from servers import ASK, Upstream, calls, gateway, says, upstream_server

KNOWN = {
    "/v1/chat/completions": frozenset(CompletionCreateParamsNonStreaming.__annotations__),
    "/v1/responses": frozenset(ResponseCreateParamsNonStreaming.__annotations__),
}
NEEDED = {"/v1/chat/completions": {"model", "messages"}, "/v1/responses": {"model", "input"}}
ASKED = {"/chat/completions": {"messages": ASK}, "/responses": {"input": "How do magnets work?"}}


class Strict(Upstream):
    """Refuses every field that its API does not name, and bodies that lack one."""

    async def __call__(self, scope, receive, send):
        message = await receive()
        sent, path = json.loads(message["body"]), scope["path"]
        wrong = [*(sent.keys() - KNOWN[path]), *(NEEDED[path] - sent.keys())]
        if "max_tokens" in sent and self.newer:
            wrong.append("max_tokens")
        if wrong:
            error = {"message": f"wrong: {sorted(wrong)}", "param": sorted(wrong)[0]}
            self.script({"status": 400, "body": {"error": error}})
        else:
            self.script(*self.answers)

        async def replay():
            return message

        await super().__call__(scope, replay, send)

    newer = False
    answers = (says("a good answer"),)


@pytest.fixture(scope="module")
def strict() -> Iterator[tuple[Strict, object]]:
    with upstream_server(Strict()) as server, gateway(server) as running:
        yield server, running


@pytest.fixture
def asked(strict, http):
    """Ask through the gateway; the answer, and what the server got."""
    server, running = strict
    server.begin_anew()
    server.answers = (says("a good answer"),)

    def ask(door, **fields):
        body = {"model": "m", **ASKED[door], **fields}
        answer = http.post(f"{running.url}{door}", json=body)
        return answer, [
            {k: v for k, v in request.items() if k[0] != "_"} for request in server.requests
        ]

    return ask


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CHAT = {
    "store": [True, False, None],
    "metadata": [{"a": "b"}],
    "service_tier": ["flex"],
    "seed": [7],
    "logprobs": [True],
    "top_logprobs": [3],
    "prediction": [{"type": "content", "content": "x"}],
    "modalities": [["text"], ["text", "audio"]],
    "audio": [{"voice": "alloy", "format": "wav"}],
    "web_search_options": [{}, {"search_context_size": "low"}],
    "parallel_tool_calls": [True, False],
    "user": ["u"],
    "safety_identifier": ["s"],
    "prompt_cache_key": ["k"],
    "verbosity": ["low"],
    "reasoning_effort": ["high"],
    "max_completion_tokens": [9],
    "max_tokens": [9],
    "functions": [[TOOL["function"]]],
    "function_call": ["auto", {"name": "f"}],
    "tools": [[TOOL]],
    "tool_choice": ["required"],
    "temperature": [0, 2, None],
    "top_p": [0.5],
    "frequency_penalty": [-1],
    "presence_penalty": [1],
    "logit_bias": [{"50256": -100}],
    "stop": ["END", ["a", "b"]],
    "response_format": [{"type": "text"}],
}
RESPONSES = {
    "store": [True, False, None],
    "include": [["reasoning.encrypted_content"], []],
    "instructions": ["Be brief.", None],
    "background": [False, None],
    "truncation": ["auto", "disabled"],
    "previous_response_id": [None],
    "conversation": [None],
    "metadata": [{"a": "b"}],
    "max_output_tokens": [16],
    "max_tool_calls": [2],
    "parallel_tool_calls": [False],
    "reasoning": [{"effort": "low", "summary": "auto"}],
    "service_tier": ["flex"],
    "text": [{"verbosity": "low"}, {"format": {"type": "text"}}],
    "tools": [[{"type": "web_search"}], [{"type": "function", "name": "f", "parameters": {}}]],
    "tool_choice": ["required"],
    "top_logprobs": [3],
    "user": ["u"],
    "safety_identifier": ["s"],
    "prompt_cache_key": ["k"],
    "temperature": [0.5],
}
FIELDS = [
    (door, name, value)
    for door, fields in (("/chat/completions", CHAT), ("/responses", RESPONSES))
    for name, values in fields.items()
    for value in values
]


@pytest.mark.parametrize(("door", "name", "value"), FIELDS, ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_a_field_reaches_the_server_unchanged(asked, door, name, value, stream):
    answer, sent = asked(door, **{name: value}, stream=stream, srr_guard={"n": 2})
    assert answer.status_code == 200, answer.text
    expected = {"model": "m", **ASKED[door], name: value}
    if door == "/responses":
        expected = {"store": False, **expected}
    assert sent == [expected] * 2


@pytest.mark.parametrize(
    ("door", "field"),
    [
        ("/chat/completions", {"n": 2}),
        ("/chat/completions", {"n": 0}),
        ("/chat/completions", {"n": "1"}),
        ("/chat/completions", {"stream_options": "usage"}),
        ("/chat/completions", {"stream_options": {"include_usage": "yes"}}),
        ("/chat/completions", {"extra_body": {"srr_guard": {"n": 1}}}),
        ("/chat/completions", {"max_tokens": 9.5}),
        ("/chat/completions", {"max_completion_tokens": "9"}),
        ("/responses", {"previous_response_id": "resp_1"}),
        ("/responses", {"conversation": "conv_1"}),
        ("/responses", {"conversation": {"id": "conv_1"}}),
        ("/responses", {"prompt": {"id": "pmpt_1"}}),
        ("/responses", {"background": True}),
        ("/responses", {"instructions": ["Be brief."]}),
        ("/responses", {"instructions": {"text": "Be brief."}}),
        ("/responses", {"max_output_tokens": True}),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_kept_is_refused_by_name(asked, door, field, stream):
    answer, sent = asked(door, **field, stream=stream)
    assert answer.status_code == 400
    assert next(iter(field)) in answer.json()["error"]["message"]
    assert sent == []


def test_the_server_itself_refuses_what_it_does_not_know(asked):
    for door in ASKED:
        error = asked(door, top_k=3)[0].json()["error"]
        assert (error["message"], error["param"]) == ("wrong: ['top_k']", "top_k")


def test_the_deprecated_form_of_calls_comes_back(asked, strict):
    call = {"name": "good_f", "arguments": "{}"}
    strict[0].answers = (says(None, function_call=call),)
    for stream in (False, True):
        answer, _ = asked("/chat/completions", functions=[TOOL["function"]], stream=stream)
        assert answer.status_code == 200
        assert '"function_call":{"name":"good_f","arguments":"{}"}' in answer.text
    strict[0].answers = (calls("bad_f", "{}"), says(None, function_call={"name": "bad_f"}))
    answer, _ = asked("/chat/completions", functions=[TOOL["function"]])
    assert answer.json()["choices"][0]["finish_reason"] == "content_filter"
    assert "bad" not in answer.text


@pytest.mark.parametrize(
    ("transcript", "finish"),
    [("good words", "stop"), ("bad words", "content_filter"), (None, "content_filter")],
)
def test_an_answer_in_sound_is_judged_by_its_transcript(asked, strict, transcript, finish):
    sound = {"id": "a", "data": "AAAA", "transcript": transcript, "expires_at": 1}
    strict[0].answers = (says(None, audio=sound),)
    answer, _ = asked("/chat/completions", modalities=["text", "audio"])
    assert answer.json()["choices"][0]["finish_reason"] == finish
    assert ("AAAA" in answer.text) == (finish == "stop")


@pytest.mark.parametrize(
    ("newer", "settings", "field"),
    [
        (False, {}, "max_tokens"),
        (True, {"tokens_field": "max_completion_tokens"}, "max_completion_tokens"),
    ],
)
def test_the_operators_limit_is_told_in_the_field_that_the_server_knows(
    http, newer, settings, field
):
    server = Strict()
    server.newer = newer
    with upstream_server(server):
        upstreams = [{"url": server.url, **settings}]
        with gateway(upstreams=upstreams, limits={"output_tokens": 100}) as served:
            for door, body in ASKED.items():
                answer = http.post(f"{served.url}{door}", json={"model": "m", **body})
                assert answer.status_code == 200, answer.text
            unlimited = {"model": "m", "messages": ASK, "max_tokens": -1}
            refused = http.post(f"{served.url}/chat/completions", json=unlimited)
    assert (refused.status_code, "max_tokens=-1" in refused.text) == (400, True)
    limits = [{k: v for k, v in sent.items() if k.startswith("max_")} for sent in server.requests]
    assert limits == [{field: 100}] * 4 + [{"max_output_tokens": 100}] * 4


def test_openais_own_server_gets_its_newer_field():
    from srr_guard.serving.config import UpstreamConfig

    assert UpstreamConfig(url="https://api.openai.com/v1").limit_field == "max_completion_tokens"
    assert UpstreamConfig(url="http://api.openai.com.evil/v1").limit_field == "max_tokens"
