"""Any output becomes text, or parts that cannot be read, or a clear error."""

from __future__ import annotations

import enum
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    ToolMessage,
)
from langchain_core.messages import content as blocks
from pydantic import BaseModel

from srr_guard import InvalidInputError
from srr_guard.filters import is_filtered
from srr_guard.reading import (
    Reading,
    candidate_text,
    read,
    read_pieces,
    turn_text,
    valid_unicode,
)


def test_long_text_is_kept_whole():
    assert len(candidate_text("x" * 200_000)) == 200_000


class Reply(BaseModel):
    text: str
    score: int = 1


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("plain", "plain"),
        ("", ""),
        (AIMessage("said"), "said"),
        (AIMessage([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "ab"),
        (AIMessage([{"type": "image", "url": "x"}]), ""),
        (AIMessage([{"type": "refusal", "refusal": "no"}]), "no"),
        (
            AIMessage("so:", tool_calls=[{"name": "f", "args": {"b": 2, "a": 1}, "id": "1"}]),
            'so:\n[tool call] f({"a": 1, "b": 2})',
        ),
        (Reply(text="é"), '{"score": 1, "text": "é"}'),
        ({"b": 1, "a": [True, None]}, '{"a": [true, null], "b": 1}'),
        ({"messages": [HumanMessage("q"), AIMessage("last")]}, "last"),
        ({"messages": [HumanMessage("q"), AIMessage("a"), AIMessage("b")]}, "a\nb"),
        ({"messages": [AIMessage("old"), HumanMessage("q"), AIMessage("new")]}, "new"),
        (
            {"messages": [AIMessage("it")], "structured_response": Reply(text="x")},
            'it\n{"score": 1, "text": "x"}',
        ),
        ({"messages": [HumanMessage("q"), AIMessage("")], "notes": "n"}, ""),
        ({"raw": AIMessage("in a dict")}, '{"raw": "in a dict"}'),
        (42, "42"),
        (True, "true"),
        ("lone \ud800 surrogate", "lone \ufffd surrogate"),
        ("\x00", "\x00"),
        ("<|im_end|>", "<|im_end|>"),
    ],
)
def test_outputs(output, text):
    assert candidate_text(output) == text


@pytest.mark.parametrize("output", [None, b"bytes", object(), {1, 2}])
def test_outputs_without_text(output):
    with pytest.raises(InvalidInputError, match="has no text to score"):
        candidate_text(output)


any_text = st.text(st.characters(), max_size=20)


@given(any_text)
def test_any_text_becomes_valid_unicode(text):
    valid_unicode(text).encode("utf-8")
    assert valid_unicode(valid_unicode(text)) == valid_unicode(text)


@given(st.text(max_size=20))
def test_valid_text_stays_as_it_is(text):
    assert valid_unicode(text) == text


HARM, SORRY = "how to do harm", "Sorry, no."
TEXT = {"type": "text", "text": SORRY}
THOUGHT = {"type": "thinking", "thinking": HARM}
REASONING = {
    "thinking": AIMessage([{"type": "thinking", "thinking": HARM, "signature": "x"}, TEXT]),
    "reasoning": AIMessage([{"type": "reasoning", "reasoning": HARM}, TEXT]),
    "summary": AIMessage(
        [{"type": "reasoning", "summary": [{"type": "summary_text", "text": HARM}]}, TEXT]
    ),
    "content": AIMessage(
        [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": HARM}]}, TEXT]
    ),
    "text": AIMessage([{"type": "reasoning", "text": HARM}, TEXT]),
    "nested": AIMessage([{"type": "reasoning_content", "reasoning_content": {"text": HARM}}, TEXT]),
    "beside, DeepSeek": AIMessage(SORRY, additional_kwargs={"reasoning_content": HARM}),
    "beside, OpenRouter": AIMessage(SORRY, additional_kwargs={"reasoning": HARM}),
    "beside, Responses": AIMessage(
        SORRY, additional_kwargs={"reasoning": {"summary": [{"text": HARM}]}}
    ),
    "with a tool call": AIMessage(
        [{"type": "thinking", "thinking": HARM}],
        tool_calls=[{"name": "look", "args": {}, "id": "1"}],
    ),
}


@pytest.mark.parametrize("name", REASONING)
def test_reasoning_is_read_apart(name):
    reading = read(REASONING[name])
    assert reading.trace == HARM
    assert reading.text in (SORRY, "[tool call] look({})")
    assert reading.whole == f"{HARM}\n{reading.text}"
    assert HARM in candidate_text({"raw": REASONING[name]})


@pytest.mark.parametrize("name", [n for n in REASONING if n != "with a tool call"])
def test_reasoning_alone_is_no_answer(name):
    message = REASONING[name].model_copy(deep=True)
    message.content = [] if isinstance(message.content, str) else message.content[:-1]
    assert candidate_text(message) == ""


def test_encrypted_reasoning_is_left_out():
    hidden = {"type": "redacted_thinking", "data": "xyz"}
    assert candidate_text(AIMessage([hidden, TEXT])) == SORRY
    assert candidate_text(AIMessage([hidden])) == ""


def test_refusal_beside_the_content_is_the_answer():
    assert candidate_text(AIMessage("", additional_kwargs={"refusal": SORRY})) == SORRY
    assert candidate_text(AIMessage([{"type": "refusal", "refusal": SORRY}])) == SORRY


class Color(enum.Enum):
    RED = "red"


class Raw(BaseModel):
    data: bytes


@pytest.mark.parametrize(
    "odd",
    [{1: "a", "b": "c"}, {Color.RED: 1}, {(1, 2): 3}, [{(1,): 2}], Raw(data=b"\xff")],
    ids=repr,
)
def test_answers_without_a_json_form_are_refused_by_name(odd):
    with pytest.raises(InvalidInputError, match="has no JSON form"):
        candidate_text(odd)


@pytest.mark.parametrize(
    "output",
    [{"answer": AIMessage("")}, [AIMessage([THOUGHT])], {"a": AIMessage(""), "b": "", "c": None}],
)
def test_messages_that_say_nothing_are_no_answer_inside_either(output):
    assert candidate_text(output) == ""
    assert candidate_text({"answer": output, "n": 1}) != ""


METADATA = {
    "Google": {"grounding_metadata": {"web_search_queries": [HARM]}},
    "Cohere": {"citations": [{"text": HARM, "document_ids": ["1"]}]},
    "Bedrock": {"trace": {"guardrail": {"modelOutput": [HARM]}}},
}


@pytest.mark.parametrize("name", METADATA)
def test_texts_in_metadata_are_read(name):
    assert HARM in candidate_text(AIMessage(SORRY, response_metadata=METADATA[name]))


@pytest.mark.parametrize(
    "message",
    [
        AIMessage(SORRY, caption=HARM),
        AIMessage([{"type": "tool_use", "id": "1", "name": "f", "input": {}, "note": HARM}]),
        AIMessage([TEXT, {"type": "tool_reference", "tool": "web", "title": HARM}]),
    ],
    ids=["field of a message", "block of a tool call", "reference"],
)
def test_fields_that_packages_add_are_read(message):
    reading = read(message)
    assert HARM in reading.text
    assert reading.unreadable == ()


def test_mistral_s_references_hold_numbers_only():
    assert read(AIMessage([TEXT, {"type": "reference", "reference_ids": [1]}])) == Reading(SORRY)


def test_circular_answers_are_refused_by_name():
    circle: list = []
    circle.append(circle)
    with pytest.raises(InvalidInputError, match="'list' has no JSON form"):
        candidate_text(circle)


# ---- every kind of block: read, or named ----

READABLE = {
    # LangChain's standard blocks
    "text": {"type": "text", "text": HARM},
    "citation": {
        "type": "text",
        "text": "see",
        "annotations": [{"type": "citation", "title": HARM}],
    },
    "cited text": {"type": "text", "text": "", "annotations": [{"cited_text": HARM}]},
    "foreign annotation": {
        "type": "text",
        "text": "see",
        "annotations": [{"type": "non_standard_annotation", "value": {"note": HARM}}],
    },
    "plain document": {"type": "text-plain", "text": HARM, "mime_type": "text/plain"},
    "title of a plain document": {"type": "text-plain", "text": "x", "title": HARM},
    "server tool call": {"type": "server_tool_call", "name": "search", "args": {"query": HARM}},
    "server tool result": {"type": "server_tool_result", "output": {"stdout": HARM}},
    "non-standard text": {"type": "non_standard", "value": {"type": "text", "text": HARM}},
    "tool call": {"type": "tool_call", "name": "f", "args": {"x": HARM}, "id": "9"},
    "tool call chunk": {"type": "tool_call_chunk", "name": "f", "args": HARM, "id": "9"},
    "invalid tool call": {"type": "invalid_tool_call", "name": "f", "args": HARM, "id": "9"},
    # Anthropic
    "tool use": {"type": "tool_use", "name": "f", "input": {"x": HARM}, "id": "9"},
    "streamed tool use": {"type": "tool_use", "name": "f", "input": {}, "partial_json": HARM},
    "server tool use": {"type": "server_tool_use", "name": "web", "input": {"query": HARM}},
    "web search": {"type": "web_search_tool_result", "content": [{"title": HARM, "url": "u"}]},
    "code execution": {"type": "code_execution_tool_result", "content": {"stdout": HARM}},
    "mcp": {"type": "mcp_tool_result", "content": [{"type": "text", "text": HARM}]},
    "text source": {"type": "document", "source": {"type": "text", "data": HARM}},
    "content source": {
        "type": "document",
        "source": {"type": "content", "content": [{"type": "text", "text": HARM}]},
    },
    # OpenAI
    "output text": {"type": "output_text", "text": HARM},
    "refusal": {"type": "refusal", "refusal": HARM},
    "function call": {"type": "function_call", "name": "f", "arguments": f'{{"x": "{HARM}"}}'},
    "custom call": {"type": "custom_tool_call", "name": "f", "input": HARM},
    "code interpreter": {"type": "code_interpreter_call", "code": HARM},
    "its logs": {"type": "code_interpreter_call", "outputs": [{"type": "logs", "logs": HARM}]},
    "file search": {"type": "file_search_call", "results": [{"text": HARM}]},
    "mcp call": {"type": "mcp_call", "name": "f", "output": HARM},
    "audio with transcript": {"type": "output_audio", "data": "xx", "transcript": HARM},
    # Google
    "executable code": {"type": "executable_code", "executable_code": HARM},
    "code result": {"type": "code_execution_result", "code_execution_result": HARM},
    # Bedrock
    "guard content": {"type": "guard_content", "guard_content": {"text": HARM}},
    "untyped text": {"text": HARM},
    # of a kind to come
    "unknown, but text": {"type": "poem", "text": HARM, "id": "1"},
}


@pytest.mark.parametrize("name", READABLE)
def test_blocks_that_are_read(name):
    reading = read(AIMessage([TEXT, READABLE[name]]))
    assert HARM in reading.text
    assert reading.text.startswith(SORRY)
    assert reading.unreadable == ()


@pytest.mark.parametrize("name", READABLE)
def test_they_are_read_inside_other_outputs(name):
    message = AIMessage([TEXT, READABLE[name]])
    assert HARM in candidate_text({"raw": message, "parsed": None})
    assert HARM in candidate_text([message])
    assert HARM in candidate_text({"messages": [HumanMessage("q"), message, AIMessage("done")]})


UNREADABLE = {
    "image": {"type": "image", "base64": "xx", "mime_type": "image/png"},
    "image_url": {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
    "image_generation_call": {"type": "image_generation_call", "result": "xx"},
    "audio": {"type": "audio", "base64": "xx", "mime_type": "audio/wav"},
    "video": {"type": "video", "url": "https://x/y.mp4"},
    "file": {"type": "file", "base64": "xx", "mime_type": "application/pdf"},
    "document": {"type": "document", "source": {"type": "base64", "data": "xx"}},
    "text-plain": {"type": "text-plain", "url": "https://x/y.txt", "mime_type": "text/plain"},
    "media": {"type": "media", "mime_type": "image/png", "data": "xx"},
    "container_upload": {"type": "container_upload", "file_id": "1"},
    "computer_call_output": {"type": "computer_call_output", "output": {"image_url": "xx"}},
    "hologram": {"type": "hologram", "data": "xx"},
    "poem": {"type": "poem", "text": "x", "illustration": "xx"},
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_blocks_that_are_named(kind):
    assert read(AIMessage([TEXT, UNREADABLE[kind]])).unreadable == (kind,)
    assert read(AIMessage([UNREADABLE[kind], UNREADABLE[kind]])).unreadable == (kind,)
    wrapped = {"type": "non_standard", "value": UNREADABLE[kind]}
    assert read(AIMessage([TEXT, wrapped])).unreadable == (kind,)
    assert read({"raw": AIMessage([UNREADABLE[kind]])}).unreadable == (kind,)
    assert read([AIMessage([UNREADABLE[kind]])]).unreadable == (kind,)
    assert "xx" not in read(AIMessage([TEXT, UNREADABLE["image"]])).text


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (AIMessage([TEXT, {"image": {"format": "png", "bytes": b"x"}}]), "block with the keys"),
        (AIMessage([{"type": "text", "text": SORRY, "scan": b"x"}]), "scan"),
        (AIMessage([{"type": "tool_result", "content": [UNREADABLE["image"]]}]), "image"),
        (AIMessage(SORRY, additional_kwargs={"images": [UNREADABLE["image_url"]]}), "image_url"),
        (AIMessage(SORRY, additional_kwargs={"image": "data:image/png;base64,xx"}), "image"),
        (AIMessage(SORRY, additional_kwargs={"audio": {"id": "1", "data": "xx"}}), "audio"),
        (ToolMessage(SORRY, tool_call_id="1", artifact=object()), "artifact"),
    ],
)
def test_parts_that_are_named(message, kind):
    assert read(message).unreadable[0].startswith(kind)


BLANK = ["", " ", "\u200b", "\u2060\ufeff", "\u3164"]


@pytest.mark.parametrize("blank", BLANK)
@pytest.mark.parametrize(
    ("kind", "field"), [("audio", "transcript"), ("video", "transcript"), ("file", "text")]
)
def test_a_text_that_shows_nothing_does_not_stand_for_media(kind, field, blank):
    block = {"type": kind, "base64": "xx", field: blank}
    assert read(AIMessage([TEXT, block])).unreadable == (kind,)
    beside = {"audio": {"id": "1", "data": "xx", "transcript": blank}}
    assert read(AIMessage(SORRY, additional_kwargs=beside)).unreadable == ("audio",)


@pytest.mark.parametrize("blank", BLANK)
def test_an_agent_that_ends_in_nothing_visible_has_no_answer(blank):
    state = {"messages": [HumanMessage("q"), AIMessage("I look."), AIMessage(blank)]}
    assert candidate_text(state) == ""


def test_every_standard_block_of_langchain_is_known():
    known = {
        block["type"] for block in (*READABLE.values(), *UNREADABLE.values()) if "type" in block
    }
    assert blocks.KNOWN_BLOCK_TYPES - known <= {
        "reasoning",
        "non_standard",
        "server_tool_call_chunk",
    }


CALL = {"name": "f", "args": {"x": 1}, "id": "9"}


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_use", "name": "f", "input": {"x": 1}, "id": "9"},
        {"type": "tool_use", "name": "f", "input": {}, "id": "9"},
        {"type": "tool_use", "name": "f", "input": {}, "partial_json": '{"x": 1}', "id": "9"},
        {"type": "function_call", "name": "f", "arguments": '{"x": 1}', "call_id": "9"},
        {"type": "tool_call_chunk", "name": None, "args": '{"x": 1}', "id": None},
        {"type": "input_json_delta", "partial_json": '{"x": 1}'},
    ],
)
def test_blocks_that_repeat_a_tool_call_are_read_once(block):
    assert candidate_text(AIMessage([block], tool_calls=[CALL])) == '[tool call] f({"x": 1})'


def test_a_block_with_another_name_is_read_too():
    block = {"type": "tool_use", "name": "harm", "input": {"x": 1}, "id": "9"}
    text = candidate_text(AIMessage([block], tool_calls=[CALL]))
    assert text == '[tool call] f({"x": 1})\n[tool call] harm({"x": 1})'


def test_a_block_that_differs_from_its_tool_call_is_read_too():
    block = {"type": "tool_use", "name": "f", "input": {"x": HARM}, "id": "9"}
    text = candidate_text(AIMessage([block], tool_calls=[CALL]))
    assert text == f'[tool call] f({{"x": 1}})\n[tool call] f({{"x": "{HARM}"}})'


BESIDE = {
    "refusal": {"refusal": HARM},
    "legacy function call": {"function_call": {"name": "f", "arguments": f'{{"x": "{HARM}"}}'}},
    "audio transcript": {"audio": {"id": "1", "data": "xx", "transcript": HARM}},
    "annotations": {"annotations": [{"type": "url_citation", "url_citation": {"title": HARM}}]},
    "built-in tools": {"tool_outputs": [{"type": "web_search_call", "action": {"query": HARM}}]},
    "executed tools": {"executed_tools": [{"type": "python", "output": HARM}]},
    "reasoning details": {"reasoning_details": [{"type": "reasoning.text", "text": HARM}]},
    "thinking blocks": {"thinking_blocks": [{"type": "thinking", "thinking": HARM}]},
    "a field to come": {"caption": HARM},
    "an object to come": {"caption": {"lines": [{"words": [HARM]}]}},
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside_the_content_is_read(name):
    reading = read(AIMessage(SORRY, additional_kwargs=BESIDE[name]))
    assert HARM in (
        reading.trace if name in ("reasoning details", "thinking blocks") else reading.text
    )
    assert SORRY in reading.text
    assert not reading.unreadable


TAGGED = {
    "tags": (f"<think>\n{HARM}\n</think>\n\n{SORRY}", HARM, SORRY),
    "the longer tags": (f"<thinking>{HARM}</thinking>{SORRY}", HARM, SORRY),
    "capitals": (f"<THINK>{HARM}</THINK>{SORRY}", HARM, SORRY),
    "space before": (f"  \n<think>{HARM}</think>{SORRY}", HARM, SORRY),
    "first tag in the prompt": (f"{HARM}\n</think>\n{SORRY}", HARM, SORRY),
    "twice": (f"<think>a</think>\n<think>b</think>{SORRY}", "a\nb", SORRY),
    "nothing thought": (f"<think>\n\n</think>\n{SORRY}", "", SORRY),
    "cut by length": (f"<think>{HARM}", HARM, ""),
    "cut in its second thought": (f"<think>a</think><think>{HARM}", f"a\n{HARM}", ""),
    "cut in its tag": ("<thin", "", "<thin"),
    "later in the text": (f"{SORRY} <think>{HARM}</think>", "", f"{SORRY} <think>{HARM}</think>"),
    "other tags": (f"[THINK]{HARM}[/THINK]{SORRY}", "", f"[THINK]{HARM}[/THINK]{SORRY}"),
}


@pytest.mark.parametrize("name", TAGGED)
def test_tags_around_reasoning(name):
    whole, trace, text = TAGGED[name]
    call = {"name": "f", "args": {}, "id": "1"}
    for output in (whole, AIMessage(whole), AIMessage([{"type": "text", "text": whole}])):
        reading = read(output)
        assert (reading.trace, reading.text) == (trace, text)
    assert read_pieces([AIMessageChunk(piece) for piece in whole]) == read(whole)
    assert read_pieces(list(whole)) == read(whole)
    with_call = read(AIMessage(whole, tool_calls=[call]))
    assert with_call.trace == trace
    assert with_call.text == "\n".join(filter(None, [text, "[tool call] f({})"]))


@given(st.text(), st.sampled_from(["", "<think>", "</think>", "<thinking>", "</thinking>"]))
def test_no_visible_character_is_lost(text, tag):
    whole = f"{text}{tag}{text}"
    reading = read(whole)
    kept = re.sub(r"</?think(ing)?>|\s", "", f"{reading.trace}{reading.text}", flags=re.IGNORECASE)
    assert kept == re.sub(r"</?think(ing)?>|\s", "", valid_unicode(whole), flags=re.IGNORECASE)


def test_tags_in_prompts_and_objects_are_text():
    tagged = f"<think>{HARM}</think>{SORRY}"
    assert turn_text(AIMessage(tagged)) == turn_text(HumanMessage(tagged)) == tagged
    assert read({"answer": tagged}).trace == ""
    assert HARM in read({"answer": tagged}).text


def test_pieces_of_reasoning_blocks():
    thought = AIMessageChunk([{"type": "thinking", "thinking": HARM}])
    assert read_pieces([thought, AIMessageChunk(SORRY)]) == Reading(SORRY, trace=HARM)
    mixed = read_pieces([thought, {"x": 1}])
    assert (mixed.trace, mixed.text) == (HARM, '{"x": 1}')


def test_reasoning_in_the_state_of_an_agent():
    state = {
        "messages": [HumanMessage("q"), AIMessage(f"<think>{HARM}</think>look"), AIMessage(SORRY)]
    }
    assert read(state) == Reading(f"look\n{SORRY}", trace=HARM)


def test_what_the_client_has_parsed_is_read_where_there_is_no_text():
    parsed = {"parsed": {"answer": HARM}}
    for blank in BLANK:
        assert HARM in candidate_text(AIMessage(blank, additional_kwargs=parsed))
    assert (
        candidate_text(AIMessage('{"answer": "x"}', additional_kwargs=parsed)) == '{"answer": "x"}'
    )


def test_ids_and_signatures_are_not_text():
    message = AIMessage(
        [{**TEXT, "id": "1", "index": 0, "extras": {"signature": "xyz"}}],
        additional_kwargs={"__gemini_function_call_thought_signatures__": {"1": "xyz"}},
    )
    assert candidate_text(message) == SORRY


def test_streamed_messages():
    chunks = [
        AIMessageChunk([{"type": "text", "text": "so", "index": 0}]),
        AIMessageChunk(
            [{"type": "tool_use", "name": "f", "id": "9", "input": {}, "index": 1}],
            tool_call_chunks=[{"name": "f", "args": "", "id": "9", "index": 1}],
        ),
        AIMessageChunk(
            [{"type": "input_json_delta", "partial_json": '{"x": 1}', "index": 1}],
            tool_call_chunks=[{"name": None, "args": '{"x": 1}', "id": None, "index": 1}],
        ),
    ]
    assert candidate_text(chunks[0] + chunks[1] + chunks[2]) == 'so\n[tool call] f({"x": 1})'


def test_deeply_nested_messages_are_refused_by_name():
    deep: dict = {"type": "text", "text": "x"}
    for _ in range(5000):
        deep = {"type": "text", "text": "x", "annotations": [deep]}
    with pytest.raises(InvalidInputError, match="has no JSON form"):
        read(
            AIMessage.model_construct(
                content=[deep], additional_kwargs={}, tool_calls=[], invalid_tool_calls=[]
            )
        )


FILTERED = [
    {"finish_reason": "content_filter"},
    {"finish_reason": "SAFETY"},
    {"finish_reason": "FinishReason.PROHIBITED_CONTENT"},
    {"stop_reason": "refusal"},
    {"stopReason": "guardrail_intervened"},
    {"finish_reason": "ERROR_TOXIC"},
    {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
    {"prompt_feedback": {"block_reason": "SAFETY"}},
]


@pytest.mark.parametrize("metadata", FILTERED)
def test_answers_that_a_filter_took_away(metadata):
    assert is_filtered(AIMessage("", response_metadata=metadata))


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"finish_reason": "stop"},
        {"stop_reason": None},
        {"prompt_feedback": {"block_reason": 0}},
    ],
)
def test_answers_that_no_filter_took_away(metadata):
    assert not is_filtered(AIMessage("", response_metadata=metadata))
