"""Errors in OpenAI's form, at every door and for every method."""

from __future__ import annotations

import json

import pytest
from servers import ASK, gateway, good_is_safe, until

from srr_guard.errors import ScoringError
from srr_guard.testing import FakeScorer

READ = ("/healthz", "/readyz", "/metrics", "/v1/models", "/v1/models/m", "/openapi.json")
SENT = ("chat/completions", "responses", "score", "rank", "explain", "checks", "decisions")
POSTED = (*(f"/v1/{name}" for name in SENT), "/beta/litellm_basic_guardrail_api")


@pytest.mark.parametrize("path", READ)
def test_what_may_be_read_gives_its_head_alone(http, served, path):
    until(lambda: http.get(f"{served.root}/readyz").status_code == 200)
    whole, head = http.get(f"{served.root}{path}"), http.head(f"{served.root}{path}")
    assert (whole.status_code, head.status_code, head.content) == (200, 200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "GET", "HEAD", "BREW"])
@pytest.mark.parametrize("path", [*READ, *POSTED])
def test_a_method_that_is_not_served(http, served, path, method):
    if path in READ and method in ("GET", "HEAD"):
        method = "POST"
    answer = http.request(method, f"{served.root}{path}")
    allowed = "GET, HEAD" if path in READ else "POST"
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        assert answer.json()["error"] == {
            "message": f"{method} is not served here: use {allowed}",
            "type": "invalid_request_error",
            "param": None,
            "code": "method_not_supported",
        }


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/chat/completions/", "/v1/embeddings", "/docs"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD"])
def test_a_path_that_is_not_served(http, served, path, method):
    answer = http.request(method, f"{served.root}{path}")
    assert answer.status_code == 404
    assert "allow" not in answer.headers
    if method != "HEAD":
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "not_found")


WELL = {
    "completions": {"model": "m", "messages": ASK},
    "responses": {"model": "m", "input": "q"},
    "score": {"conversation": "q", "candidates": ["good"]},
    "rank": {"conversation": "q", "candidates": ["good"]},
    "explain": {"conversation": "q", "answer": "good"},
    "checks": {"conversation": "q", "answer": "good"},
    "decisions": {
        "model": "m",
        "input": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
        "questions": [{"type": "predicate", "instructions": "safe"}],
    },
    "litellm_basic_guardrail_api": {
        "input_type": "response",
        "structured_messages": ASK,
        "texts": ["good"],
    },
}


@pytest.mark.parametrize("status", [400, 401, 413, 415, 429, 503])
def test_every_door_has_one_form_of_errors(http, upstream, status):
    keys = [{"name": "a", "key": "key-of-a"}]
    keys = [{**keys[0], "requests_per_minute": 1}] if status == 429 else keys
    sent = {"content-type": "application/json", "authorization": "Bearer key-of-a"}
    sent |= {401: {"authorization": "Bearer no"}, 415: {"content-type": "text/x"}}.get(status, {})
    kinds = {429: "rate_limit_error", 503: "server_error"}
    scorer = FakeScorer(good_is_safe, error=ScoringError("a secret"))
    settings = {"scorer": scorer, "keys": keys, "limits": {"body_bytes": 500}}
    with gateway(upstream, **settings) as served:
        if status == 429:
            http.get(f"{served.url}/models", headers=sent)
        for path in POSTED:
            body = json.dumps(WELL[path.rpartition("/")[2]]).encode()
            body = {400: b"{", 413: b" " * 501}.get(status, body)
            answer = http.post(f"{served.root}{path}", content=body, headers=sent)
            explains = path.endswith("explain") and status == 503
            assert answer.status_code == (501 if explains else status), (path, answer.text)
            error = answer.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert error["type"] == kinds.get(status, "invalid_request_error")
            assert error["code"]
            assert "secret" not in answer.text
            assert ("retry-after" in answer.headers) == (status == 429)
