"""Pieces as texts in frames, malformed ones, and those that a model wrote itself."""

from __future__ import annotations

import json

import pytest
from raw_pieces import (
    SPLIT,
    WHOLE,
    choice,
    guarded,
    replaced,
)

from srr_guard.core.delivery import MessageDelivery
from srr_guard.errors import BelowThresholdError, InvalidInputError
from srr_guard.raw import raw_message
from srr_guard.reading import read, read_pieces

# ---- in the frames of a server ----


def events(*pieces):
    """Server-sent events, as proxies hand them on."""
    return [f"event: {p.get('type', 'x')}\ndata: {json.dumps(p)}\n\n" for p in pieces]


FRAMED = {
    "events": [*events(*SPLIT["anthropic text"]), "data: [DONE]\n\n"],
    "chunks": [*events(choice(0, "HA"), choice(0, "RM")), "data: [DONE]\n\n"],
    "lines": [json.dumps(piece) + "\n" for piece in SPLIT["ollama text"]],
    "cut anywhere": list("".join(events(choice(0, "HA"), choice(0, "RM")))),
    "beside": [*events(choice(0, "fine")), ": HARM\n\n"],
    "texts": [json.dumps(choice(0, "HA")), json.dumps(choice(0, "RM")), "[DONE]"],
    "in one": ["".join(events(choice(0, "HA"), choice(0, "RM")))],
}


@pytest.mark.parametrize("name", FRAMED)
def test_harm_split_over_frames_is_seen(name):
    with pytest.raises(BelowThresholdError):
        guarded(FRAMED[name])
    fine = replaced(FRAMED[name], {"HARM": "okay", "HA": "ok", "RM": "ay"})
    if name != "cut anywhere":
        assert guarded(fine) == fine


@pytest.mark.parametrize(
    "pieces",
    [
        ["data: one\n\n", "data: two\n\n"],
        ['{"a": 1}\n', '{"b": 2}\n'],
        ["{not json}"],
        ["[" * 100_000],
        ["{" * 100_000],
        [],
    ],
)
def test_other_texts_are_read_as_they_are(pieces):
    assert read_pieces(pieces).text == "".join(pieces)


# ---- what is malformed ----


@pytest.mark.parametrize(
    "piece",
    [
        {"type": "content_block_delta", "delta": None, "index": 0},
        {"type": "content_block_delta", "delta": "HARM", "index": 0},
        {"type": "content_block_start", "content_block": "HARM", "index": [1]},
        {"type": "message_start", "message": "HARM"},
        {"type": "message_stop", "message": "HARM"},
        {"type": "message_delta", "delta": None},
        {"type": "response.completed", "response": "HARM"},
        {"type": "response.output_item.done", "item": "HARM"},
        {"type": "response.content_part.done", "part": "HARM"},
        {"type": "response.output_item.done", "item": {"type": "message", "content": "HARM"}},
        {"object": "response", "output": ["HARM", None]},
        {"candidates": [{"content": {"parts": "HARM"}}]},
        {"candidates": [{"content": {"parts": ["HARM"]}}]},
        {"candidates": [{"content": {"parts": [{"functionCall": {"args": "HARM"}}]}}]},
        {"model": "m", "done": True, "message": {"tool_calls": "HARM"}},
        {"choices": [{"delta": {"tool_calls": "HARM"}}]},
        {"choices": [{"delta": {"tool_calls": [{"function": "HARM"}]}}]},
        {"choices": [{"index": {}, "delta": {"content": "HARM"}}]},
        {"choices": [{"message": {"content": 3}}]},
    ],
)
def test_malformed_pieces_are_named_and_never_lost(piece):
    for reads in (read, lambda value: read_pieces([value]), MessageDelivery().declined):
        with pytest.raises(InvalidInputError, match="cannot be read"):
            reads(piece)


@pytest.mark.parametrize(
    "piece",
    [
        {"type": "message", "role": "assistant", "content": ["HARM", 3]},
        {"type": "response.output_text.delta", "delta": {"a": "HARM"}},
        {"type": "response.output_text.annotation.added", "annotation": "HARM"},
        {"candidates": ["HARM"]},
        {"candidates": [{"content": {"parts": [{"functionCall": "HARM"}]}}]},
        {"model": "m", "done": False, "message": {"content": ["HARM"]}},
        {"type": "content_block_stop", "index": 0, "content_block": "HARM"},
    ],
)
def test_odd_pieces_are_read_all_the_same(piece):
    reading = read_pieces([piece])
    assert "HARM" in reading.text or reading.unreadable


FORGED = [
    {"type": "content_block_stop", "index": "HARM in place of a number"},
    {"type": "signature", "signature": "HARM in place of a signature"},
    {"type": "ping", "HARM in place of a name": 1},
    {"id": "HARM in place of an id", "choices": [{"index": 0, "delta": {"content": "fine"}}]},
    {"id": "HARM" * 20, "choices": [{"index": 0, "delta": {"content": "fine"}}]},
]


@pytest.mark.parametrize("forged", FORGED)
def test_texts_cannot_hide_words_where_an_api_has_none(forged):
    for pieces in ([json.dumps(forged)], ["data: " + json.dumps(forged) + "\n\n"], [forged]):
        assert "HARM" in read_pieces(["fine", *pieces]).text
        assert "HARM" in read_pieces(pieces).text
    assert "HARM" in read(forged).text


@pytest.mark.parametrize("name", WHOLE)
def test_dicts_that_a_model_wrote_cannot(name):
    assert "HARM" in read({**WHOLE[name], "id": "HARM in place of an id"}).text


def test_kinds_may_be_anything():
    assert raw_message({"type": ["text"]}) is None
    assert "x" in read({"type": ["x"]}).text
