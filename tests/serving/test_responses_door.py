"""`/v1/responses`, over HTTP."""

from __future__ import annotations

import json

import pytest
from servers import calls, gateway, response, says

QUESTION = "How do magnets work?"


def ask(http, served, **body):
    return http.post(f"{served.url}/responses", json={"model": "m", "input": QUESTION, **body})


def test_the_best_of_n_is_returned_as_one(http, upstream, served):
    body = ask(http, served, instructions="Be brief.").json()
    assert body["output"][0]["content"][0]["text"] == "a good answer"
    assert (body["usage"]["total_tokens"], body["srr_guard"]["reason"]) == (60, "best_of_n")
    request = {k: v for k, v in upstream.requests[0].items() if k[0] != "_"}
    assert request == {"model": "m", "input": QUESTION, "instructions": "Be brief.", "store": False}


def test_a_refusal_holds_nothing_of_the_answers(http, upstream, served):
    upstream.script(says("bad words"))
    answer = ask(http, served)
    assert "bad" not in answer.text
    assert answer.json()["output"][0]["content"][0]["text"].startswith("I'm sorry")


def test_a_stream_of_events(http, upstream, served):
    upstream.script(says("a good answer", tool_calls=calls("good_tool", '{"a": 1}')["tool_calls"]))
    answer = ask(http, served, stream=True)
    found = [event.split("\n") for event in answer.text.split("\n\n") if event]
    records = [json.loads(data.removeprefix("data: ")) for _, data in found]
    assert [f"event: {record['type']}" for record in records] == [name for name, _ in found]
    assert [record["type"].removeprefix("response.") for record in records] == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done", "output_item.added"),
        *("function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    assert [record["sequence_number"] for record in records] == list(range(13))
    assert (records[0]["response"]["output"], records[0]["response"]["status"]) == (
        [],
        "in_progress",
    )
    assert "good" not in json.dumps(records[:2])
    assert records[-1]["response"]["srr_guard"]["reason"] == "best_of_n"
    assert records[-1]["response"]["usage"]["total_tokens"] == 60


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id='resp_1' stands for turns"),
        ({"conversation": "conv_1"}, "conversation='conv_1' stands for turns"),
        ({"background": True}, "background=True answers later"),
        ({"input": None}, "input=None cannot be read"),
        ({"input": ""}, "the prompt is empty"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "stands for turns"),
        ({"n": 3}, "n=3 asks for several answers"),
    ],
)
def test_requests_that_make_no_sense(http, upstream, served, body, said):
    answer = ask(http, served, **body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert upstream.requests == []


def test_a_schema_is_asked_of_each_candidate(http, upstream, served):
    upstream.script(says("good but no JSON"), says('{"good": 1}'))
    schema = {"type": "json_schema", "name": "s", "schema": {"type": "object"}}
    body = ask(http, served, text={"format": schema}).json()
    assert body["output"][0]["content"][0]["text"] == '{"good": 1}'


def test_a_failed_response_is_no_candidate(http, upstream, served):
    failed = {"id": "r", "object": "response", "status": "failed", "output": [], "model": "m"}
    failed["error"] = {"code": "server_error", "message": "scripted"}
    upstream.script({"status": 200, "body": failed}, says("a good answer"))
    assert ask(http, served).json()["output"][0]["content"][0]["text"] == "a good answer"


@pytest.mark.parametrize("own", [None, "Be brief."])
@pytest.mark.parametrize("stream", [False, True])
def test_system_prompts_of_the_operator_stay_with_the_operator(http, upstream, own, stream):
    said = response(says("a good answer"), 1, "m")
    upstream.script({"status": 200, "body": {**said, "instructions": "Be brief.\n\nA secret."}})
    policies = {"default": {"sampling": {"n": 1, "system_prompts": ["A secret."]}}}
    with gateway(upstream, policies=policies) as served:
        answer = ask(http, served, stream=stream, **({} if own is None else {"instructions": own}))
    assert answer.status_code == 200
    assert "secret" not in answer.text
    assert "A secret." in upstream.requests[0]["instructions"]
    if not stream:
        assert answer.json()["instructions"] == own
