"""The upstream of `soak.py`: answers with the question's id, whole or streamed.

A mark in the question says what goes wrong. A streamed bad answer is endless, so that only cutting
it off, or giving up on it, ends it. By itself it serves at a port: `python soak_upstream.py 9000`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from typing import Any

import uvicorn

from srr_guard.serving.config import GatewayConfig
from srr_guard.serving.server import listen

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


async def upstream(scope: Any, receive: Any, send: Any) -> None:
    """Answer one request."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    text = body.decode()
    found = next((word for word in text.split() if word.startswith("id-")), "id-none")
    if "[slow]" in text:
        await asyncio.sleep(0.5)
    if "[hang]" in text:
        await asyncio.sleep(4.0)
    status = 500 if "[fail]" in text or ("[flaky]" in text and random.random() < 0.5) else 200
    says = f"a {random.choice(('good', 'bad'))} answer to {found}"
    responses = scope["path"].endswith("/responses")
    if b'"stream": true' in body and status == 200 and "[garbage]" not in text:
        await stream(receive, send, says, text, responses=responses)
        return
    answer = response(says) if responses else completion(says)
    content = b"{garbage" if "[garbage]" in text else json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def completion(says: str) -> dict[str, Any]:
    """A chat completion."""
    message = {"role": "assistant", "content": says}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    return {**head, "choices": [choice], "usage": USAGE}


def response(says: str) -> dict[str, Any]:
    """A response."""
    part = {"type": "output_text", "text": says, "annotations": []}
    said = {"id": "m", "type": "message", "role": "assistant", "status": "completed"}
    head = {"id": "r", "object": "response", "created_at": 1, "model": "m", "status": "completed"}
    return {**head, "output": [{**said, "content": [part]}]}


async def stream(receive: Any, send: Any, says: str, asked: str, *, responses: bool) -> None:
    """Stream an answer until it is over, faulty, or closed by the gateway."""
    gone = asyncio.ensure_future(_gone(receive))
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    pieces = [says, *[" and so on, and so forth, and so on"] * 12]
    count = 0
    while not gone.done() and (count < len(pieces) or "bad" in says):
        piece = pieces[min(count, len(pieces) - 1)]
        await send(_body(_delta(piece, responses=responses)))
        await asyncio.sleep(0.01)
        count += 1
        if count == 6 and "[breaks]" in asked:
            raise ConnectionError("scripted")
        if count == 6 and "[error]" in asked:
            await send(_body(b'event: error\ndata: {"error": {"message": "scripted"}}\n\n'))
            break
        if count == 6 and "[stalls]" in asked:
            await gone
    if not gone.done():
        await send(_body(_end("".join(pieces), responses=responses)))
        await send({"type": "http.response.body", "body": b""})
    gone.cancel()


def _delta(piece: str, *, responses: bool) -> bytes:
    if responses:
        return _event({"type": "response.output_text.delta", "delta": piece})
    choice = {"index": 0, "delta": {"role": "assistant", "content": piece}, "finish_reason": None}
    return _event({**_CHUNK, "choices": [choice]})


def _end(says: str, *, responses: bool) -> bytes:
    if responses:
        return _event({"type": "response.completed", "response": response(says)})
    last = {**_CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {**_CHUNK, "choices": [], "usage": USAGE}
    return _event(last) + _event(usage) + b"data: [DONE]\n\n"


_CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def _event(record: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(record).encode() + b"\n\n"


def _body(content: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": True}


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def run_upstream(port: int, pipe: Any = None) -> None:
    """Serve it; the port is told through the pipe."""
    bound = listen(GatewayConfig(port=port))
    if pipe is not None:
        pipe.send(bound.getsockname()[1])
    options = uvicorn.Config(
        upstream, lifespan="off", log_config=None, log_level="critical", access_log=False, ws="none"
    )
    uvicorn.Server(options).run(sockets=[bound])


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    run_upstream(parser.parse_args().port)


if __name__ == "__main__":
    main()
