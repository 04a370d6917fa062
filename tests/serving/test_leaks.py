"""Mixed load with faults leaves nothing behind, and every request is answered once."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
from servers import PATIENCE, Upstream, gateway, says, until, upstream_server

ROUNDS = 12


class Shaky(Upstream):
    """Answers by what it is asked: well, with an error, with garbage, or never."""

    async def __call__(self, scope, receive, send):
        message = await receive()
        asked = json.loads(message["body"])["messages"][-1]["content"]

        async def never():
            await asyncio.Event().wait()

        steps = {"fails": {"status": 500}, "garbage": b"{", "hangs": never}
        self.script(steps.get(asked, says(f"good {asked}")))

        async def replay():
            nonlocal message
            given, message = message, None
            return given or await receive()

        await super().__call__(scope, replay, send)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_mixed_load_leaves_nothing_behind():
    limits = {"body_seconds": 0.2, "body_bytes": 5000}
    policies = {"default": {"sampling": {"n": 2, "attempts": 1}}}
    keys = [{"name": "a", "key": "key-of-a"}]
    settings = {"limits": limits, "policies": policies, "keys": keys}
    with upstream_server(Shaky()) as upstream:
        # servers that fail are left alone: here all must be asked
        upstreams = [{"url": upstream.url, "timeout": 60, "failures": 1_000_000}]
        with gateway(upstreams=upstreams, **settings) as served:

            def post(http, content, **headers):
                return http.post(
                    f"{served.url}/chat/completions",
                    content=content,
                    headers={
                        "authorization": "Bearer key-of-a",
                        "content-type": "application/json",
                        **headers,
                    },
                ).status_code

            def body(asked, **more):
                return json.dumps(
                    {"messages": [{"role": "user", "content": asked}], **more}
                ).encode()

            def hang_up():
                head = (
                    "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
                    "key-of-a\r\ncontent-type: application/json\r\ncontent-length: "
                )
                sent = body("hangs", stream=True)
                with socket.create_connection(("127.0.0.1", served.port), PATIENCE) as raw:
                    raw.sendall(f"{head}{len(sent)}\r\n\r\n".encode() + sent)
                return "gone"

            def dawdle():
                head = (
                    "POST /v1/score HTTP/1.1\r\nhost: x\r\nauthorization: Bearer key-of-a\r\n"
                    "content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
                )
                with socket.create_connection(("127.0.0.1", served.port), PATIENCE) as raw:
                    raw.sendall(head.encode())
                    return int(raw.recv(100).split(b" ")[1])

            def one_round(i):
                with httpx2.Client(timeout=60, trust_env=False) as http:
                    return [
                        post(http, body(f"request {i}")),
                        post(http, body(f"request {i}", stream=True)),
                        post(http, body("fails")),
                        post(http, body("garbage")),
                        post(http, b"{"),
                        post(http, b"x" * 6000),
                        post(http, body("x"), authorization="Bearer wrong"),
                        hang_up(),
                        dawdle(),
                    ]

            one_round(0)  # opens what stays open
            before = open_files()
            with ThreadPoolExecutor(4) as pool:
                found = Counter(status for r in pool.map(one_round, range(ROUNDS)) for status in r)
            expected = {200: 2, 502: 2, 400: 1, 413: 1, 401: 1, "gone": 1, 408: 1}
            assert found == {status: n * ROUNDS for status, n in expected.items()}
            until(lambda: b"srr_guard_in_flight 0.0" in served.app.gateway.metrics.text())
            with httpx2.Client(trust_env=False) as http:
                assert http.get(f"{served.root}/readyz").status_code == 200
            gc.collect()
            assert open_files() <= before + 8  # connections that are kept open
            assert {d.reason for d in served.decisions} == {"best_of_n", "failed"}
            text = served.app.gateway.metrics.text().decode()
            assert f'status="499"}} {ROUNDS + 1}.0' in text
