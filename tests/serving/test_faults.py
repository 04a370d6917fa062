"""What goes wrong: servers that fail, clients that hang up, dawdle, or send nonsense."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from uuid import UUID

import pytest
from servers import (
    ASK,
    PATIENCE,
    Upstream,
    completion,
    gateway,
    good_is_safe,
    says,
    until,
    upstream_server,
)

from srr_guard.errors import ScoringError
from srr_guard.scorer import RemoteScorer
from srr_guard.testing import FakeScorer

GOOD = says("a good answer")
ONCE = {"default": {"sampling": {"n": 1, "attempts": 1}}}


def ask(http, served, **body):
    return http.post(f"{served.url}/chat/completions", json={"model": "m", "messages": ASK, **body})


# ---- servers that fail ----


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 503, "body": b"<html>"},
        {"status": 429},
        {"status": 301, "headers": {"location": "http://127.0.0.1:9/"}},
        b"{not json",
        b"",
        b"[]",
        b'"text"',
        {"status": 200, "body": {}},
        {"status": 200, "body": {"choices": []}},
        {"status": 200, "body": {"choices": [{}]}},
        {"status": 200, "body": {"choices": [{"message": None}]}},
        {"status": 200, "body": {"choices": "many"}},
        says(""),
        says(None),
    ],
    ids=str,
)
def test_a_fault_is_tried_again(http, upstream, fault):
    upstream.script(fault, GOOD)
    with gateway(upstream, policies={"default": {"sampling": {"n": 1, "backoff": 0.0}}}) as served:
        body = ask(http, served).json()
    assert body["choices"][0]["message"]["content"] == "a good answer"
    assert len(upstream.requests) == 2


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"status": 500}, 502, "upstream_failed"),
        ({"status": 503}, 503, "upstream_failed"),
        ({"status": 401}, 502, "upstream_failed"),
        ({"status": 404}, 404, "scripted"),
        ({"status": 400}, 400, "scripted"),
        ({"status": 422, "body": b"<html>"}, 422, "upstream_refused"),
        (b"{not json", 502, "upstream_failed"),
        ({"status": 200, "body": {"choices": []}}, 502, "upstream_failed"),
        (says(""), 502, "no_usable_answer"),
    ],
    ids=str,
)
def test_a_fault_that_stays(http, upstream, fault, status, code):
    upstream.script(fault)
    with gateway(upstream, policies=ONCE) as served:
        answer = ask(http, served)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert served.decisions[-1].reason == "failed"


def test_a_wrong_request_is_not_sent_again(http, upstream):
    upstream.script({"status": 400, "body": {"error": {"message": "no such tool", "param": "t"}}})
    with gateway(upstream, policies={"default": {"sampling": {"n": 1}}}) as served:
        error = ask(http, served).json()["error"]
    assert (error["message"], error["param"]) == ("no such tool", "t")
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("said", "message", "param"),
    [
        ({"error": {"message": "no such tool", "param": "t"}}, "no such tool", "t"),
        ({"error": "model 'm' not found"}, "model 'm' not found", None),
        ({"detail": "Invalid API key"}, "Invalid API key", None),
        ({"object": "error", "message": "too long", "param": None}, "too long", None),
        (
            {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
            "seed: Extra inputs are not permitted",
            "seed",
        ),
        ({"detail": [{"loc": ["body", "messages", 0], "msg": "bad"}, 3]}, "messages.0: bad", None),
        ({"detail": {"reason": 1}}, None, None),
        ({"detail": [{"loc": 3, "msg": None}]}, None, None),
        ({"error": None}, None, None),
        ([], None, None),
    ],
    ids=str,
)
def test_what_a_server_says_of_a_wrong_request_reaches_the_client(
    http, upstream, said, message, param
):
    upstream.script({"status": 422, "body": said})
    with gateway(upstream, policies=ONCE) as served:
        answer = ask(http, served)
    error = answer.json()["error"]
    assert answer.status_code == 422
    if message is not None:
        assert error["message"] == message
        assert param in (None, error["param"])


@pytest.mark.parametrize(
    ("door", "body", "added"),
    [
        ("/chat/completions", {"messages": ASK}, set()),
        ("/responses", {"input": "How do magnets work?"}, {"store"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_strict_server_is_sent_no_field_that_the_client_did_not_send(
    http, upstream, served, door, body, added, stream
):
    fields = {"model": "m", "temperature": 0.5, "logprobs": None, "top_p": 0.9, "user": "u", **body}
    ours = {"srr_guard": {"n": 2}, "stream": stream, "n": 1, "stream_options": None}
    upstream.script(says("a good answer"))
    assert http.post(f"{served.url}{door}", json={**fields, **ours}).status_code == 200
    for request in upstream.requests:
        sent = {k: v for k, v in request.items() if not k.startswith("_")}
        assert {k: sent.pop(k) for k in fields} == fields
        assert set(sent) == added


def test_a_busy_server_says_when_to_come_back(http, upstream):
    upstream.script({"status": 429, "headers": {"retry-after": "7"}})
    with gateway(upstream, policies=ONCE) as served:
        first, second = ask(http, served), ask(http, served)
    assert (first.status_code, first.headers["retry-after"]) == (429, "7")
    assert second.status_code == 503
    assert int(second.headers["retry-after"]) in (6, 7)
    assert len(upstream.requests) == 1  # it is left alone


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, "2"),
        ({"retry-after": "99999999999"}, "99999999999"),
        ({"retry-after": "9" * 400}, "1"),
        ({"retry-after": "\xb2"}, "1"),
        ({"retry-after": "-3"}, "1"),
    ],
    ids=str,
)
def test_whatever_a_busy_server_says_is_a_429(http, upstream, headers, said):
    upstream.script({"status": 429, "headers": headers})
    with gateway(upstream, policies=ONCE) as served:
        answer = ask(http, served)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, said)


def test_what_one_client_breaks_stays_whole_for_the_others(http, upstream, monkeypatch):
    monkeypatch.setattr("srr_guard.breaker._FIRST_REST", 60.0)
    keys = [{"name": name, "key": f"key-of-{name}"} for name in ("mallory", "alice")]
    policies = {"default": {"sampling": {"n": 4, "attempts": 2, "backoff": 0.0}}}
    upstreams = [{"url": upstream.url, "rest": 60}]
    with gateway(upstreams=upstreams, policies=policies, keys=keys) as served:

        def asked_by(name):
            headers = {"authorization": f"Bearer key-of-{name}"}
            body = {"model": "m", "messages": ASK}
            return http.post(f"{served.url}/chat/completions", json=body, headers=headers)

        upstream.script({"status": 500})
        assert [asked_by("mallory").status_code for _ in range(2)] == [502] * 2
        asked_by("mallory")
        upstream.script(GOOD)
        shut_out = asked_by("mallory")
        assert shut_out.status_code == 503
        assert 1 < int(shut_out.headers["retry-after"]) <= 60
        assert shut_out.json()["error"]["message"] == "no server answers at the moment"
        answer = asked_by("alice").json()["srr_guard"]
        assert (answer["reason"], answer["failed"]) == ("best_of_n", 0)


@pytest.mark.parametrize("status", [400, 404, 422, 401, 429, 500])
def test_a_server_that_repeats_its_key_tells_it_to_nobody(http, upstream, status):
    error = {"message": "no such thing (Bearer sk-secret)", "param": "sk-secret", "code": "x"}
    upstream.script({"status": status, "body": {"error": error}})
    upstreams = [{"url": upstream.url, "key": "sk-secret"}]
    with gateway(upstreams=upstreams, policies=ONCE) as served:
        answer = ask(http, served)
    assert answer.status_code >= 400
    assert "sk-secret" not in answer.text


def test_a_server_that_takes_too_long(http):
    async def never():
        await asyncio.Event().wait()

    with upstream_server(Upstream(never)) as upstream:
        upstreams = [{"url": upstream.url, "timeout": 0.05}]
        with gateway(upstream, upstreams=upstreams, policies=ONCE) as served:
            answer = ask(http, served)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_failed")
        assert upstream.cancelled.wait(PATIENCE)


def test_an_answer_that_is_too_large(http, upstream):
    upstream.script(says("good " * 1000))
    with gateway(upstream, policies=ONCE, limits={"answer_bytes": 1000}) as served:
        assert ask(http, served).status_code == 502


def test_a_fallback_answers_where_the_first_does_not(http, upstream):
    with upstream_server(Upstream({"status": 500})) as broken:
        upstreams = [
            {"url": broken.url},
            {"url": "http://127.0.0.1:1/v1"},
            {"url": upstream.url, "fallback": True},
        ]
        with gateway(upstreams=upstreams) as served:
            for _ in range(4):
                assert ask(http, served).json()["srr_guard"]["reason"] == "best_of_n"
            metrics = http.get(f"{served.root}/metrics").text
        asked = len(broken.requests)
    assert asked <= 12  # three requests of four candidates; then it is left alone
    assert len(upstream.requests) == 16
    assert 'upstream="127.0.0.1:1"' in metrics


def test_weights_share_the_calls(http, upstream):
    with upstream_server(Upstream()) as other:
        upstreams = [{"url": upstream.url, "weight": 3}, {"url": other.url}]
        with gateway(upstreams=upstreams) as served:
            for _ in range(4):
                ask(http, served)
        assert (len(upstream.requests), len(other.requests)) == (12, 4)


def test_models_are_asked_of_the_server_that_has_them(http, upstream):
    with upstream_server(Upstream()) as other:
        upstreams = [
            {"url": upstream.url, "models": ["a"], "key": "first"},
            {"url": other.url, "models": ["b"], "model": "real-b"},
        ]
        with gateway(upstreams=upstreams) as served:
            ask(http, served, model="b")
            ask(http, served, model="a")
            missing = ask(http, served, model="c")
            listed = http.get(f"{served.url}/models").json()["data"]
        assert {request["model"] for request in other.requests} == {"real-b"}
    assert {request["model"] for request in upstream.requests} == {"a"}
    assert upstream.requests[0]["_headers"]["authorization"] == "Bearer first"
    assert (missing.status_code, [m["id"] for m in listed]) == (404, ["a", "b"])


def test_nothing_of_the_client_but_its_request_goes_on(http, upstream, served):
    headers = {"authorization": "Bearer mine", "cookie": "a=b", "x-request-id": "evil id"}
    body = {"model": "m", "messages": ASK}
    answer = http.post(f"{served.url}/chat/completions", json=body, headers=headers)
    sent = upstream.requests[0]["_headers"]
    assert not {"authorization", "cookie"} & set(sent)
    assert UUID(sent["x-request-id"]).version == 4  # some servers refuse others
    assert sent["x-request-id"] == answer.headers["x-request-id"]


def test_what_a_server_sets_for_one_request_is_not_sent_with_another(http, upstream, served):
    headers = {"set-cookie": "session=one; Path=/"}
    upstream.script({"status": 200, "headers": headers, "body": completion(GOOD, 1, "m")})
    for _ in range(2):
        assert ask(http, served).status_code == 200
    assert not any("cookie" in request["_headers"] for request in upstream.requests)


def test_no_word_of_a_server_gets_into_a_header(http, upstream, served):
    kind = "image\r\nset-cookie: evil=1"
    upstream.script(says(None, content=[{"type": kind, "text": "good"}], tool_calls=[]))
    answer = ask(http, served)
    assert "evil" not in str(answer.headers)
    assert "set-cookie" not in answer.headers


# ---- scorers that fail ----


def test_a_scorer_that_fails_passes_nothing(http, upstream):
    scorer = FakeScorer(lambda prompt, answer: 0.9, error=RuntimeError("a secret"))
    with gateway(upstream, scorer=scorer) as served:
        answer = ask(http, served)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "scorer_unavailable")
        assert "secret" not in answer.text
        assert "good" not in answer.text


def test_a_busy_scorer_is_a_429(http, upstream):
    from srr_guard.errors import ScorerBusyError

    scorer = FakeScorer(lambda prompt, answer: 0.9, error=ScorerBusyError("busy"))
    with gateway(upstream, scorer=scorer) as served:
        answer = ask(http, served)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


def test_a_busy_scorer_elsewhere_says_when_to_come_back(http, upstream):
    script = {"status": 429, "headers": {"retry-after": "3600"}}
    ready = {"status": 200, "body": {"order": [0], "scores": [0.9], "p_safe": [0.9]}}
    with (
        upstream_server(Upstream(ready, script)) as scorer,
        gateway(upstream, scorer=RemoteScorer(scorer.url)) as served,
    ):
        until(lambda: http.get(f"{served.root}/readyz").status_code == 200)
        answer, shed = ask(http, served), ask(http, served)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3600")
    assert scorer.url not in answer.text
    assert (shed.status_code, shed.json()["error"]["code"]) == (503, "scorer_unavailable")
    assert len(upstream.requests) == 4  # the second one was turned away before


@pytest.mark.parametrize("error", [RuntimeError("a"), ScoringError("NaN")])
def test_a_request_that_may_be_why_scoring_fails_tells_nobody_to_stay_away(http, upstream, error):
    with gateway(upstream, scorer=FakeScorer(good_is_safe, error=error)) as served:
        answer = ask(http, served)
    assert answer.status_code == 503
    assert "retry-after" not in answer.headers


def test_what_nobody_foresaw_is_a_500_without_its_text(http, upstream):
    def fail(_):
        raise OSError("a secret: the disk is full")

    with gateway(upstream, on_decision=fail) as served:
        answer = ask(http, served)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text


# ---- clients ----


def connect(served):
    return closing(socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE))


def head(length, *more):
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: x", "content-type: application/json"]
    return "\r\n".join([*lines, f"content-length: {length}", *more, "", ""]).encode()


def status_of(connection):
    received = b""
    while part := connection.recv(65536):
        received += part
    return received.split(b" ")[1] if received else None


BODY = json.dumps({"model": "m", "messages": ASK}).encode()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_ends_its_calls(stream):
    async def never():
        await asyncio.Event().wait()

    with upstream_server(Upstream(never)) as upstream, gateway(upstream) as served:
        body = json.dumps({"model": "m", "messages": ASK, "stream": stream}).encode()
        with connect(served) as connection:
            connection.sendall(head(len(body)) + body)
            assert upstream.asked.wait(PATIENCE)
        assert upstream.cancelled.wait(PATIENCE)


def test_a_client_that_hangs_up_while_scores_are_made():
    scoring, cancelled = threading.Event(), threading.Event()

    class Slow(FakeScorer):
        async def ascore(self, conversation, candidates):
            if len(candidates) == 1 and "ready" in str(conversation):
                return await super().ascore(conversation, candidates)
            scoring.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

    with upstream_server(Upstream(GOOD)) as upstream:
        slow = Slow(lambda prompt, answer: 0.9)
        with gateway(upstream, scorer=slow) as served:
            with connect(served) as connection:
                connection.sendall(head(len(BODY)) + BODY)
                assert scoring.wait(PATIENCE)
            assert cancelled.wait(PATIENCE)


def test_a_client_that_hangs_up_in_the_middle_of_its_body(http, upstream, served):
    with connect(served) as connection:
        connection.sendall(head(len(BODY)) + BODY[:10])
    assert ask(http, served).status_code == 200
    assert len(upstream.requests) == 4


def test_slow_bodies_and_heads_are_given_up_on():
    limits = {"body_seconds": 0.1, "head_seconds": 0.1}
    with gateway(limits=limits) as served:
        with connect(served) as connection:
            connection.sendall(head(1000) + b"{")
            assert status_of(connection) == b"408"
        with connect(served) as connection:
            connection.sendall(b"POST /v1/score HTTP/1.1\r\nhost: x\r\n")
            assert status_of(connection) is None
        with connect(served) as connection:
            assert status_of(connection) is None
        with connect(served) as connection:  # a second request on a connection that is kept
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            received = b""
            while not received.endswith(b"}"):
                received += connection.recv(1000)
            connection.sendall(b"GET /healthz HT")
            assert connection.recv(1000) == b""


def test_a_client_that_does_not_read_its_answer_keeps_no_place(http):
    long = says("good " * 200_000)
    with upstream_server(Upstream(long)) as upstream:
        limits = {"send_seconds": 0.2, "requests": 1}
        with gateway(upstream, limits=limits, policies=ONCE) as served, connect(served) as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = json.dumps({"model": "m", "messages": ASK, "stream": True}).encode()
            lazy.sendall(head(len(body)) + body)
            until(lambda: 'status="499"' in http.get(f"{served.root}/metrics").text)
            upstream.script(GOOD)
            assert ask(http, served).status_code == 200


@pytest.mark.parametrize("announced", [True, False])
def test_bodies_that_are_too_large(announced):
    with gateway(limits={"body_bytes": 1000}) as served, connect(served) as connection:
        if announced:
            connection.sendall(head(5000))
        else:
            chunk = b"400\r\n" + b"x" * 1024 + b"\r\n"
            request = head(0).replace(b"content-length: 0", b"transfer-encoding: chunked")
            connection.sendall(request + chunk)
        assert status_of(connection) == b"413"


def test_bodies_of_the_largest_size_are_read(http, upstream):
    with gateway(upstream, limits={"body_bytes": len(BODY)}) as served:
        headers = {"content-type": "application/json"}
        url = f"{served.url}/chat/completions"
        assert http.post(url, content=BODY, headers=headers).status_code == 200
        assert http.post(url, content=BODY + b" ", headers=headers).status_code == 413


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_only_json_is_read(http, served, kind):
    headers = {"content-type": kind} if kind else {}
    answer = http.post(f"{served.url}/chat/completions", content=BODY, headers=headers)
    assert answer.status_code == 415


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_bodies_that_are_packed_are_refused_by_name(http, upstream, served, encoding):
    headers = {"content-type": "application/json", "content-encoding": encoding}
    answer = http.post(f"{served.url}/chat/completions", content=BODY, headers=headers)
    assert answer.status_code == 415
    assert f"content-encoding: {encoding}" in answer.json()["error"]["message"]
    headers["content-encoding"] = "identity"
    answer = http.post(f"{served.url}/chat/completions", content=BODY, headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "content-type"])
def test_headers_that_decide_come_once(http, upstream, served, name):
    headers = [("content-type", "application/json"), (name, "a"), (name, "b")]
    answer = http.post(f"{served.url}/chat/completions", content=BODY, headers=headers)
    assert answer.status_code == 400
    assert f"'{name}' comes twice" in answer.json()["error"]["message"]
    assert upstream.requests == []


def test_pages_of_other_sites_are_told_nothing(http, served):
    headers = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    asked = http.request("OPTIONS", f"{served.url}/chat/completions", headers=headers)
    assert asked.status_code == 405
    assert not [name for name in asked.headers if name.startswith("access-control")]


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02", b"JUNK\r\n\r\n", b"GET / HTTP/9\r\n\r\n"])
def test_what_is_no_http(http, served, junk):
    with connect(served) as connection:
        connection.sendall(junk)
        assert status_of(connection) in (b"400", None)
    assert http.get(f"{served.root}/healthz").status_code == 200


def test_no_answer_is_crossed(http, upstream):
    """Each request's answer names the request."""

    class Echo(Upstream):
        async def __call__(self, scope, receive, send):
            message = await receive()
            asked = json.loads(message["body"])["messages"][-1]["content"]
            self.script(says(f"good {asked}"))

            async def replay():
                return message

            await super().__call__(scope, replay, send)

    with upstream_server(Echo()) as echo, gateway(echo) as served:

        def one(i):
            body = ask(http, served, messages=[{"role": "user", "content": f"request {i}"}]).json()
            return body["choices"][0]["message"]["content"]

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(one, range(64))) == [f"good request {i}" for i in range(64)]
