"""Nonsense in any one place of a request or an answer: one clear error, never a 500."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from servers import ASK, Upstream, completion, gateway, response, says, upstream_server

WEIRD = (-1, [1], {"type": ["a"]})
ONCE = {"default": {"sampling": {"n": 1, "attempts": 1}}}

CALL = {"id": "c", "type": "function", "function": {"name": "good", "arguments": "{}"}}
SAID = says(
    "a good answer",
    tool_calls=[CALL],
    reasoning_content="good",
    annotations=[{"type": "url_citation", "url_citation": {"url": "http://good"}}],
)
COMPLETION = completion(SAID, 1, "m")
COMPLETION["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": -1.0}]}
RESPONSE = response(SAID, 1, "m")
RESPONSE["output"].append(
    {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "good"}]}
)
ANSWERS = {"/chat/completions": COMPLETION, "/responses": RESPONSE}
ASKED = {"/chat/completions": {"messages": ASK}, "/responses": {"input": "hello"}}

PARTS = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:x"}}]
QUESTION = {"role": "user", "content": "q"}
TOOL = {"name": "f", "parameters": {}}
REQUESTS: dict[str, dict[str, Any]] = {
    "/chat/completions": {
        "model": "m",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": PARTS, "name": "n"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": "r"},
            QUESTION,
        ],
        "tools": [{"type": "function", "function": TOOL}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "s", "schema": {"type": "object"}},
        },
        "stream_options": {"include_usage": True},
        "srr_guard": {"n": 1},
        "max_tokens": 5,
    },
    "/responses": {
        "model": "m",
        "instructions": "i",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "r"},
            {"type": "reasoning", "id": "r", "summary": []},
            QUESTION,
        ],
        "text": {"format": {"type": "text"}},
        "tools": [{"type": "function", **TOOL}],
        "max_output_tokens": 9,
    },
    "/score": {"conversation": [QUESTION], "candidates": ["good", "bad"]},
    "/rank": {"conversation": {"turns": [{"role": "user", "text": "q"}]}, "candidates": ["good"]},
    "/checks": {
        "conversation": [QUESTION, {"role": "assistant", "content": "a"}],
        "turns": "all",
        "srr_guard": {"threshold": 0.6},
    },
}


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    if isinstance(value, dict):
        for name in value:
            yield from places(value[name], (*at, name))
    elif isinstance(value, list):
        for i in range(len(value)):
            yield from places(value[i], (*at, i))


def spoilt(whole: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Copies with nonsense in one place, or without it."""
    for at in places(whole):
        for value in (*WEIRD, None):
            changed = copy.deepcopy(whole)
            inner = {"whole": changed}
            *way, last = ("whole", *at)
            place: Any = inner
            for step in way:
                place = place[step]
            if value is None:
                del place[last]
            else:
                place[last] = value
            if "whole" in inner:
                yield (at, value), inner["whole"]


def is_json(text: str) -> bool:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True


@pytest.fixture(scope="module")
def pair():
    with upstream_server(Upstream()) as server:
        upstreams = [{"url": server.url, "failures": 10**9}]
        with gateway(upstreams=upstreams, policies=ONCE) as running:
            yield server, running


@pytest.mark.parametrize("door", ANSWERS)
def test_whatever_a_server_answers(http, pair, door):
    server, served = pair
    wrong = []
    for i, (where, answer) in enumerate(spoilt(ANSWERS[door])):
        server.script({"status": 200, "body": answer})
        body = {"model": "m", **ASKED[door], "stream": i % 5 > 1}
        found = http.post(f"{served.url}{door}", json=body)
        streamed = found.headers["content-type"].startswith("text/event-stream")
        if found.status_code not in (200, 502) or not (streamed or is_json(found.text)):
            wrong.append((where, found.status_code, found.text[:80]))
    assert wrong == []


@pytest.mark.parametrize("door", REQUESTS)
def test_whatever_a_client_asks(http, pair, door):
    server, served = pair
    server.script(says("a good answer"), says('{"good": 1}'))
    headers = {"content-type": "application/json"}
    wrong = []
    for where, body in spoilt(REQUESTS[door]):
        found = http.post(f"{served.url}{door}", content=json.dumps(body), headers=headers)
        if found.status_code not in (200, 400, 422, 502) or not is_json(found.text):
            wrong.append((where, found.status_code, found.text[:80]))
    assert wrong == []


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b'{"choices": [{"message": {"content": "good"}}], "usage": {"prompt_tokens": NaN}}', 200),
        (b'{"choices": [{"message": {"content": "good"}, "logprobs": -Infinity}]}', 200),
        (b'{"choices": [{"message": {"content": "good"}, "logprobs": 1e999}]}', 200),
        (b'{"choices": [{"message": {"content": "good \xc3"}}]}', 502),
        (b'\xef\xbb\xbf{"choices": [{"message": {"content": "good"}}]}', 200),
        (b"[" * 100_000, 502),
    ],
)
def test_numbers_that_are_none(http, pair, answer, status):
    server, served = pair
    server.script(answer)
    found = http.post(f"{served.url}/chat/completions", json={"model": "m", "messages": ASK})
    assert (found.status_code, is_json(found.text)) == (status, True)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "-1e999"])
def test_a_request_holds_no_such_number(http, pair, number):
    server, served = pair
    server.begin_anew()
    body = json.dumps({"model": "m", "messages": ASK, "temperature": 0}).replace("0}", number + "}")
    headers = {"content-type": "application/json"}
    found = http.post(f"{served.url}/chat/completions", content=body, headers=headers)
    assert found.status_code == 400
    assert f"the body holds {number}" in found.json()["error"]["message"]
    assert server.requests == []
