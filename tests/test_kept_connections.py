"""Connections that a server closes between two requests."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest
from servers import ASK, completion, gateway, says

from srr_guard.kept_connections import send
from srr_guard.scorer import RemoteScorer

ENDS = ("closes", "resets", "closes in the head")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


class Closing:
    """A server that answers one request of each connection, and ends at the next one.

    Attributes:
        url: Its address.
        connections: For each, the requests that came over it.
    """

    def __init__(self, end: str, body: bytes = b"{}", *, good: int = 1) -> None:
        self._end, self._body, self._good = end, body, good
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/v1"
        self.connections: list[int] = []

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections.append(0)
            place = len(self.connections) - 1
            threading.Thread(target=self._one, args=(connection, place), daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _one(self, connection: socket.socket, place: int) -> None:
        with connection:
            while request(connection):
                self.connections[place] += 1
                if self.connections[place] <= self._good:
                    connection.sendall(HEAD % len(self._body) + self._body)
                elif self._end == "resets":
                    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    return
                elif self._end == "closes in the head":
                    connection.sendall(b"HTTP/1.1 200")
                    return
                elif self._end == "closes in the body":
                    connection.sendall(HEAD % len(self._body) + self._body[:1])
                    return
                else:
                    return


def request(connection: socket.socket) -> bytes:
    """One whole request; empty when there is none any more."""
    found = b""
    while b"\r\n\r\n" not in found:
        if not (part := connection.recv(65536)):
            return b""
        found += part
    head, _, body = found.partition(b"\r\n\r\n")
    lengths = [int(x.split(b":")[1]) for x in head.lower().split(b"\r\n") if b"content-length" in x]
    while len(body) < sum(lengths):
        body += connection.recv(65536)
    return head


@contextmanager
def closing_server(*args, **options) -> Iterator[Closing]:
    server = Closing(*args, **options)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_on_a_closed_connection_is_sent_once_more(end, stream):
    with closing_server(end) as server:
        async with httpx2.AsyncClient(trust_env=False) as client:
            for _ in range(4):
                answer = await send(client, "POST", server.url, content=b"{}", stream=stream)
                assert await answer.aread() == b"{}"
                await answer.aclose()
        assert server.connections == [2, 2, 2, 1]


@pytest.mark.parametrize("end", ENDS)
async def test_a_new_connection_that_is_closed_is_a_failure(end):
    with closing_server(end, good=0) as server:
        async with httpx2.AsyncClient(trust_env=False) as client:
            with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):
                await send(client, "POST", server.url, content=b"{}")
        assert server.connections == [1]


async def test_an_answer_that_has_begun_is_not_asked_for_again():
    with closing_server("closes in the body") as server:
        async with httpx2.AsyncClient(trust_env=False) as client:
            await send(client, "POST", server.url, content=b"{}")
            with pytest.raises(httpx2.RemoteProtocolError):
                await send(client, "POST", server.url, content=b"{}")
        assert server.connections == [2]


@pytest.mark.parametrize("error", [httpx2.ReadError(""), httpx2.RemoteProtocolError("")])
async def test_a_transport_that_tells_nothing_is_asked_once(error):
    asked = []

    def answer(request):
        asked.append(request)
        raise error

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as client:
        with pytest.raises(type(error)):
            await send(client, "GET", "http://a")
    assert len(asked) == 1


@pytest.mark.parametrize("end", ENDS)
def test_the_gateway_takes_it_for_no_failure(end):
    body = json.dumps(completion(says("a good answer"), 1, "m")).encode()
    policies = {"default": {"sampling": {"n": 1, "attempts": 1}}}
    with closing_server(end, body) as server:
        upstreams = [{"url": server.url, "failures": 1}]
        with (
            gateway(upstreams=upstreams, policies=policies) as served,
            httpx2.Client(trust_env=False) as http,
        ):
            asked = {"model": "m", "messages": ASK}
            for _ in range(4):
                answer = http.post(f"{served.url}/chat/completions", json=asked)
                assert answer.json()["srr_guard"]["failed"] == 0
            metrics = http.get(f"{served.root}/metrics").text
        assert server.connections == [2, 2, 2, 1]
    assert [line for line in metrics.splitlines() if "upstream_calls_total{" in line] == [
        f'srr_guard_upstream_calls_total{{outcome="ok",upstream="{server.url[7:-3]}"}} 4.0'
    ]


@pytest.mark.parametrize("end", ENDS)
def test_a_remote_scorer_takes_it_for_no_failure(end):
    body = b'{"order": [0], "scores": [0.9], "p_safe": [0.9]}'
    with (
        closing_server(end, body) as server,
        RemoteScorer(server.url, attempts=1) as scorer,
    ):
        for _ in range(4):
            assert scorer.score("q", ["good"]).p_safe == (0.9,)
        assert server.connections == [2, 2, 2, 1]


def test_a_remote_scorer_keeps_no_cookies():
    seen = []

    def answer(request):
        seen.append(request.headers.get("cookie"))
        body = {"order": [0], "scores": [0.9], "p_safe": [0.9]}
        return httpx2.Response(200, json=body, headers={"set-cookie": "a=b"})

    transport = httpx2.MockTransport(answer)
    with RemoteScorer("http://a.example/v1", transport=transport) as scorer:
        for _ in range(2):
            scorer.score("q", ["good"])
    assert seen == [None, None]
