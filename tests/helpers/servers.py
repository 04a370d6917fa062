"""Real HTTP servers on this machine: the gateway, and one that stands for upstreams."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from srr_guard.serving.app import GatewayApp
from srr_guard.serving.config import GatewayConfig
from srr_guard.serving.server import gateway_server, listen
from srr_guard.testing import FakeScorer

PATIENCE = 20.0  # seconds until a test that waits for an event has failed

ASK = [{"role": "user", "content": "How do magnets work?"}]


def good_is_safe(prompt: str, answer: str) -> float:
    """The fake scorer's rule: an answer with the word `good` in it is safe."""
    return 0.9 if "good" in answer else 0.1


def until(condition: Callable[[], Any]) -> Any:
    """Wait until something is true, and give it; a test that waits in vain has failed."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)
    return found


def says(text: str | None, **message: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **message}


def calls(name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return says(None, tool_calls=[{"id": "call_1", "type": "function", "function": function}])


class Pieces:
    """A streamed answer, piece by piece.

    Args:
        pieces: Bytes; a dict is an event of data, a str the data itself.
        kind: Its content type.
        held: The stream stays open after the last piece until the client closes it.
        broken: The connection ends without the end of the body.
    """

    def __init__(
        self,
        *pieces: Any,
        kind: str = "text/event-stream",
        held: bool = False,
        broken: bool = False,
    ) -> None:
        self.kind, self.held, self.broken = kind, held, broken
        said = [json.dumps(piece) if isinstance(piece, dict) else piece for piece in pieces]
        self.pieces = [p if isinstance(p, bytes) else f"data: {p}\n\n".encode() for p in said]

    async def send(self, send: Any, receive: Any) -> bool:
        """Send them; True if the client closed the stream."""
        headers = [(b"content-type", self.kind.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if self.held:
            await _gone(receive)
            return True
        if self.broken:
            raise ConnectionError("scripted")
        await send({"type": "http.response.body", "body": b""})
        return False


class Upstream:
    """An OpenAI-compatible server that follows a script, as an ASGI application.

    A step of the script is a message; a dict with `status`, `headers` and `body`; bytes, which are
    the body; `Pieces`; or an async function that is called first, and gives one of these.

    Attributes:
        requests: The bodies it got, with the path as `_path` and headers as `_headers`.
        cancelled: Set when a client hung up before it had its answer.
        asked: Set when a request has come.
    """

    def __init__(self, *script: Any) -> None:
        self.url = ""
        self.begin_anew(*script)

    def begin_anew(self, *script: Any) -> None:
        self.requests: list[dict[str, Any]] = []
        self.cancelled = threading.Event()
        self.asked = threading.Event()
        self.script(*(script or (says("a bad answer"), says("a good answer"))))

    def script(self, *steps: Any) -> None:
        self._steps = itertools.cycle(steps)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        path = scope["path"]
        if path == "/v1/models":
            listed = {"object": "list", "data": [{"id": "m", "object": "model"}]}
            await _reply(send, 200, json.dumps(listed).encode(), {})
            return
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        request = json.loads(body)
        self.requests.append({**request, "_path": path, "_headers": headers})
        step = next(self._steps)
        self.asked.set()
        if callable(step):
            gone = asyncio.ensure_future(_gone(receive))
            work = asyncio.ensure_future(step())
            await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                self.cancelled.set()
                return
            gone.cancel()
            step = work.result()
        if isinstance(step, Pieces):
            if await step.send(send, receive):
                self.cancelled.set()
            return
        status, headers, answer = 200, {}, step
        if isinstance(step, dict) and "status" in step and "role" not in step:
            status, headers = step["status"], step.get("headers", {})
            answer = step.get("body", {"error": {"message": "scripted", "code": "scripted"}})
        elif isinstance(step, dict) and "role" in step:
            shape = completion if path.endswith("/chat/completions") else response
            answer = shape(step, len(self.requests), request.get("model"))
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        await _reply(send, status, content, headers)


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _reply(send: Any, status: int, body: bytes, headers: dict[str, str]) -> None:
    listed = [(k.encode(), v.encode()) for k, v in headers.items()]
    listed.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": body})


def completion(message: dict[str, Any], number: int, model: Any) -> dict[str, Any]:
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": model,
        "choices": [choice],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }


def response(message: dict[str, Any], number: int, model: Any) -> dict[str, Any]:
    output = []
    if message.get("content"):
        part = {"type": "output_text", "text": message["content"], "annotations": []}
        said = {"id": f"msg_{number}", "type": "message", "role": "assistant"}
        output.append({**said, "status": "completed", "content": [part]})
    for call in message.get("tool_calls") or []:
        function = {"type": "function_call", "id": f"fc_{number}", "call_id": call["id"]}
        output.append({**function, **call["function"], "status": "completed"})
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": 1_700_000_000,
        "model": model,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 10,
            "output_tokens": 5,
            "total_tokens": 15,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 1},
        },
    }


@contextmanager
def running(server: uvicorn.Server, sockets: list[Any]) -> Iterator[None]:
    """Run a server in a thread."""
    up = threading.Event()
    stops: list[Callable[[], Any]] = []

    async def until_told() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))
        up.set()
        await stop.wait()

    server.main_loop = until_told  # type: ignore[method-assign]  # it polls
    thread = threading.Thread(target=server.run, kwargs={"sockets": sockets}, daemon=True)
    thread.start()
    assert up.wait(PATIENCE)
    try:
        yield
    finally:
        stops[0]()
        thread.join(PATIENCE)
        assert not thread.is_alive()


@contextmanager
def upstream_server(upstream: Upstream) -> Iterator[Upstream]:
    """Serve an upstream."""
    config = GatewayConfig(port=0)
    bound = listen(config)
    upstream.url = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
    options = uvicorn.Config(upstream, lifespan="off", log_config=None, access_log=False, ws="none")
    with running(uvicorn.Server(options), [bound]):
        yield upstream


class Running:
    """A gateway that is being served.

    Attributes:
        app: The application.
        url: Its address up to and with `/v1`.
        root: Its address.
        decisions: What was decided.
    """

    def __init__(self, app: GatewayApp, port: int, decisions: list[Any]) -> None:
        self.app = app
        self.port = port
        self.root = f"http://127.0.0.1:{port}"
        self.url = f"{self.root}/v1"
        self.decisions = decisions


@contextmanager
def gateway(
    *upstreams: Upstream,
    scorer: Any = None,
    fn: Callable[[str, str], float] = good_is_safe,
    model: Any = None,
    on_decision: Callable[[Any], Any] | None = None,
    port: int = 0,
    **settings: Any,
) -> Iterator[Running]:
    """Serve a gateway in front of upstreams that are being served."""
    if upstreams and "upstreams" not in settings:
        settings["upstreams"] = [{"url": upstream.url} for upstream in upstreams]
    config = GatewayConfig(port=port, **settings)
    decisions: list[Any] = []
    hook = on_decision or decisions.append
    app = GatewayApp(config, scorer=scorer or FakeScorer(fn), on_decision=hook, model=model)
    bound = listen(config)
    # so that an answer that is not read is felt at once
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    with running(gateway_server(app, config), [bound]):
        yield Running(app, bound.getsockname()[1], decisions)
