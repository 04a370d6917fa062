"""The real `anthropic` client on a mock transport."""

from __future__ import annotations

import doctest
import inspect
import itertools
import json
import logging
from types import SimpleNamespace
from typing import Any

import anthropic
import httpx2
import pytest
import srr_guard_integrations.anthropic_client as adapter
from adapters import REFUSAL, STRICT, Asked, guard_by_word
from pydantic import BaseModel
from srr_guard_integrations.anthropic_client import guard_anthropic

from srr_guard import BelowThresholdError
from srr_guard.errors import (
    AllCandidatesFailedError,
    ConfigurationError,
    InvalidInputError,
    ScorerError,
    UnguardedError,
)
from srr_guard.testing import FakeScorer

ASK: dict[str, Any] = {
    "model": "claude",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "How do magnets work?"}],
}
TOOL = {
    "name": "look",
    "description": "Look.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def call(**given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "toolu_1", "name": "look", "input": given}


class Server:
    """Answers each request with the next of its script: a text, blocks, or a status."""

    def __init__(self, *script: Any) -> None:
        self._script = itertools.cycle(script)
        self.requests: list[dict[str, Any]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(json.loads(request.content))
        given = next(self._script)
        if isinstance(given, int):
            return httpx2.Response(given, json={"type": "error", "error": {"message": "scripted"}})
        blocks = [text(given)] if isinstance(given, str) else given
        stop = "tool_use" if any(b["type"] == "tool_use" for b in blocks) else "end_turn"
        return httpx2.Response(
            200,
            json={
                "id": f"msg_{len(self.requests)}",
                "type": "message",
                "role": "assistant",
                "model": "claude",
                "content": blocks,
                "stop_reason": "refusal" if not blocks else stop,
                "stop_sequence": None,
                "usage": {"input_tokens": 10, "output_tokens": 2, "cache_read_input_tokens": 4},
            },
        )

    async def later(self, request: httpx2.Request) -> httpx2.Response:
        return self(request)

    def client(self) -> Any:
        http = httpx2.Client(transport=httpx2.MockTransport(self))
        return anthropic.Anthropic(api_key="x", http_client=http, max_retries=0)

    def aclient(self) -> Any:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(self.later))
        return anthropic.AsyncAnthropic(api_key="x", http_client=http, max_retries=0)


def guarded(*script: Any, **settings: Any) -> Any:
    return guard_anthropic(Server(*script).client(), guard=guard_by_word(**settings))


def aguarded(*script: Any, **settings: Any) -> Any:
    return guard_anthropic(Server(*script).aclient(), guard=guard_by_word(**settings))


class City(BaseModel):
    name: str
    people: int


class TestCreate:
    def test_sync(self):
        server = Server("bad", "good")
        client = guard_anthropic(server.client(), guard=guard_by_word())
        message = client.messages.create(**ASK, metadata={"user_id": "u"})
        assert isinstance(message, anthropic.types.Message)
        assert message.content[0].text == "good"
        assert [r["metadata"] for r in server.requests] == [{"user_id": "u"}] * 2
        assert message.srr_guard["reason"] == "best_of_n"
        assert message.srr_guard["chosen_usage"]["output_tokens"] == 2
        assert (message.usage.input_tokens, message.usage.output_tokens) == (20, 4)
        assert json.loads(message.model_dump_json())["srr_guard"]["sampled"] == 2

    async def test_async(self):
        client = aguarded("bad", "good")
        made = [await client.messages.create(**ASK) for _ in range(4)]
        assert {message.content[0].text for message in made} == {"good"}

    def test_decision_counts_cached_tokens_as_input(self):
        seen = []
        client = guarded("good", on_decision=seen.append)
        client.messages.create(**ASK)
        assert seen[0].usage["input_tokens"] == 28
        assert seen[0].usage["input_token_details"]["cache_read"] == 8

    def test_refusal(self):
        message = guarded("bad").messages.create(**ASK)
        assert message.content[0].text == REFUSAL
        assert message.content[0].type == "text"
        assert (message.stop_reason, message.srr_guard["reason"]) == ("refusal", "refused")

    def test_an_answer_that_the_provider_took_away_is_a_refusal(self):
        scorer = FakeScorer(lambda *_: 0.9)
        message = guarded([], scorer=scorer).messages.create(**ASK)
        assert message.content[0].text == REFUSAL
        assert message.srr_guard["failed"] == 0

    def test_strict(self):
        with pytest.raises(BelowThresholdError):
            guarded("bad", decision=STRICT).messages.create(**ASK)

    def test_a_scorer_that_fails_lets_nothing_pass(self):
        broken = FakeScorer(lambda *_: 0.9, error=RuntimeError("broken"))
        with pytest.raises(ScorerError):
            guarded("good", scorer=broken).messages.create(**ASK)

    def test_everything_is_scored(self):
        scorer = Asked(lambda _, answer: 0.1 if "harm" in answer else 0.9)
        thinks = [{"type": "thinking", "thinking": "harm", "signature": "s"}, text("fine")]
        found = {"type": "web_search_result", "url": "u", "title": "harm", "encrypted_content": "e"}
        searched = [
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": [found]},
            text("fine"),
        ]
        message = guarded(thinks, searched, "well", n=3, scorer=scorer).messages.create(**ASK)
        assert message.content[0].text == "well"

    def test_the_scorer_sees_the_whole_conversation(self):
        scorer = Asked()
        client = guarded("good", scorer=scorer)
        client.messages.create(
            model="claude",
            max_tokens=5,
            system=[text("Be brief.")],
            messages=[
                {"role": "user", "content": [text("look"), {"type": "image", "source": {}}]},
                {"role": "assistant", "content": [call(city="Oslo")]},
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"},
                        text("and now?"),
                    ],
                },
            ],
        )
        assert scorer.turns == [
            ("system", "Be brief."),
            ("user", "look\n[image]"),
            ("assistant", '[tool call] look({"city": "Oslo"})'),
            ("tool", "sunny"),
            ("user", "and now?"),
        ]


class TestTools:
    def test_the_chosen_call_is_kept_whole(self):
        client = guarded([call(city="bad")], [call(city="good")])
        message = client.messages.create(**ASK, tools=[TOOL])
        (block,) = message.content
        assert (block.name, block.input, block.id) == ("look", {"city": "good"}, "toolu_1")
        assert message.stop_reason == "tool_use"

    def test_a_call_of_a_tool_that_was_not_given_is_a_failed_candidate(self):
        made_up = {**call(city="good"), "name": "look_up"}
        message = guarded([made_up], [call(city="good")]).messages.create(**ASK, tools=[TOOL])
        assert message.content[0].name == "look"
        assert message.srr_guard["failed"] == 1

    def test_where_a_tool_must_be_called_text_is_a_failed_candidate(self):
        client = guarded("good", [call(town="good")], [call(city="good")], n=3)
        message = client.messages.create(**ASK, tools=[TOOL], tool_choice={"type": "any"})
        assert message.content[0].input == {"city": "good"}
        assert message.srr_guard["failed"] == 2


class TestStructuredOutput:
    def test_parse(self):
        answers = [City(name=name, people=1).model_dump_json() for name in ("bad", "good")]
        message = guarded(*answers).messages.parse(**ASK, output_format=City)
        assert message.parsed_output == City(name="good", people=1)

    def test_parse_refused(self):
        answer = City(name="bad", people=1).model_dump_json()
        message = guarded(answer).messages.parse(**ASK, output_format=City)
        assert message.parsed_output is None
        assert (message.stop_reason, message.content[0].text) == ("refusal", REFUSAL)

    def test_what_does_not_fit_is_a_failed_candidate(self):
        form = {"format": {"type": "json_schema", "schema": City.model_json_schema()}}
        for asked in ({"output_config": form}, {"extra_body": {"output_config": form}}):
            client = guarded('{"name": "good"}', '{"name": "a good one", "people": 2}')
            message = client.messages.create(**ASK, **asked)
            assert json.loads(message.content[0].text)["people"] == 2
            assert message.srr_guard["failed"] == 1
            with client.messages.stream(**ASK, **asked) as stream:
                assert json.loads(stream.get_final_text())["people"] == 2


BLOCKS = [
    {"type": "thinking", "thinking": "good thoughts", "signature": "sig"},
    {
        "type": "text",
        "text": "a good answer",
        "citations": [
            {
                "type": "char_location",
                "cited_text": "c",
                "document_index": 0,
                "document_title": "t",
                "start_char_index": 0,
                "end_char_index": 1,
            }
        ],
    },
    call(city="good"),
]


class TestStreams:
    def test_events(self):
        client = guarded("wicked", BLOCKS)
        with client.messages.create(**ASK, stream=True) as stream:
            events = list(stream)
        assert events[0].type == "message_start"
        assert events[0].message.srr_guard["reason"] == "best_of_n"
        assert events[-1].type == "message_stop"
        assert "wicked" not in repr(events)

    def test_the_clients_own_helper_puts_them_together(self):
        whole = guarded(BLOCKS).messages.create(**ASK)
        with guarded("bad", BLOCKS).messages.stream(**ASK) as stream:
            texts = list(stream.text_stream)
            message = stream.get_final_message()
        assert texts == ["a good answer"]
        assert message.srr_guard["sampled"] == 2
        assert [b.to_dict() for b in message.content] == [b.to_dict() for b in whole.content]
        assert message.stop_reason == "tool_use"
        assert (message.usage.input_tokens, message.usage.output_tokens) == (20, 4)

    async def test_async(self):
        async with aguarded("bad", BLOCKS).messages.stream(**ASK) as stream:
            assert [piece async for piece in stream.text_stream] == ["a good answer"]
            message = await stream.get_final_message()
        assert message.content[2].input == {"city": "good"}
        events = await aguarded("good").messages.create(**ASK, stream=True)
        assert "message_stop" in [event.type async for event in events]

    def test_parsed(self):
        answers = [City(name=name, people=1).model_dump_json() for name in ("bad", "good")]
        with guarded(*answers).messages.stream(**ASK, output_format=City) as stream:
            assert stream.get_final_message().parsed_output == City(name="good", people=1)

    def test_a_parsed_stream_has_no_form_for_a_refusal(self):
        answer = City(name="bad", people=1).model_dump_json()
        client = guarded(answer)
        with (
            pytest.raises(BelowThresholdError),
            client.messages.stream(**ASK, output_format=City),
        ):
            pass

    def test_refusal(self):
        with guarded("bad").messages.stream(**ASK) as stream:
            assert stream.get_final_text() == REFUSAL


class TestErrors:
    def test_one_failed_candidate(self):
        message = guarded(500, "good").messages.create(**ASK)
        assert message.srr_guard["reason"] == "fallback"

    def test_all_failed(self):
        with pytest.raises(AllCandidatesFailedError) as caught:
            guarded(429).messages.create(**ASK)
        assert isinstance(caught.value, anthropic.RateLimitError)

    def test_requests_that_cannot_be_read(self):
        client = guarded("good")
        with pytest.raises(InvalidInputError):
            client.messages.create(model="m", max_tokens=1, messages="q")
        for name in ("messages", "system", "stream"):
            with pytest.raises(ConfigurationError, match=f"'{name}' in extra_body"):
                client.messages.create(**ASK, extra_body={name: "hidden"})
        with pytest.raises(ConfigurationError, match="give a dict"):
            client.messages.create(**ASK, extra_body=[("system", "hidden")])

    def test_what_is_no_client(self):
        with pytest.raises(ConfigurationError, match=r"messages\.create"):
            guard_anthropic(object())


CLOSED = [
    "beta",
    "get",
    "get_api_list",
    "post",
    "request",
    "with_raw_response",
    "with_streaming_response",
    "messages.batches",
    "messages.with_raw_response",
    "messages.with_streaming_response",
]
OPEN = ["models", "files", "skills", "user_profiles", "organization", "base_url"]


def reach(thing: Any, path: str) -> Any:
    for name in path.split("."):
        thing = getattr(thing, name)
    return thing


class TestParts:
    @pytest.mark.parametrize("path", CLOSED)
    def test_what_is_closed_is_handed_out_by_name(self, path, caplog):
        client, shared = Server("bad").client(), guard_by_word()
        ours = guard_anthropic(client, guard=shared)
        with pytest.raises(UnguardedError, match="with `create`") as caught:
            reach(ours, path)
        assert f'client.unguarded("{path}")' in str(caught.value)
        with caplog.at_level(logging.WARNING, logger="srr_guard"):
            assert type(ours.unguarded(path)) is type(reach(client, path))
        assert shared.bypasses == 1

    def test_all_else_passes_through(self):
        client = Server("bad").client()
        ours = guard_anthropic(client, guard=guard_by_word())
        for path in OPEN:
            assert reach(ours, path) == reach(client, path)
        assert isinstance(ours, anthropic.Anthropic)
        assert ours.messages.count_tokens == client.messages.count_tokens

    def test_copies_share_the_guard(self):
        ours = guarded("bad", "good")
        with ours.with_options(timeout=5) as copy:
            assert copy.messages.create(**ASK).content[0].text == "good"

    @pytest.mark.parametrize("kind", [anthropic.Anthropic, anthropic.AsyncAnthropic])
    def test_what_returns_a_client_returns_a_guarded_one(self, kind):
        client = kind(api_key="x")
        ours = guard_anthropic(client, guard=guard_by_word())
        copying = {
            name
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if name[0] != "_" and inspect.signature(method).return_annotation in ("Self", kind)
        }
        assert copying == {"copy", "with_options", "with_middleware"}
        for name in copying:
            assert repr(getattr(ours, name)()).startswith("guarded ")

    def test_middleware_sees_each_candidate(self):
        seen = []

        def look(request: Any, then: Any) -> Any:
            seen.append(request)
            return then(request)

        ours = guarded("bad", "good")
        message = ours.with_middleware(look).messages.create(**ASK)
        assert (message.content[0].text, len(seen)) == ("good", 2)

    def test_a_new_resource_of_the_client_is_decided_about(self):
        known = {path.partition(".")[0] for path in [*CLOSED, *OPEN]} | {"messages"}
        found = {
            name
            for name, value in inspect.getmembers(anthropic.Anthropic)
            if type(value).__name__ == "cached_property" and not name.startswith("_")
        }
        assert found <= known

    def test_look_alikes(self):
        thing = SimpleNamespace(
            messages=SimpleNamespace(create=lambda **_: {"content": [text("bad")]})
        )
        message = guard_anthropic(thing, guard=guard_by_word()).messages.create(**ASK)
        assert message["content"] == [text(REFUSAL)]


def test_docstring():
    assert doctest.testmod(adapter).failed == 0
