"""Events and chunks of providers' clients: joined into one answer, however they are split."""

from __future__ import annotations

import inspect

import pytest
from pydantic import TypeAdapter
from raw_pieces import (
    CALL,
    SPLIT,
    WHOLE,
    anthropic,
    bedrock,
    calls,
    cites,
    event,
    gemini,
    guarded,
    message,
    ollama,
    replaced,
    response,
    responses,
    says,
    thinks,
)

from srr_guard import AllCandidatesFailedError, SamplingPolicy, srr_guard
from srr_guard.errors import BelowThresholdError, UnreadableError
from srr_guard.raw import joined, raw_message
from srr_guard.reading import Reading, read, read_pieces
from srr_guard.testing import FakeScorer


@pytest.mark.parametrize("name", SPLIT)
def test_harm_split_over_pieces_is_seen(name):
    with pytest.raises(BelowThresholdError):
        guarded(SPLIT[name])


FINE = {name: pieces for name, pieces in SPLIT.items() if "unknown" not in name}


@pytest.mark.parametrize("name", FINE)
def test_what_does_no_harm_is_passed_on_as_it_came(name):
    pieces = replaced(FINE[name], {"HARM": "okay", "HA": "ok", "RM": "ay"})
    assert guarded(pieces) == pieces


# ---- what is told twice counts once ----


def test_a_message_s_reading():
    pieces = list(
        anthropic(thinks("hm"), says("a ", "fine one"), calls('{"x":', " 1}"), stop="tool_use")
    )
    assert read_pieces(pieces) == Reading('a fine one\n[tool call] f({"x": 1})', trace="hm")


def test_anthropic_s_own_helper():
    types = pytest.importorskip("anthropic.types")
    streaming = pytest.importorskip("anthropic.lib.streaming._messages")
    pieces = list(anthropic(thinks("hm"), cites("a page"), calls('{"x":', " 1}"), stop="tool_use"))
    plain = read_pieces(pieces)
    snapshot, told = None, []
    buffers = {"json_bufs": {}}
    if "json_bufs" not in inspect.signature(streaming.accumulate_event).parameters:
        buffers = {}  # of older clients
    adapter = TypeAdapter(types.RawMessageStreamEvent)
    for piece in pieces:
        if piece["type"] == "ping":
            continue
        raw = adapter.validate_python(piece)
        snapshot = streaming.accumulate_event(event=raw, current_snapshot=snapshot, **buffers)
        told += streaming.build_events(event=raw, message_snapshot=snapshot)
    assert len(told) > len(pieces)
    assert read_pieces(told) == plain
    only_told = [one for one in told if one.type in ("text", "thinking", "content_block_stop")]
    assert read_pieces(only_told).text.startswith(plain.text.split("\n", maxsplit=1)[0])
    assert read(snapshot) == plain


def test_the_end_of_a_response_repeats_its_deltas():
    call = {**CALL, "arguments": '{"x": 1}', "status": "completed"}
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    whole = response(thought, message("a fine one"), call)
    pieces = [
        event("created", response=response()),
        event("output_item.added", item={"type": "reasoning", "summary": []}),
        event("reasoning_summary_text.delta", delta="h", summary_index=0),
        event("reasoning_summary_text.delta", delta="m", summary_index=0),
        event("reasoning_summary_text.done", text="hm", summary_index=0),
        event("output_item.done", item=thought),
        event("output_text.delta", delta="a fine", output_index=1, content_index=0),
        event("output_text.delta", delta=" one", output_index=1, content_index=0),
        event("output_text.done", text="a fine one", output_index=1, content_index=0),
        event("content_part.done", part=message("a fine one")["content"][0], output_index=1),
        event("output_item.done", item=message("a fine one"), output_index=1),
        event("output_item.added", item=CALL, output_index=2),
        event("function_call_arguments.delta", delta='{"x": 1}', output_index=2),
        event("function_call_arguments.done", arguments='{"x": 1}', output_index=2),
        event("output_item.done", item=call, output_index=2),
        event("completed", response=whole),
    ]
    expected = Reading('a fine one\n[tool call] f({"x": 1})', trace="hm")
    assert read_pieces(pieces) == read(whole) == expected


def test_openai_s_own_events():
    types = pytest.importorskip("openai.types.responses")
    delta = {"item_id": "i1", "content_index": 0, "logprobs": []}
    pieces = [
        types.ResponseTextDeltaEvent(**event("output_text.delta", delta=text, **delta))
        for text in ("HA", "RM")
    ]
    assert read_pieces(pieces) == Reading("HARM")
    with pytest.raises(BelowThresholdError):
        guarded(pieces)


def test_google_s_own_chunks():
    types = pytest.importorskip("google.genai.types")
    pieces = [
        types.GenerateContentResponse.model_validate(piece)
        for piece in gemini({"text": "hm", "thought": True}, {"text": "a "}, {"text": "fine one"})
    ]
    assert read_pieces(pieces) == Reading("a fine one", trace="hm")


def test_ollama_s_own_chunks():
    types = pytest.importorskip("ollama")
    pieces = [types.ChatResponse.model_validate(ollama(content=text)) for text in ("HA", "RM")]
    assert read_pieces(pieces) == Reading("HARM")


# ---- several answers, other pieces between ----


def test_answers_one_after_the_other_stay_apart():
    two = [*anthropic(says("one")), *anthropic(thinks("two")), *anthropic(says("three"))]
    assert len(joined(two)) == 3
    assert read_pieces(two) == Reading("onethree", trace="two")
    gemini_ones = [{**piece, "response_id": i} for i in "ab" for piece in gemini({"text": i})]
    assert len(joined(gemini_ones)) == 2
    ollama_ones = [ollama(content="a"), {**ollama(), "done": True}, ollama(content="b")]
    assert len(joined(ollama_ones)) == 2
    responses_ones = [*responses("output_text", "a"), *responses("output_text", "b")]
    assert len(joined(responses_ones)) == 2


def test_other_pieces_keep_their_places():
    pieces = list(anthropic(says("fine")))
    assert read_pieces(["a ", *pieces, " b"]).text == "a fine b"


# ---- blank, filtered, unreadable ----


@pytest.mark.parametrize(
    "pieces",
    [
        list(anthropic()),
        list(anthropic(thinks("hm"))),
        list(bedrock()),
        list(gemini()),
        list(responses("output_text")),
        [ollama()],
        [{"type": "ping"}],
    ],
)
def test_what_says_nothing_is_blank(pieces):
    with pytest.raises(AllCandidatesFailedError, match="blank"):
        guarded(pieces)


@pytest.mark.parametrize(
    "pieces",
    [
        list(anthropic(stop="refusal")),
        list(bedrock(stop="guardrail_intervened")),
        list(gemini(finish="SAFETY")),
        [{"prompt_feedback": {"block_reason": "SAFETY"}, "usage_metadata": {}}],
        [
            event(
                "incomplete",
                response={**response(), "incomplete_details": {"reason": "content_filter"}},
            )
        ],
        [{"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]}],
    ],
)
def test_what_a_filter_emptied_costs_one_call(pieces):
    made = 0

    @srr_guard(scorer=FakeScorer(lambda *_: 0.9), sampling=SamplingPolicy(n=1, backoff=0))
    def stream(question):
        nonlocal made
        made += 1
        yield from pieces

    with pytest.raises(AllCandidatesFailedError, match="refused"):
        list(stream("q"))
    assert made == 1


@pytest.mark.parametrize(
    "pieces",
    [
        list(gemini({"text": "see"}, {"inline_data": {"data": "AA", "mime_type": "image/png"}})),
        list(gemini({"text": "see"}, {"hologram": {"data": "AA"}})),
        list(anthropic(says("see"), ({"type": "hologram", "data": "AA"},))),
        list(anthropic(says("see"), ({"type": "hologram"}, {"type": "light_delta", "ray": "x"}))),
        [
            *bedrock({"text": "see"}),
            {"contentBlockDelta": {"delta": {"hologram": "AA"}, "contentBlockIndex": 1}},
        ],
        [*responses("output_text", "see"), event("hologram.delta", delta="AA")],
        [*responses("output_text", "see"), event("audio.delta", delta="AA")],
        [
            *responses("output_text", "see"),
            event("image_generation_call.partial_image", partial_image_b64="AA"),
        ],
        [ollama(content="see"), ollama(images=["AA"])],
    ],
)
def test_what_cannot_be_read_is_not_passed_on(pieces):
    with pytest.raises(UnreadableError):
        guarded(pieces, unreadable="raise")


# ---- whole answers ----


@pytest.mark.parametrize("name", WHOLE)
def test_whole_answers_are_read_as_their_message(name):
    assert read(WHOLE[name]) == Reading("a fine one")


@pytest.mark.parametrize(
    "value",
    [
        {"type": "message", "content": "from a chat of ours"},
        {"type": "text", "text": "a block"},
        {"candidates": ["Ann", "Bob"]},
        {"candidates": [{"name": "Ann"}]},
        {"candidates": [{"content": {}}], "winner": "Ann"},
        {"response": "yes", "done": True},
        {"object": "response", "output": "text"},
        {"type": "response.unknown"},
        {"metadata": {"usage": 3}},
        {"event": "on_chain_stream", "data": {"chunk": "x"}},
    ],
)
def test_dicts_of_others_are_left_alone(value):
    assert raw_message(value) is None
    assert joined([value]) == [value]


def test_unknown_fields_are_read():
    pieces = list(anthropic(says("fine")))
    pieces[-1] = {**pieces[-1], "note": "HARM"}
    assert "HARM" in read_pieces(pieces).text
    assert "HARM" in read({**WHOLE["anthropic"], "note": "HARM"}).text
    assert "HARM" in read({**WHOLE["ollama"], "note": "HARM"}).text
