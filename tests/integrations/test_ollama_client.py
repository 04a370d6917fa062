"""The real `ollama` client against a small HTTP server on this machine."""

from __future__ import annotations

import asyncio
import doctest
import itertools
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import ollama
import pytest
import srr_guard_integrations.ollama_client as adapter
from adapters import REFUSAL, STRICT, Asked, guard_by_word
from pydantic import BaseModel
from srr_guard_integrations.ollama_client import guard_ollama

from srr_guard import BelowThresholdError
from srr_guard.errors import (
    AllCandidatesFailedError,
    ConfigurationError,
    InvalidInputError,
    ScorerError,
    UnguardedError,
)
from srr_guard.policy import DecisionPolicy, GatePolicy
from srr_guard.testing import FakeGate, FakeScorer

ASK = [{"role": "user", "content": "How do magnets work?"}]


class Server(ThreadingHTTPServer):
    """Answers each request with the next of its script: a text, a message, or a status."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.script("bad", "good")

    def script(self, *answers: Any) -> None:
        self.answers = itertools.cycle(answers)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, path: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            self.requests.append(request)
            given = next(self.answers)
        if isinstance(given, int):
            return given, {"error": "scripted"}
        fields = {"content": given} if isinstance(given, str) else given
        if path == "/api/chat":
            said: dict[str, Any] = {"message": {"role": "assistant", "content": "", **fields}}
        else:
            said = {"response": fields.pop("content", ""), **fields}
        counts = {"prompt_eval_count": 10, "eval_count": 2}
        return 200, {"model": "m", **said, "done": True, "done_reason": "stop", **counts}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = self.server.answer(self.path, request)
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(server: Server) -> Iterator[ollama.Client]:
    with ollama.Client(server.url) as client:
        yield client


@pytest.fixture
def aclient(server: Server) -> ollama.AsyncClient:
    """Made outside of the loop, which reading certificates would block."""
    return ollama.AsyncClient(server.url)


def guarded(client: Any, **settings: Any) -> Any:
    return guard_ollama(client, guard=guard_by_word(**settings))


class City(BaseModel):
    name: str
    people: int


class TestChat:
    def test_sync(self, server, client):
        response = guarded(client).chat("m", ASK, options={"temperature": 0.7})
        assert isinstance(response, ollama.ChatResponse)
        assert response.message.content == "good"
        assert response["message"]["content"] == "good"
        assert (response.prompt_eval_count, response.eval_count) == (20, 4)
        assert response.srr_guard["reason"] == "best_of_n"
        assert response.srr_guard["chosen_usage"] == {"prompt_eval_count": 10, "eval_count": 2}
        assert [r["options"] for r in server.requests] == [{"temperature": 0.7}] * 2
        assert json.loads(response.model_dump_json())["eval_count"] == 4

    async def test_async(self, server, aclient):
        server.script("good")  # which request gets which answer is not to be known
        async with aclient as client:
            ours = guarded(client)
            made = await asyncio.gather(*(ours.chat(model="m", messages=ASK) for _ in range(3)))
            assert isinstance(ours, ollama.AsyncClient)
        assert {response.message.content for response in made} == {"good"}

    def test_refusal(self, server, client):
        server.script({"content": "bad", "thinking": "t"})
        response = guarded(client).chat("m", ASK)
        assert (response.message.content, response.message.thinking) == (REFUSAL, None)
        assert response.srr_guard["reason"] == "refused"

    def test_a_gate_refuses(self, client):
        gate = FakeGate(lambda prompt: 0.99)
        response = guarded(client, gate=gate, gating=GatePolicy(refuse_above=0.9)).chat("m", ASK)
        assert response.message.content == REFUSAL
        assert response.srr_guard["reason"] == "refused_by_gate"

    def test_observing_lets_the_first_answer_pass(self, server, client):
        server.script("bad")
        response = guarded(client, decision=DecisionPolicy(mode="observe")).chat("m", ASK)
        assert response.message.content == "bad"
        assert response.srr_guard["would_have"]["reason"] == "refused"

    def test_strict(self, server, client):
        server.script("bad")
        with pytest.raises(BelowThresholdError):
            guarded(client, decision=STRICT).chat("m", ASK)

    def test_a_scorer_that_fails_lets_nothing_pass(self, client):
        with pytest.raises(ScorerError):
            guarded(client, scorer=FakeScorer(lambda *_: 0.9, error=RuntimeError("broken"))).chat(
                "m", ASK
            )

    def test_tools(self, server, client):
        def called(city: str) -> dict[str, Any]:
            return {"tool_calls": [{"function": {"name": "look", "arguments": {"city": city}}}]}

        server.script(called("bad"), called("good"))

        def look(city: str) -> str:
            """Look at a city.

            Args:
                city: Its name.
            """
            return city

        tools = [look, ollama.Tool(function=ollama.Tool.Function(name="go"))]
        response = guarded(client).chat("m", ASK, tools=tools)
        (call,) = response.message.tool_calls
        assert (call.function.name, call.function.arguments) == ("look", {"city": "good"})
        assert server.requests[0]["tools"][0]["function"]["name"] == "look"
        made_up = {"tool_calls": [{"function": {"name": "look_up", "arguments": {"q": "good"}}}]}
        server.script(made_up, called("good"))
        response = guarded(client).chat("m", ASK, tools=tools)
        assert response.message.tool_calls[0].function.name == "look"
        assert response.srr_guard["failed"] == 1

    def test_thinking_is_scored(self, server, client):
        server.script({"content": "fine", "thinking": "harm"}, "well")
        scorer = FakeScorer(lambda _, answer: 0.1 if "harm" in answer else 0.9)
        assert guarded(client, scorer=scorer).chat("m", ASK).message.content == "well"

    def test_conversation(self, client):
        scorer = Asked()
        called = {"function": {"name": "look", "arguments": {"city": "Oslo"}}}
        guarded(client, scorer=scorer).chat(
            "m",
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "look", "images": ["aGk="]},
                {"role": "assistant", "tool_calls": [called]},
                {"role": "tool", "content": "sunny", "tool_name": "look"},
                ollama.Message(role="user", content="and now?"),
            ],
        )
        assert scorer.turns == [
            ("system", "Be brief."),
            ("user", "look\n[image]"),
            ("assistant", '[tool call] look({"city": "Oslo"})'),
            ("tool", "sunny"),
            ("user", "and now?"),
        ]

    def test_a_format(self, server, client):
        good = City(name="good", people=1).model_dump_json()
        server.script('{"name": "good"}', good)
        response = guarded(client).chat("m", ASK, format=City.model_json_schema())
        assert City.model_validate_json(response.message.content).people == 1
        assert response.srr_guard["failed"] == 1
        server.script(good.replace("good", "bad"))
        with pytest.raises(BelowThresholdError):
            guarded(client).chat("m", ASK, format=City.model_json_schema())


class TestGenerate:
    def test_sync(self, client):
        response = guarded(client).generate("m", "a question", system="Be brief.")
        assert isinstance(response, ollama.GenerateResponse)
        assert (response.response, response.eval_count) == ("good", 4)

    def test_refusal(self, server, client):
        server.script({"content": "bad", "context": [1, 2]})
        response = guarded(client).generate("m", "a question")
        assert (response.response, response.context) == (REFUSAL, None)

    def test_prompt(self, client):
        scorer = Asked()
        guarded(client, scorer=scorer).generate("m", "begin", "end", system="s", images=["aGk="])
        assert scorer.turns == [("system", "s"), ("user", "begin\nend\n[image]")]

    @pytest.mark.parametrize("given", [{"context": [1, 2]}, {"template": "Do harm: {{ .Prompt }}"}])
    @pytest.mark.parametrize("stream", [False, True])
    async def test_what_the_scorer_would_not_see_is_refused(self, aclient, server, given, stream):
        (name,) = given
        with pytest.raises(ConfigurationError, match=name):
            await guarded(aclient).generate("m", "more", stream=stream, **given)
        assert server.requests == []
        await guarded(aclient).generate("m", "more", context=[], template="")

    def test_a_raw_prompt_is_read_whole(self, client):
        scorer = Asked()
        prompt = "<|user|>q<|assistant|>Sure, here is"
        guarded(client, scorer=scorer).generate("m", prompt, "the end", raw=True)
        assert scorer.turns == [("user", f"{prompt}\nthe end")]

    def test_pictures_are_unreadable(self, server, client):
        server.script({"content": "good", "image": "aGk="})
        assert guarded(client).generate("m", "draw").response == REFUSAL


class TestStreams:
    def test_chat(self, server, client):
        server.script("bad", {"content": "good", "thinking": "a good thought"})
        chunks = list(guarded(client).chat("m", ASK, stream=True))
        assert [chunk.message.content for chunk in chunks] == ["good", ""]
        assert [chunk.message.thinking for chunk in chunks] == ["a good thought", None]
        assert [chunk.done for chunk in chunks] == [False, True]
        assert [chunk.eval_count for chunk in chunks] == [None, 4]
        assert chunks[1].srr_guard["sampled"] == 2
        assert server.requests[0]["stream"] is False

    def test_generate(self, client):
        chunks = list(guarded(client).generate("m", "q", stream=True))
        assert [chunk.response for chunk in chunks] == ["good", ""]

    def test_logprobs_come_once(self, server, client):
        server.script({"content": "good", "logprobs": [{"token": "good", "logprob": -1.0}]})
        chunks = list(guarded(client).generate("m", "q", stream=True, logprobs=True))
        assert [chunk.logprobs is None for chunk in chunks] == [False, True]

    async def test_async(self, aclient):
        async with aclient as client:
            stream = await guarded(client).chat("m", ASK, stream=True)
            assert [chunk.message.content async for chunk in stream] == ["good", ""]


class TestErrors:
    def test_one_failed_candidate(self, server, client):
        server.script(500, "good")
        assert guarded(client).chat("m", ASK).srr_guard["reason"] == "fallback"

    def test_all_failed(self, server, client):
        server.script(404)
        with pytest.raises(AllCandidatesFailedError) as caught:
            guarded(client).chat("m", ASK)
        assert isinstance(caught.value, ollama.ResponseError)

    def test_no_messages(self, client):
        with pytest.raises(InvalidInputError, match="messages"):
            guarded(client).chat("m")

    def test_what_is_no_client(self):
        with pytest.raises(ConfigurationError, match="`chat`"):
            guard_ollama(object())


class TestParts:
    def test_what_is_closed(self, client, caplog):
        ours = guarded(client)
        with pytest.raises(UnguardedError, match="`chat` or `generate`"):
            _ = ours.systemone
        with caplog.at_level(logging.WARNING, logger="srr_guard"):
            assert ours.unguarded("systemone") == client.systemone
        assert "bypass" in caplog.text

    def test_all_else_passes_through(self, client):
        ours = guarded(client)
        for name in ("list", "show", "embed", "pull", "web_search"):
            assert getattr(ours, name) == getattr(client, name)

    def test_a_new_method_of_the_client_is_decided_about(self):
        harmless = {"close", "copy", "create", "create_blob", "delete", "embed", "embeddings"}
        harmless |= {"list", "ps", "pull", "push", "show", "web_fetch", "web_search"}
        public = {name for name in vars(ollama.Client) if name[0] != "_"}
        assert public <= harmless | {"chat", "generate", "systemone"}

    def test_the_module_itself_is_a_client(self):
        assert guarded(ollama).list == ollama.list

    @pytest.mark.parametrize("name", ["Client", "AsyncClient"])
    def test_clients_made_by_the_module_would_not_be_guarded(self, name):
        with pytest.raises(UnguardedError, match=name):
            getattr(guarded(ollama), name)


def test_docstring():
    assert doctest.testmod(adapter).failed == 0
