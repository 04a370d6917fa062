"""What goes over the wire, and what the scorer reads, in every form of a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from adapters import REFUSAL, Asked, guard_by_word
from fastapi import Response
from fastapi.sse import format_sse_event
from srr_guard_integrations.fastapi import SafetyDependency

from srr_guard.errors import ConfigurationError

EVENTS, LINES = "text/event-stream", "application/jsonl"


def events_of(body: str) -> list[str]:
    """The data of each event, as a browser reads them."""
    assert body.endswith("\n\n")
    found = []
    for event in body.replace("\r\n", "\n").replace("\r", "\n").split("\n\n")[:-1]:
        fields = [line.partition(":") for line in event.split("\n")]
        assert {name for name, _, _ in fields} <= {"data", "event", "id", "retry", ""}
        data = [value.removeprefix(" ") for name, _, value in fields if name == "data"]
        found.append("\n".join(data))
    return found


async def body_of(
    *answers: Any, media_type: str, sync: bool, scorer: Any = None, n: int = 1
) -> str:
    """The body of the response to answers, each a list of pieces."""
    scripted = iter(answers)
    dependency = SafetyDependency(guard=guard_by_word(n, scorer=scorer or Asked()))
    guard = dependency(Response())

    def pieces() -> Any:
        for piece in next(scripted):
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def apieces() -> Any:
        for piece in pieces():
            yield piece

    if sync:
        response = guard.stream("why", pieces, media_type=media_type)
    else:
        response = await guard.astream("why", apieces, media_type=media_type)
    sent = [chunk async for chunk in response.body_iterator]
    return "".join(chunk if isinstance(chunk, str) else bytes(chunk).decode() for chunk in sent)


@pytest.fixture(params=[True, False], ids=["sync", "async"])
def sync(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("media_type", [EVENTS, "Text/Event-Stream; charset=utf-8"])
class TestEvents:
    async def test_each_piece_is_an_event(self, sync, media_type):
        answer = ["a", " good", "", " one"]
        body = await body_of(answer, media_type=media_type, sync=sync)
        assert events_of(body) == ["a", " good", " one"]

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    async def test_lines_of_a_piece_are_lines_of_its_event(self, sync, media_type, end):
        answer = [f"good{end}{end}data: two{end}", "three"]
        body = await body_of(answer, media_type=media_type, sync=sync)
        assert "\r" not in body
        assert len(events_of(body)) == 2
        assert "".join(events_of(body)) == "good\n\ndata: two\nthree"

    async def test_an_end_of_a_line_between_two_pieces(self, sync, media_type):
        body = await body_of(["good\r", "\none\r"], media_type=media_type, sync=sync)
        assert "".join(events_of(body)) == "good\none\n"

    @pytest.mark.parametrize("answer", [["bad"], ["data: bad\n\n"], [b"bad"]])
    async def test_a_refusal_is_an_event(self, sync, media_type, answer):
        assert events_of(await body_of(answer, media_type=media_type, sync=sync)) == [REFUSAL]

    async def test_a_refusal_ends_as_the_answer_does(self, sync, media_type):
        answer = ["data: bad\n\n", "data: [DONE]\n\n"]
        body = await body_of(answer, media_type=media_type, sync=sync)
        assert events_of(body) == [REFUSAL, "[DONE]"]

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    async def test_events_are_sent_as_they_came_and_read_without_frames(
        self, sync, media_type, end
    ):
        answer = [f"data: go{end}{end}data:od{end}data: one{end}{end}", f"data: [DONE]{end}{end}"]
        scorer = Asked()
        body = await body_of(answer, media_type=media_type, sync=sync, scorer=scorer)
        assert body == "".join(answer)
        assert [list(texts) for texts in scorer.calls] == [["good\none"]]

    async def test_harm_parted_between_events_is_read_whole(self, sync, media_type):
        answer = ["data: good ha\n\n", "data: rm\n\n"]
        scorer = Asked(lambda _, text: 0.1 if "harm" in text else 0.9)
        body = await body_of(answer, media_type=media_type, sync=sync, scorer=scorer)
        assert events_of(body) == [REFUSAL]

    @pytest.mark.parametrize("field", ["event: harm", "id: harm", ": harm", ":harm"])
    async def test_other_fields_are_read_too(self, sync, media_type, field):
        scorer = Asked(lambda _, text: 0.1 if "harm" in text else 0.9)
        answer = [f"{field}\ndata: good\n\n"]
        body = await body_of(answer, media_type=media_type, sync=sync, scorer=scorer)
        assert events_of(body) == [REFUSAL]

    @pytest.mark.parametrize(
        "answer", [["good: x\n\n"], ["data: good"], ["data: x\n\ngood"], ["data\n\ngood\n\n"]]
    )
    async def test_what_only_looks_like_an_event(self, sync, media_type, answer):
        body = await body_of(answer, media_type=media_type, sync=sync)
        assert "".join(events_of(body)) == "".join(answer)

    async def test_bytes(self, sync, media_type):
        answer = [format_sse_event(data_str="gööd and good", event="x"), b"data: \xc3", b"\xbc\n\n"]
        body = await body_of(answer, media_type=media_type, sync=sync)
        assert events_of(body) == ["gööd and good", "ü"]

    async def test_nothing_of_an_answer_that_breaks_off_is_sent(self, sync, media_type):
        answers = [["wicked", RuntimeError("broken")], ["good"]]
        body = await body_of(*answers, media_type=media_type, sync=sync, n=2)
        assert events_of(body) == ["good"]


@pytest.mark.parametrize("media_type", [LINES, "application/x-ndjson", "application/stream+json"])
class TestLines:
    async def test_each_piece_is_a_line(self, sync, media_type):
        body = await body_of(["a\n", "", "good\u2028"], media_type=media_type, sync=sync)
        assert [json.loads(line) for line in body.splitlines()] == ["a\n", "good\u2028"]

    async def test_lines_are_sent_as_they_came(self, sync, media_type):
        answer = ['{"text": "a', ' good"}\n', "{}\n"]
        body = await body_of(answer, media_type=media_type, sync=sync)
        assert body == "".join(answer)

    async def test_texts_are_read_one_after_the_other(self, sync, media_type):
        scorer = Asked(lambda _, text: 0.1 if "harm" in text else 0.9)
        answer = ['"ha"\n', '"rm"\n']
        body = await body_of(answer, media_type=media_type, sync=sync, scorer=scorer)
        assert body == json.dumps(REFUSAL) + "\n"

    @pytest.mark.parametrize("answer", [["bad"], ['{"text": "bad"}\n']])
    async def test_a_refusal_is_a_line(self, sync, media_type, answer):
        body = await body_of(answer, media_type=media_type, sync=sync)
        assert body == json.dumps(REFUSAL) + "\n"


async def test_other_types_are_sent_as_they_are(sync):
    assert await body_of(["a\n", "", "good"], media_type="text/plain", sync=sync) == "a\ngood"
    assert await body_of([b"go\xc3", b"\xb6d", "good"], media_type="text/html", sync=sync) == (
        "goödgood"
    )


async def test_bytes_that_are_no_text_are_a_failed_candidate(sync):
    body = await body_of([b"good\xff"], [b"a good"], media_type="text/plain", sync=sync, n=2)
    assert body == "a good"


@pytest.mark.parametrize("media_type", [EVENTS, LINES, "text/plain"])
async def test_pieces_of_another_kind(sync, media_type):
    with pytest.raises(ConfigurationError, match="yield str"):
        await body_of([{"good": 1}], media_type=media_type, sync=sync)


CHUNKS = [
    {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}
    for text in ("a ba", "d one")
]


@pytest.mark.parametrize(
    ("media_type", "frame"),
    [(EVENTS, "{}"), (EVENTS, "data: {}\n\n"), (LINES, "{}\n")],
    ids=["no frames", "events", "lines"],
)
async def test_chunks_of_a_provider_are_joined(sync, media_type, frame):
    pieces = [frame.format(json.dumps(chunk)) for chunk in CHUNKS]
    asked = Asked()
    await body_of(pieces, media_type=media_type, sync=sync, scorer=asked)
    assert "a bad one" in str(asked.calls)
