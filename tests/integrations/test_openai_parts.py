"""What of an OpenAI client is guarded, what passes through, and what must be asked for by name."""

from __future__ import annotations

import asyncio
import inspect
import logging
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel
from srr_guard_integrations.openai_client import guard_chat_completions, guard_openai

from srr_guard import Guard
from srr_guard.errors import ConfigurationError, UnguardedError
from srr_guard.policy import DEFAULT_REFUSAL
from srr_guard.testing import FakeScorer

ASK = [{"role": "user", "content": "How do magnets work?"}]


def reply(request: httpx.Request) -> httpx.Response:
    message = {"role": "assistant", "content": '{"text": "good"}'}
    return httpx.Response(
        200,
        json={
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        },
    )


async def areply(request: httpx.Request) -> httpx.Response:
    return reply(request)


COMMON: dict[str, Any] = {"api_key": "x", "base_url": "http://test/v1", "max_retries": 0}
SYNC = openai.OpenAI(http_client=httpx.Client(transport=httpx.MockTransport(reply)), **COMMON)
ASYNC = openai.AsyncOpenAI(
    http_client=httpx.AsyncClient(transport=httpx.MockTransport(areply)), **COMMON
)


def guard(p_safe: float = 0.9) -> Guard:
    return Guard(scorer=FakeScorer(lambda *_: p_safe), n=2)


CLOSED = [
    "beta",
    "realtime",
    "batches",
    "images",
    "videos",
    "audio.speech",
    "with_raw_response",
    "with_streaming_response",
    "get",
    "post",
    "get_api_list",
    "request",
    "chat.with_streaming_response",
    "chat.completions.with_raw_response",
    "chat.completions.retrieve",
    "chat.completions.list",
    "chat.completions.update",
    "responses.with_raw_response",
    "responses.retrieve",
    "responses.cancel",
    "responses.compact",
    "responses.connect",
]
OPEN = [
    "models",
    "files",
    "embeddings",
    "moderations",
    "fine_tuning",
    "vector_stores",
    "uploads",
    "webhooks",
    "conversations",
    "containers",
    "evals",
    "audio.transcriptions",
    "chat.completions.messages",
    "chat.completions.delete",
    "responses.delete",
    "responses.input_items",
    "base_url",
]


def reach(thing: Any, path: str) -> Any:
    for name in path.split("."):
        thing = getattr(thing, name)
    return thing


def require(client: Any, path: str) -> None:
    """Skip the test of a part that the installed version of the client does not have."""
    try:
        reach(client, path)
    except AttributeError:
        pytest.skip(f"openai {openai.__version__} has no {path}")


@pytest.mark.parametrize("client", [SYNC, ASYNC], ids=["sync", "async"])
class TestParts:
    @pytest.mark.parametrize("path", CLOSED)
    def test_what_is_closed_raises_and_is_handed_out_by_name(self, client, path, caplog):
        require(client, path)
        shared = guard()
        ours = guard_openai(client, guard=shared)
        with pytest.raises(UnguardedError, match="unscored") as caught:
            reach(ours, path)
        assert f'client.unguarded("{path}")' in str(caught.value)
        assert isinstance(caught.value, ConfigurationError)
        assert shared.bypasses == 0
        with caplog.at_level(logging.WARNING, logger="srr_guard"):
            assert type(ours.unguarded(path)) is type(reach(client, path))
        assert f"bypass: {path!r}" in caplog.text
        assert (shared.totals.requests, shared.bypasses) == (0, 1)

    @pytest.mark.parametrize("path", OPEN)
    def test_all_else_passes_through(self, client, path):
        require(client, path)
        shared = guard()
        assert reach(guard_openai(client, guard=shared), path) == reach(client, path)
        assert shared.bypasses == 0

    def test_legacy_completions_raise_when_they_are_called(self, client):
        ours = guard_openai(client, guard=guard())
        with pytest.raises(UnguardedError, match=r"`completions\.create`"):
            ours.completions.create(model="m", prompt="q")
        assert ours.unguarded("completions") is client.completions

    def test_code_that_looks_for_a_part_goes_on_without_it(self, client):
        ours = guard_openai(client, guard=guard())
        assert not hasattr(ours, "beta")
        assert hasattr(ours, "responses")

    def test_every_part_says_where_it_is(self, client):
        ours = guard_openai(client, guard=guard())
        assert ours.responses.unguarded("retrieve") == client.responses.retrieve
        with pytest.raises(UnguardedError, match=r'unguarded\("responses\.retrieve"\)'):
            _ = ours.responses.retrieve

    def test_types(self, client):
        ours = guard_openai(client, guard=guard())
        for path in ("responses", "chat.completions", "audio", "completions"):
            assert isinstance(reach(ours, path), type(reach(client, path)))

    def test_a_name_that_the_client_lacks_is_no_bypass(self, client):
        shared = guard()
        with pytest.raises(AttributeError, match="nothing"):
            guard_openai(client, guard=shared).unguarded("nothing")
        assert shared.bypasses == 0


def test_copies_count_in_the_same_guard():
    shared = guard()
    guard_openai(SYNC, guard=shared).with_options(timeout=5).unguarded("beta")
    assert shared.bypasses == 1


def test_the_older_name():
    assert guard_chat_completions is guard_openai


def test_look_alikes_have_the_parts_they_have():
    chat = SimpleNamespace(completions=SimpleNamespace(create=print))
    ours = guard_openai(SimpleNamespace(chat=chat), guard=guard())
    for name in ("responses", "audio", "completions"):
        assert not hasattr(ours, name)


def test_a_look_alikes_own_stream_reaches_nothing_but_create():
    class Completions:
        def create(self, **_: Any) -> Any:
            raise AssertionError

        def stream(self, **_: Any) -> Any:
            return self._post("/chat/completions")  # type: ignore[attr-defined]

        def _post(self, path: str) -> str:
            return "unscored"

    chat = SimpleNamespace(completions=Completions())
    ours = guard_openai(SimpleNamespace(chat=chat), guard=guard())
    with pytest.raises(UnguardedError, match="_post"):
        ours.chat.completions.stream(model="m", messages=ASK)


def test_the_resources_of_the_installed_client_are_all_decided_about():
    """A new resource of the client fails here, so that somebody decides whether it is closed."""
    harmless = {"admin", "content_provenance_checks", "decisions", "safety", "skills"}
    known = harmless | {path.partition(".")[0] for path in [*CLOSED, *OPEN]}
    known |= {"completions", "live"}
    resources = {
        name
        for name, value in inspect.getmembers(openai.OpenAI)
        if type(value).__name__ == "cached_property" and not name.startswith("_")
    }
    assert resources - known == set()
    assert {"chat", "responses", "beta"} <= resources


class Answer(BaseModel):
    text: str


class TestChatStream:
    """`chat.completions.stream` is the client's own, on a guarded completion."""

    def test_sync(self):
        ours = guard_openai(SYNC, guard=guard())
        with ours.chat.completions.stream(
            model="m", messages=ASK, response_format=Answer, stream_options={"include_usage": True}
        ) as stream:
            events = list(stream)
            final = stream.get_final_completion()
        assert final.choices[0].message.parsed == Answer(text="good")
        assert final.usage is not None
        assert final.usage.total_tokens == 10
        assert [e.delta for e in events if e.type == "content.delta"] == ['{"text": "good"}']
        last = [e for e in events if e.type == "chunk"][-1]
        assert last.chunk.srr_guard["reason"] == "best_of_n"

    def test_async(self):
        async def ask() -> Any:
            ours = guard_openai(ASYNC, guard=guard())
            async with ours.chat.completions.stream(model="m", messages=ASK) as stream:
                return await stream.get_final_completion()

        assert asyncio.run(ask()).choices[0].message.content == '{"text": "good"}'

    def test_a_refusal(self):
        ours = guard_openai(SYNC, guard=guard(p_safe=0.1))
        with ours.chat.completions.stream(model="m", messages=ASK) as stream:
            deltas = [e.delta for e in stream if e.type == "content.delta"]
            with pytest.raises(openai.ContentFilterFinishReasonError):
                stream.get_final_completion()
        assert deltas == [DEFAULT_REFUSAL]
