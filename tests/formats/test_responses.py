"""Responses as they are read, refused and counted, and requests as the scorer sees them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from openai.types.responses import ParsedResponse, Response, ResponseOutputMessage

from srr_guard import Guard
from srr_guard.errors import ConfigurationError, InvalidInputError, SamplingError
from srr_guard.formats.response_events import as_events
from srr_guard.formats.responses import ResponseDelivery, as_conversation
from srr_guard.formats.schemas import schema_check
from srr_guard.testing import FakeScorer

USAGE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 15,
}


def said(*parts: Any, **more: Any) -> dict[str, Any]:
    content = [out(part) if isinstance(part, str) else part for part in parts]
    common = {"type": "message", "id": "m1", "role": "assistant", "status": "completed"}
    return {**common, "content": content, **more}


def out(text: str, *annotations: Any) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": list(annotations)}


def called(name: str, arguments: str) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": "f",
        "call_id": "c",
        "name": name,
        "arguments": arguments,
    }


def response(*output: Any, **more: Any) -> dict[str, Any]:
    common = {"id": "r1", "object": "response", "created_at": 1, "model": "m", "tools": []}
    rest = {"parallel_tool_calls": True, "tool_choice": "auto", "status": "completed"}
    return {**common, **rest, "output": list(output), "usage": USAGE, **more}


def forms(given: dict[str, Any]) -> list[Any]:
    """The same response as the client's object, a look-alike and a dict."""
    return [Response.construct(**given), thing(given), given]


def thing(value: Any) -> Any:
    if isinstance(value, dict):
        return SimpleNamespace(**{name: thing(inner) for name, inner in value.items()})
    return [thing(inner) for inner in value] if isinstance(value, list) else value


URL = {"type": "url_citation", "title": "HARM", "url": "u", "start_index": 0, "end_index": 1}
SUMMARY = {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "HARM"}]}
THOUGHT = {
    "type": "reasoning",
    "id": "rs",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "HARM"}],
}
HARMFUL = {
    "text": [said("HARM")],
    "second part": [said("fine", "HARM")],
    "second message": [said("fine"), said("HARM")],
    "commentary": [said("HARM", phase="commentary"), said("fine", phase="final_answer")],
    "refusal": [said({"type": "refusal", "refusal": "HARM"})],
    "annotation": [said(out("fine", URL))],
    "field beside": [said("fine", caption="HARM")],
    "summary": [SUMMARY, said("fine")],
    "reasoning": [THOUGHT, said("fine")],
    "tool name": [called("HARM", "{}")],
    "tool arguments": [called("f", '{"x": "HARM"}')],
    "broken arguments": [called("f", '{"x": "HARM')],
    "custom tool": [
        {"type": "custom_tool_call", "id": "f", "call_id": "c", "name": "sql", "input": "HARM"}
    ],
    "web search": [
        {
            "type": "web_search_call",
            "id": "w",
            "status": "completed",
            "action": {"type": "search", "query": "HARM"},
        },
        said("fine"),
    ],
    "file search": [
        {
            "type": "file_search_call",
            "id": "w",
            "status": "completed",
            "queries": ["q"],
            "results": [{"file_id": "x", "text": "HARM"}],
        },
        said("fine"),
    ],
    "code": [
        {
            "type": "code_interpreter_call",
            "id": "c",
            "status": "completed",
            "container_id": "x",
            "code": "1",
            "outputs": [{"type": "logs", "logs": "HARM"}],
        }
    ],
    "mcp": [
        {
            "type": "mcp_call",
            "id": "i",
            "server_label": "s",
            "name": "n",
            "arguments": "{}",
            "output": "HARM",
        }
    ],
    "shell": [
        {
            "type": "shell_call",
            "id": "s",
            "call_id": "c",
            "status": "completed",
            "action": {"commands": ["HARM"]},
        }
    ],
    "local shell": [
        {
            "type": "local_shell_call",
            "id": "s",
            "call_id": "c",
            "status": "completed",
            "action": {"type": "exec", "command": ["HARM"], "env": {}},
        }
    ],
    "program": [{"type": "program", "id": "p", "call_id": "c", "code": "HARM", "fingerprint": "x"}],
    "program's result": [
        {
            "type": "program_output",
            "id": "p",
            "call_id": "c",
            "result": "HARM",
            "status": "completed",
        }
    ],
}


@pytest.mark.parametrize("where", HARMFUL)
def test_all_that_leaves_is_read(where):
    readings = [ResponseDelivery().read(form) for form in forms(response(*HARMFUL[where]))]
    assert "HARM" in readings[0].whole
    assert ("HARM" in readings[0].trace) == (where in ("summary", "reasoning"))
    assert readings[0].unreadable == ()
    assert len({tuple(sorted(reading.whole.splitlines())) for reading in readings}) == 1


def test_calls_are_read_as_those_of_completions():
    output = [said("so"), called("f", '{"b": 1, "a": 2}'), called("g", "{no")]
    text = ResponseDelivery().read(response(*output)).text
    assert text == 'so\n[tool call] f({"a": 2, "b": 1})\n[invalid tool call] g({no)'


@pytest.mark.parametrize(
    "item",
    [
        {"type": "image_generation_call", "id": "i", "status": "completed", "result": "eA=="},
        {"type": "hologram", "id": "h", "data": "xx"},
        7,
    ],
)
def test_what_has_no_text_is_unreadable_by_kind(item):
    reading = ResponseDelivery().read(response(said("see"), item))
    assert reading.text.startswith("see")
    assert reading.unreadable == (item["type"] if isinstance(item, dict) else "int",)


def test_encrypted_reasoning_is_not_read_and_reasoning_alone_is_blank():
    hidden = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "zzz"}
    assert ResponseDelivery().read(response(hidden, said("fine"))).text == "fine"
    assert ResponseDelivery().read(response(SUMMARY)).text.strip() == ""


def test_a_text_beside_the_output_is_read_unless_it_repeats_it():
    for form in forms(response(said("fine"), output_text="HARM")):
        assert "HARM" in ResponseDelivery().read(form).text
    for form in forms(response(said("fine"), output_text="fine")):
        assert ResponseDelivery().read(form).text == "fine"


def test_what_the_client_parsed_is_the_text():
    for blank in ("", " ", "\u200b"):
        hidden = response(said({**out(blank), "parsed": {"a": "HARM"}}))
        assert "HARM" in ResponseDelivery().read(hidden).text
    given = response(said({**out('{"a": 1}'), "parsed": {"a": 1}}))
    for form in [ParsedResponse.construct(**given), given]:
        assert ResponseDelivery().read(form).text == '{"a": 1}'


@pytest.mark.parametrize(
    "more",
    [
        {"status": "failed", "error": {"code": "server_error", "message": "no"}},
        {"error": {"code": "server_error", "message": "no"}},
        {"status": "in_progress"},
        {"status": "queued"},
        {"status": "cancelled"},
        {"output": None},
    ],
)
def test_responses_that_are_no_answer_are_failures(more):
    for form in forms(response(said("fine")) | more):
        with pytest.raises(SamplingError):
            ResponseDelivery().read(form)


def test_cut_off_responses_are_answers_and_filtered_ones_are_declined():
    cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    taken = {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}
    for form in forms(response(said("fine"), **cut)):
        assert ResponseDelivery().read(form).text == "fine"
        assert not ResponseDelivery().declined(form)
    for form in forms(response(**taken)):
        assert ResponseDelivery().declined(form)
        assert ResponseDelivery().read(form).text == ""


class TestRefusal:
    given = response(
        THOUGHT,
        said("HARM", notes="HARM"),
        called("HARM", "{}"),
        status="incomplete",
        incomplete_details={"reason": "content_filter"},
        notes="HARM",
    )

    def test_an_object(self):
        refusal = ResponseDelivery().refusal("No.", Response.construct(**self.given))
        assert refusal.output_text == "No."
        assert isinstance(refusal.output[0], ResponseOutputMessage)
        assert (refusal.id, refusal.status, refusal.incomplete_details) == ("r1", "completed", None)
        assert "HARM" not in refusal.model_dump_json()

    def test_a_parsed_one(self):
        refusal = ResponseDelivery().refusal("No.", ParsedResponse.construct(**self.given))
        assert (refusal.output_text, refusal.output_parsed) == ("No.", None)

    def test_a_look_alike_and_a_dict(self):
        given = {**self.given, "output_text": "HARM"}
        del given["notes"]
        plain = ResponseDelivery().refusal("No.", given)
        assert plain["output"][0]["content"][0]["text"] == plain["output_text"] == "No."
        alike = ResponseDelivery().refusal("No.", thing(given))
        assert alike.output[0].content[0].text == alike.output_text == "No."
        assert "HARM" not in repr(plain) + repr(alike)

    def test_where_a_schema_is_asked_for(self):
        check = schema_check({"text": {"format": {"type": "json_object"}}})
        refusal = ResponseDelivery(check).refusal("No.", Response.construct(**self.given))
        (part,) = refusal.output[0].content
        assert (part.type, part.refusal, refusal.output_text) == ("refusal", "No.", "")


class TestSchema:
    delivery = ResponseDelivery(schema_check({"text": {"format": {"type": "json_object"}}}))

    @pytest.mark.parametrize(
        "output",
        [
            [said("{}")],
            [THOUGHT, said("{}")],
            [said("I think so", phase="commentary"), said("{}", phase="final_answer")],
            [said({"type": "refusal", "refusal": "No."})],
            [called("f", "{}")],
        ],
    )
    def test_fits(self, output):
        assert self.delivery.read(response(*output)).text

    @pytest.mark.parametrize(
        "output",
        [
            [said("text")],
            [said("{}", "text")],
            [said("text", {"type": "refusal", "refusal": "\u200b"})],
        ],
    )
    def test_does_not_fit(self, output):
        with pytest.raises(SamplingError, match="schema was asked for"):
            self.delivery.read(response(*output))


def test_usage_is_the_sum():
    outputs = [*forms(response(said("a"))), response(said("b"), usage=None)]
    assert ResponseDelivery().usage(outputs) == {
        "input_tokens": 30,
        "output_tokens": 15,
        "total_tokens": 45,
        "input_token_details": {"cache_read": 12},
        "output_token_details": {"reasoning": 6},
    }
    assert ResponseDelivery().usage([response(usage=None)]) is None
    bare = {"input_tokens": 1, "output_tokens": 2}
    assert ResponseDelivery().usage([response(usage=bare)]) == {**bare, "total_tokens": 3}


@pytest.mark.parametrize("form", range(3))
def test_the_decision_is_on_the_answer(form):
    given = [forms(response(said(text)))[form] for text in ("HARM", "fine")]
    guard = Guard(scorer=FakeScorer(lambda _, text: 0.9 if text == "fine" else 0.1))
    output = guard.choose("q", given, delivery=ResponseDelivery()).output
    summary = output["srr_guard"] if form == 2 else output.srr_guard
    usage = output["usage"] if form == 2 else output.usage
    assert summary["reason"] == "best_of_n"
    assert summary["chosen_usage"]["total_tokens"] == 15
    assert (usage["total_tokens"] if isinstance(usage, dict) else usage.total_tokens) == 30


# ---- requests ----


def turns(**request: Any) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in as_conversation(request).turns]


def test_a_text_and_instructions():
    assert turns(input="q") == [("user", "q")]
    assert turns(input="q", instructions="Be brief.") == [("system", "Be brief."), ("user", "q")]


def test_items_of_every_kind():
    answer = Response.construct(**response(THOUGHT, said("so"), called("f", '{"a": 1}')))
    image = {"type": "input_image", "image_url": "data:image/png;base64,xx"}
    items = [
        {"role": "developer", "content": "Be brief."},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "q"}, image],
        },
        *answer.output,
        {"type": "function_call_output", "call_id": "c", "output": "42"},
        {"type": "function_call_output", "call_id": "d", "output": [out("43"), image]},
        {"type": "shell_call_output", "call_id": "e", "output": [{"stdout": "44"}]},
        {"role": "assistant", "content": "two"},
        {"type": "web_search_call", "id": "w", "action": {"type": "search", "query": "z"}},
        {"type": "additional_tools", "role": "developer", "tools": []},
        {"role": "user", "content": "three"},
    ]
    assert turns(input=items) == [
        ("system", "Be brief."),
        ("user", "q\n[input_image]"),
        ("assistant", 'so\n[tool call] f({"a": 1})'),
        ("tool", "42"),
        ("tool", "43\n[input_image]"),
        ("tool", "44"),
        ("assistant", "two\nz"),
        ("user", "three"),
    ]


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        ({"previous_response_id": "r1"}, r"previous_response_id='r1'.*`input=`"),
        ({"conversation": {"id": "c"}}, "conversation="),
        ({"prompt": {"id": "p"}}, "prompt="),
        ({"background": True}, "background=True"),
        ({"extra_body": {"previous_response_id": "r1"}}, "previous_response_id"),
        ({"extra_body": {"background": True}}, "background"),
        ({"extra_body": {"input": "another"}}, "'input' in extra_body"),
        ({"input": [{"type": "item_reference", "id": "m1"}]}, "'m1'.*the items themselves"),
        ({"input": [{"id": "m1"}]}, "'m1'"),
        ({"input": [{"type": "compaction", "encrypted_content": "z"}]}, "compaction"),
    ],
)
def test_turns_that_only_the_provider_knows_are_refused(request_, match):
    with pytest.raises(ConfigurationError, match=match):
        as_conversation({"input": "q", **request_})


@pytest.mark.parametrize("value", [None, 7, {"role": "user", "content": "q"}, b"q", [], " ", [{}]])
def test_inputs_that_cannot_be_read(value):
    with pytest.raises(InvalidInputError):
        as_conversation({"input": value})


# ---- events ----


def test_the_events_of_every_item():
    output = [
        {**SUMMARY, "content": THOUGHT["content"]},
        said(out("fine", URL), {"type": "refusal", "refusal": "no"}),
        called("f", "{}"),
        {"type": "custom_tool_call", "id": "f2", "call_id": "d", "name": "g", "input": "x"},
        {"type": "web_search_call", "id": "w", "status": "completed"},
    ]
    made = [as_events(form) for form in forms(response(*output))]
    events = made[0]
    assert [[e.type for e in given] for given in made[1:]] == [[e.type for e in events]] * 2
    assert [e.type.removeprefix("response.") for e in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "reasoning_text.delta",
        "reasoning_text.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.annotation.added",
        "output_text.done",
        "content_part.done",
        "content_part.added",
        "refusal.delta",
        "refusal.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
        "output_item.added",
        "output_item.done",
        "completed",
    ]
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert events[0].response.output == []
    assert events[10].item.content == []
    assert events[-1].response.output_text == "fine"


def test_cut_off_responses_end_in_incomplete():
    assert as_events(response(said("so"), status="incomplete"))[-1].type == "response.incomplete"
