"""Messages as the real provider packages make them, from what their APIs send."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from doors import SCORER, quick
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from srr_guard import SafetyRankedChatModel, SafetyRanker
from srr_guard.errors import AllCandidatesFailedError
from srr_guard.policy import DEFAULT_REFUSAL


class Server(ThreadingHTTPServer):
    """Sends one reply to every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: dict[str, Any] = {}
        self.requests = 0
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.requests += 1
        body = json.dumps(self.server.reply).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


USAGE = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}


def chat(message: dict[str, Any], reason: str = "stop") -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", **message}}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    common = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
    return {**common, "choices": [choice], "usage": usage}


def response(*output: dict[str, Any], **more: Any) -> dict[str, Any]:
    common = {"id": "r", "object": "response", "created_at": 1, "model": "m", "error": None}
    rest = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": USAGE}
    return {**common, **rest, "status": "completed", "output": list(output), **more}


def anthropic(*content: dict[str, Any], reason: str = "end_turn") -> dict[str, Any]:
    common = {"id": "a", "type": "message", "role": "assistant", "model": "claude"}
    return {**common, "content": list(content), "stop_reason": reason, "usage": USAGE}


def said(*content: dict[str, Any]) -> dict[str, Any]:
    common = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
    return {**common, "content": list(content)}


def output_text(text: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": list(annotations)}


OK, OUT = {"type": "text", "text": "fine"}, output_text("fine")
CALL = {"name": "f", "arguments": '{"x": "HARM"}'}
WEB = {
    "type": "web_search_tool_result",
    "tool_use_id": "s",
    "content": [
        {"type": "web_search_result", "title": "HARM", "url": "u", "encrypted_content": "z"}
    ],
}
CITED = {
    "type": "web_search_result_location",
    "cited_text": "HARM",
    "title": "t",
    "url": "u",
    "encrypted_index": "z",
}
URL = {"type": "url_citation", "title": "HARM", "url": "u", "start_index": 0, "end_index": 1}

HARMFUL = {
    "openai text": chat({"content": "HARM"}),
    "openai refusal": chat({"content": None, "refusal": "HARM"}),
    "openai tool call": chat(
        {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": CALL}]}
    ),
    "openai function call": chat({"content": None, "function_call": CALL}),
    "openai audio": chat(
        {"content": None, "audio": {"id": "a", "data": "eA==", "transcript": "HARM"}}
    ),
    "responses text": response(said(output_text("HARM"))),
    "responses refusal": response(said({"type": "refusal", "refusal": "HARM"})),
    "responses reasoning": response(
        {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "HARM"}]},
        said(OUT),
    ),
    "responses function call": response(
        {"type": "function_call", "id": "f", "call_id": "c", "status": "completed", **CALL}
    ),
    "responses web search": response(
        {
            "type": "web_search_call",
            "id": "w",
            "status": "completed",
            "action": {"type": "search", "query": "HARM"},
        },
        said(OUT),
    ),
    "responses citation": response(said(output_text("fine", URL))),
    "responses code": response(
        {
            "type": "code_interpreter_call",
            "id": "c",
            "status": "completed",
            "container_id": "x",
            "code": "1",
            "outputs": [{"type": "logs", "logs": "HARM"}],
        },
        said(OUT),
    ),
    "responses mcp": response(
        {
            "type": "mcp_call",
            "id": "i",
            "server_label": "s",
            "name": "n",
            "arguments": "{}",
            "output": "HARM",
        },
        said(OUT),
    ),
    "anthropic text": anthropic({"type": "text", "text": "HARM"}),
    "anthropic thinking": anthropic({"type": "thinking", "thinking": "HARM", "signature": "s"}, OK),
    "anthropic tool use": anthropic(
        {"type": "tool_use", "id": "t", "name": "f", "input": {"x": "HARM"}}
    ),
    "anthropic web search": anthropic(
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
        WEB,
        OK,
    ),
    "anthropic citation": anthropic({"type": "text", "text": "fine", "citations": [CITED]}),
}


def models(name: str, url: str) -> list[BaseChatModel]:
    """The package's chat model, once for each form of content that it offers."""
    if name.startswith("anthropic"):
        options = {"model": "made-up", "api_key": "x", "base_url": url}
        return [ChatAnthropic(**options, output_version=v) for v in ("v0", "v1")]
    openai = {"model": "m", "api_key": "x", "base_url": f"{url}/v1", "max_retries": 0}
    if name.startswith("openai"):
        return [ChatOpenAI(**openai)]
    versions = ("v0", "responses/v1", "v1")
    return [ChatOpenAI(**openai, use_responses_api=True, output_version=v) for v in versions]


@pytest.mark.parametrize("name", HARMFUL)
def test_harm_in_any_part_is_seen(server, name):
    server.reply = HARMFUL[name]
    for model in models(name, server.url):
        for guard in (SafetyRanker, SafetyRankedChatModel):
            guarded = guard(model, scorer=SCORER, sampling=quick(1))
            assert guarded.invoke("q").text == DEFAULT_REFUSAL


FILTERED = {
    "openai": chat({"content": None}, "content_filter"),
    "responses": response(status="incomplete", incomplete_details={"reason": "content_filter"}),
    "anthropic": anthropic(reason="refusal"),
}


@pytest.mark.parametrize("name", FILTERED)
def test_filtered_answers_cost_one_call_each(server, name):
    server.reply = FILTERED[name]
    for model in models(name, server.url):
        server.requests = 0
        guarded = SafetyRanker(model, scorer=SCORER, sampling=quick(3))
        assert guarded.invoke("q").text == DEFAULT_REFUSAL
        assert server.requests == 3


class Recipe(BaseModel):
    """A recipe."""

    name: str
    minutes: int


METHODS = {
    "function_calling": lambda args: {
        "content": None,
        "tool_calls": [
            {
                "id": "1",
                "type": "function",
                "function": {"name": "Recipe", "arguments": json.dumps(args)},
            }
        ],
    },
    "json_mode": lambda args: {"content": json.dumps(args)},
    "json_schema": lambda args: {"content": json.dumps(args)},
    "json_mode, fenced": lambda args: {"content": f"```json\n{json.dumps(args)}\n```"},
}


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("schema", [Recipe, Recipe.model_json_schema()], ids=["class", "dict"])
@pytest.mark.parametrize("method", METHODS)
class TestStructuredOutput:
    """Every way in which `langchain_openai` asks for structure, at both doors."""

    def structured(self, server, method, schema, raw):
        for guard in (SafetyRanker, SafetyRankedChatModel):
            (model,) = models("openai", server.url)
            server.requests = 0
            yield guard(model, scorer=SCORER, sampling=quick(2)).with_structured_output(
                schema, method=method.partition(",")[0], include_raw=raw
            )

    def test_an_answer_that_fits(self, server, method, schema, raw):
        server.reply = chat(METHODS[method]({"name": "tea", "minutes": 3}))
        for model in self.structured(server, method, schema, raw):
            given = model.invoke("q")
            given = given["parsed"] if raw else given
            assert dict(given) == {"name": "tea", "minutes": 3}
            assert server.requests == 2

    def test_one_that_does_not(self, server, method, schema, raw):
        server.reply = chat(METHODS[method]({"name": "tea", "minutes": "a while"}))
        for model in self.structured(server, method, schema, raw):
            with pytest.raises(AllCandidatesFailedError):
                model.invoke("q")

    @pytest.mark.parametrize("how", ["refusal", "content_filter"])
    def test_a_refusal_costs_one_call_each(self, server, method, schema, raw, how):
        refusal = {"content": None, "refusal": "no"} if how == "refusal" else {"content": None}
        server.reply = chat(refusal, "stop" if how == "refusal" else how)
        for model in list(self.structured(server, method, schema, raw))[-1:]:
            with pytest.raises(AllCandidatesFailedError, match=r"refus|filter"):
                model.invoke("q")
            assert server.requests == 2


def test_generated_images_are_refused(server):
    image = {"type": "image_generation_call", "id": "i", "status": "completed", "result": "eA=="}
    server.reply = response(image, said(OUT))
    for model in models("responses", server.url):
        decision = SafetyRanker(model, scorer=SCORER, sampling=quick(1)).decide("q")
        assert decision.output.text == DEFAULT_REFUSAL
        assert decision.candidates[0].unreadable


def test_encrypted_reasoning_passes(server):
    server.reply = anthropic({"type": "redacted_thinking", "data": "zzz"}, OK)
    for model in models("anthropic", server.url):
        guarded = SafetyRanker(model, scorer=SCORER, sampling=quick(1))
        assert guarded.invoke("q").text == "fine"
