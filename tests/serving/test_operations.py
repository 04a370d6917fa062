"""Keys, limits, health, metrics, logs, signals."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from servers import ASK, PATIENCE, Upstream, gateway, says, until, upstream_server

from srr_guard.errors import ConfigurationError
from srr_guard.serving import GatewayConfig
from srr_guard.serving.config import KeyConfig
from srr_guard.serving.keys import Keys, Meter
from srr_guard.serving.logs import JsonLines, TextLines
from srr_guard.serving.server import is_loopback, listen, warn_of_exposure

GOOD = says("a good answer")


def ask(http, served, key=None, **body):
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = {"model": "m", "messages": ASK, **body}
    return http.post(f"{served.url}/chat/completions", json=body, headers=headers)


class Gate:
    """An upstream's answer that waits to be let go."""

    def __init__(self, message=GOOD):
        self._message = message
        self._open = threading.Event()

    async def __call__(self):
        while not self._open.is_set():
            await asyncio.sleep(0.005)
        return self._message

    def open(self):
        self._open.set()


# ---- keys ----

DIGEST = hashlib.sha256(b"key-of-batch").hexdigest()
STRICT = {
    "policies": {"strict": {"decision": {"threshold": 0.95}}, "lax": {"sampling": {"n": 1}}},
    "keys": [
        {"name": "web", "key": "key-of-web", "policies": ["strict", "default"]},
        {"name": "batch", "sha256": DIGEST, "policies": ["lax"]},
    ],
}


def test_two_keys_have_two_policies(http, upstream):
    upstream.script(GOOD)
    with gateway(upstream, **STRICT) as served:
        web, batch = ask(http, served, "key-of-web"), ask(http, served, "key-of-batch")
        other = ask(http, served, "key-of-web", srr_guard={"policy": "default"})
        theirs = ask(http, served, "key-of-batch", srr_guard={"policy": "default"})
        metrics = http.get(f"{served.root}/metrics").text
    said = [answer.json()["srr_guard"] for answer in (web, batch)]
    assert [(one["policy"], one["reason"]) for one in said] == [
        ("strict", "refused"),
        ("lax", "best_of_n"),
    ]
    assert batch.json()["srr_guard"]["sampled"] == 1
    assert other.json()["srr_guard"]["policy"] == "default"
    assert theirs.status_code == 400
    assert 'key="web",status="200"' in metrics
    assert 'policy="strict",reason="refused"' in metrics


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic key-of-web"},
        {"authorization": "key-of-web"},
        {"authorization": "Bearer key-of-web extra"},
        {"x-api-key": "wrong"},
        {"authorization": b"Bearer \xff\xfe"},
        {"authorization": "Bearer wrong", "x-api-key": "key-of-web"},
    ],
)
def test_wrong_keys(http, upstream, headers):
    with gateway(upstream, **STRICT) as served:
        for path, content in (("chat/completions", b"{"), ("score", b"{}")):
            answer = http.post(
                f"{served.url}/{path}",
                content=content,
                headers={"content-type": "application/json", **headers},
            )
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert answer.json()["error"]["code"] == "invalid_api_key"
        for path in ("healthz", "readyz", "metrics"):
            assert http.get(f"{served.root}/{path}").status_code in (200, 503)
    assert upstream.requests == []


def test_keys_are_compared_whole():
    keys = Keys([KeyConfig(name="a", key="secret-a"), KeyConfig(name="b", key="secret-b")])
    found = keys.find({"authorization": "bearer secret-b"})
    assert found is not None
    assert found.name == "b"
    assert keys.find({"authorization": "Bearer secret-"}) is None
    assert not Keys([]).required


def test_a_rate_refills():
    now = 0.0
    meter = Meter(KeyConfig(name="a", key="k", requests_per_minute=2), clock=lambda: now)
    assert [meter.enter(), meter.enter(), meter.enter()] == [None, None, 30]
    now = 29.0
    assert meter.enter() == 1
    now = 30.0
    assert meter.enter() is None


def test_a_key_has_limits(http):
    gate = Gate()
    keys = [{"name": "a", "key": "key-of-a", "concurrent": 1}, {"name": "b", "key": "key-of-b"}]
    keys.append({"name": "c", "key": "key-of-c", "requests_per_minute": 1})
    with upstream_server(Upstream(gate)) as upstream, gateway(upstream, keys=keys) as served:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(ask, http, served, "key-of-a")
            assert upstream.asked.wait(PATIENCE)
            refused = ask(http, served, "key-of-a")
            gate.open()
            assert first.result().status_code == 200
        assert ask(http, served, "key-of-a").status_code == 200
        assert [ask(http, served, "key-of-c").status_code for _ in range(2)] == [200, 429]
        assert ask(http, served, "key-of-b").status_code == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


def test_load_is_shed_before_anything_is_generated(http):
    gate = Gate()
    with (
        upstream_server(Upstream(gate)) as upstream,
        gateway(upstream, limits={"requests": 2}) as served,
        ThreadPoolExecutor(2) as pool,
    ):
        first = [pool.submit(ask, http, served) for _ in range(2)]
        until(lambda: b"srr_guard_in_flight 2.0" in served.app.gateway.metrics.text())
        before = len(upstream.requests)
        shed = ask(http, served)
        health = http.get(f"{served.root}/healthz")
        gate.open()
        assert [answer.result().status_code for answer in first] == [200, 200]
        assert before <= len(upstream.requests) <= 8
    assert (shed.status_code, shed.headers["retry-after"]) == (429, "1")
    assert shed.json()["error"]["code"] == "overloaded"
    assert health.status_code == 200


def test_a_policy_limits_calls_over_all_requests_and_overrides(http):
    most, now = 0, 0

    class Counting(Upstream):
        async def __call__(self, scope, receive, send):
            nonlocal most, now
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            await super().__call__(scope, receive, send)
            now -= 1

    policies = {"default": {"sampling": {"max_in_flight": 3}}}
    with (
        upstream_server(Counting(GOOD)) as upstream,
        gateway(upstream, policies=policies) as served,
        ThreadPoolExecutor(8) as pool,
    ):
        wanted = [{}, {"n": 3}, {"threshold": 0.6}] * 4
        answers = pool.map(lambda own: ask(http, served, srr_guard=own), wanted)
        assert {answer.status_code for answer in answers} == {200}
    assert 1 <= most <= 3


# ---- health, metrics, logs ----


def test_metrics(http, upstream):
    with gateway(upstream) as served:
        ask(http, served)
        http.post(f"{served.url}/nowhere/{'x' * 50}", json={})
        http.post(f"{served.url}/score", json={"conversation": "q", "candidates": ["good"]})
        text = http.get(f"{served.root}/metrics").text
        assert http.get(f"{served.root}/metrics").headers["content-type"].startswith("text/plain")
    for line in (
        'srr_guard_requests_total{endpoint="/v1/chat/completions",key="",status="200"} 1.0',
        'srr_guard_requests_total{endpoint="other",key="",status="404"} 1.0',
        'srr_guard_requests_total{endpoint="/v1/score",key="",status="200"} 1.0',
        'srr_guard_decisions_total{policy="default",reason="best_of_n"} 1.0',
        'srr_guard_candidates_total{outcome="returned"} 4.0',
        'srr_guard_tokens_total{type="input"} 40.0',
        'srr_guard_request_seconds_count{endpoint="/v1/chat/completions"} 1.0',
        'srr_guard_phase_seconds_count{phase="scoring"} 1.0',
        "srr_guard_in_flight 0.0",
    ):
        assert line in text
    assert "good" not in text
    with gateway(metrics=False) as served:
        assert http.get(f"{served.root}/metrics").status_code == 404


def test_a_log_line_tells_all_but_the_text(http, upstream, caplog):
    caplog.set_level(logging.DEBUG)
    with gateway(upstream, **STRICT) as served:
        body = [{"role": "user", "content": "a secret question"}]
        ask(http, served, "key-of-web", messages=body)
        ask(http, served, "key-of-web", messages=[{"role": "secret"}])
        ask(http, served, "a-secret-key")
    records = [r for r in caplog.records if r.name == "srr_guard.requests"]
    lines = [json.loads(JsonLines().format(record)) for record in records]
    chat = [line for line in lines if line["endpoint"] == "/v1/chat/completions"]
    assert [line["status"] for line in chat] == [200, 400, 401]
    first = chat[0]
    assert (first["key"], first["policy"], first["reason"]) == ("web", "strict", "refused")
    assert (first["sampled"], first["failed"], first["level"]) == (4, 0, "info")
    assert [line.get("error") for line in chat] == [None, "InvalidInputError", "invalid_api_key"]
    assert "secret" not in json.dumps(lines)
    assert "a good answer" not in json.dumps(lines)


def test_a_json_line_of_an_exception_has_its_type_only():
    try:
        raise ValueError("a secret")
    except ValueError:
        record = logging.LogRecord("n", logging.ERROR, "f", 1, "it %s", ("broke",), sys.exc_info())
    line = json.loads(JsonLines().format(record))
    assert (line["message"], line["exception"]) == ("it broke", "ValueError")
    assert "secret" not in str(line)


@pytest.mark.parametrize("made", [JsonLines, TextLines])
def test_what_anybody_writes_begins_no_line_of_a_log(made):
    said = "a\r\n2026 ERROR forged\x1b[31m\u2028\x85\x7f\0\u202e\ud800"
    try:
        raise ValueError(said)
    except ValueError:
        record = logging.LogRecord("n", logging.ERROR, "f", 1, "it %s", (said,), sys.exc_info())
    line = made().format(record)
    assert line.isprintable()
    assert "forged" in line
    assert line.count("ValueError") == 1


def test_names_of_clients_and_servers_in_text_lines(http, upstream, caplog):
    caplog.set_level(logging.INFO)
    evil = "m\r\n2026 ERROR forged\x1b[31m"
    upstream.script({"status": 500, "body": {"error": {"message": evil}}})
    form = TextLines()
    policies = {"default": {"sampling": {"n": 1, "attempts": 1}}}
    with gateway(upstream, policies=policies) as served:
        headers = {"authorization": b"Bearer \xe9\x1b[31m", "x-request-id": b"a\tb\xc2\x85"}
        body = {"model": evil, "messages": ASK, "srr_guard": {"policy": evil}}
        http.post(f"{served.url}/chat/completions", json=body, headers=headers)
        http.post(f"{served.url}/chat/completions", json={**body, "srr_guard": None})
        http.post(f"{served.root}/v1/{'%0a%1b' * 3}", json={})
    lines = [form.format(record) for record in caplog.records]
    assert sum("endpoint=" in line for line in lines) == 3
    assert all(line.isprintable() for line in lines)
    assert not any("forged" in line for line in lines)


def test_the_audit_log_and_telemetry(http, upstream, tmp_path):
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with gateway(upstream, audit=tmp_path / "audit.jsonl", telemetry=True) as served:
        body = {"model": "m", "messages": ASK}
        headers = {"traceparent": parent}
        http.post(f"{served.url}/chat/completions", json=body, headers=headers)
    (line,) = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "best_of_n"
    assert "good" not in line
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert upstream.requests[0]["_headers"]["traceparent"].split("-")[1] == parent.split("-")[1]


def test_spans_are_named_by_method_and_path(http, monkeypatch):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    ours = SimpleNamespace(get_tracer=provider.get_tracer, SpanKind=trace.SpanKind)
    monkeypatch.setattr("srr_guard.serving.spans.trace", ours)
    with gateway(telemetry=True) as served:
        http.get(f"{served.url}/models")
        http.head(f"{served.root}/healthz")
        http.request("BREW", f"{served.url}/{'coffee' * 9}")
        until(lambda: len(exporter.get_finished_spans()) == 3)
    names = [span.name for span in exporter.get_finished_spans()]
    assert names == ["GET /v1/models", "HEAD /healthz", "HTTP other"]


@pytest.mark.parametrize(
    ("host", "warnings"), [("127.0.0.1", 0), ("::1", 0), ("localhost", 0), ("0.0.0.0", 2)]
)
def test_a_port_that_others_reach_is_warned_of(host, warnings, caplog):
    warn_of_exposure(GatewayConfig(host=host))
    assert len(caplog.records) == warnings
    assert is_loopback(host) == (warnings == 0)


# ---- signals ----


@contextmanager
def process(file: Path):
    """`serve` in a process of its own, once it listens; gives it and its address."""
    helpers = Path(__file__).parents[1] / "helpers"
    paths = [str(helpers), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    child = subprocess.Popen(
        [sys.executable, str(helpers / "gateway_process.py"), str(file)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    lines = []

    def read(until):
        for line in child.stderr:
            lines.append(json.loads(line))
            if until in lines[-1]["message"]:
                return lines[-1]["message"]
        raise AssertionError(lines)

    try:
        address = read("listening on").removeprefix("listening on ")
        read("ready")
        yield child, address, read
    finally:
        child.kill()
        child.wait()
        child.stderr.close()


def client():
    return httpx2.Client(timeout=60, trust_env=False)


def takes_no_more(address):
    try:
        httpx2.get(f"{address}/healthz", trust_env=False)
    except httpx2.TransportError:
        return True
    return False


def settings(file, upstream, *more):
    file.write_text("\n".join(["port: 0", "upstreams:", f"  - url: {upstream.url}", *more]))


def test_sigterm_finishes_what_was_accepted(tmp_path):
    gate = Gate()
    file = tmp_path / "serve.yaml"
    with upstream_server(Upstream(gate)) as upstream:
        settings(file, upstream)
        with process(file) as (child, address, _), client() as http:

            def one(i):
                body = {"model": "m", "messages": ASK, "stream": i % 2 == 0}
                return http.post(f"{address}/v1/chat/completions", json=body)

            with ThreadPoolExecutor(8) as pool:
                answers = [pool.submit(one, i) for i in range(8)]
                until(lambda: len(upstream.requests) == 32)
                child.send_signal(signal.SIGTERM)
                until(lambda: takes_no_more(address))
                gate.open()
                assert {answer.result().status_code for answer in answers} == {200}
            assert child.wait(PATIENCE) == -signal.SIGTERM  # as uvicorn ends, having cleaned up


@pytest.mark.parametrize("stream", [False, True])
def test_what_does_not_end_in_time_is_told_so(tmp_path, stream):
    file = tmp_path / "serve.yaml"
    with upstream_server(Upstream(Gate())) as upstream:
        settings(file, upstream, "limits: {shutdown_seconds: 1}")
        with process(file) as (child, address, _), client() as http, ThreadPoolExecutor(1) as pool:
            body = {"model": "m", "messages": ASK, "stream": stream}
            asked = pool.submit(http.post, f"{address}/v1/chat/completions", json=body)
            assert upstream.asked.wait(PATIENCE)
            child.send_signal(signal.SIGTERM)
            answer = asked.result()
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["error"] == {
                "message": "the server stops",
                "type": "server_error",
                "param": None,
                "code": "shutting_down",
            }
            assert child.wait(PATIENCE) == -signal.SIGTERM


def test_sighup_takes_over_policies_and_keys_and_drops_nothing(tmp_path):
    gate = Gate()
    file = tmp_path / "serve.yaml"
    with upstream_server(Upstream(gate)) as upstream:
        settings(file, upstream)
        with process(file) as (child, address, read), client() as http:

            def one(**headers):
                body = {"model": "m", "messages": ASK}
                return http.post(f"{address}/v1/chat/completions", json=body, headers=headers)

            with ThreadPoolExecutor(1) as pool:
                first = pool.submit(one)
                assert upstream.asked.wait(PATIENCE)
                strict = ["policies:", "  default:", "    decision: {threshold: 0.95}"]
                settings(file, upstream, *strict, "keys:", "  - {name: a, key: key-of-a}")
                child.send_signal(signal.SIGHUP)
                read("were read again")
                assert one().status_code == 401
                gate.open()
                assert first.result().json()["srr_guard"]["reason"] == "best_of_n"
            key = {"authorization": "Bearer key-of-a"}
            assert one(**key).json()["srr_guard"]["reason"] == "refused"
            settings(file, upstream, "policies: {default: {decision: {threshold: 7}}}")
            child.send_signal(signal.SIGHUP)
            assert "serve.yaml:4: policies.default.decision.threshold=7" in read("not read again")
            assert one(**key).json()["srr_guard"]["reason"] == "refused"
            metrics = http.get(f"{address}/metrics").text
            assert 'srr_guard_reloads_total{outcome="refused"} 1.0' in metrics


def test_a_port_that_is_taken(tmp_path, upstream):
    with listen(GatewayConfig(port=0)) as bound:
        assert bound.proto == socket.IPPROTO_TCP  # or asyncio leaves Nagle's algorithm on
        port = bound.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port={port}: cannot listen there"):
            listen(GatewayConfig(port=port))
