"""Who may ask, and what a page from here may do."""

from __future__ import annotations

import httpx2
import pytest
from playgrounds import Served, run, serve_playground

from srr_guard.errors import ConfigurationError
from srr_guard.playground.door import HEADERS, Door
from srr_guard.playground.server import listen_here

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
API = [
    ("GET", "/api/setup"),
    ("POST", "/api/run"),
    ("POST", "/api/decide"),
    ("POST", "/api/explain"),
    ("GET", "/api/history"),
    ("GET", "/api/runs/x"),
    ("POST", "/api/label"),
    ("GET", "/api/export"),
]


@pytest.fixture(scope="module")
def shared():
    with serve_playground() as running:
        yield running


@pytest.fixture
def stranger(shared: Served):
    with httpx2.Client(base_url=shared.root, timeout=20.0, trust_env=False) as client:
        yield client


@pytest.mark.parametrize(("method", "path"), API)
def test_the_api_needs_the_cookie(stranger, method, path):
    response = stranger.request(method, path, json={} if method == "POST" else None)
    assert response.status_code == 401
    assert "open the link" in response.json()["error"]["message"]


@pytest.mark.parametrize("cookie", ["", "x=y", "srr_guard_playground_1=a", ";;;=", 'a="\\'])
def test_other_cookies_do_not_open_it(stranger, cookie):
    assert stranger.get("/api/setup", headers={"cookie": cookie}).status_code == 401


def test_the_link_opens_it(shared, stranger):
    token = shared.link.partition("token=")[2]
    answer = stranger.post("/api/session", json={"token": token})
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert token not in cookie
    assert {"HttpOnly", "SameSite=Strict", "Path=/api/"} <= set(cookie.split("; "))
    assert stranger.get("/api/setup").status_code == 200


@pytest.mark.parametrize("token", ["", "wrong", "ü", "x" * 200])
def test_another_token_does_not(stranger, token):
    answer = stranger.post("/api/session", json={"token": token})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "", "[::1]"])
@pytest.mark.parametrize("path", ["/", "/static/main.js", "/api/setup"])
def test_a_foreign_name_is_not_answered(stranger, host, path):
    """DNS rebinding: the browser believes that it asks another site."""
    answer = stranger.get(path, headers={"host": host})
    assert answer.status_code == 421
    assert answer.json()["error"]["code"] == "wrong_host"


def test_its_own_names_are_answered(shared, stranger):
    port = shared.root.rpartition(":")[2]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}"):
        assert stranger.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},  # another port of this machine is the same site
    ],
)
def test_other_pages_are_not_answered(shared, headers):
    with shared.client() as client:
        answer = client.post("/api/decide", json={"run": "x", "columns": [{}]}, headers=headers)
        assert answer.status_code == 403
        own = {"origin": shared.root, "sec-fetch-site": "same-origin"}
        assert client.get("/api/setup", headers=own).status_code == 200


def test_every_answer_carries_the_policy(shared):
    with shared.client() as client:
        answers = [
            client.get("/"),
            client.get("/static/style.css"),
            client.get("/nothing"),
            client.get("/api/setup"),
            client.get("/api/runs/none"),
            client.get("/", headers={"host": "evil.example"}),
            client.post("/api/run", json={}),
        ]
        with client.stream(
            "POST", "/api/run", json={"prompt": "plants", "columns": [{}]}
        ) as streamed:
            answers.append(streamed)
            streamed.read()
    assert [answer.status_code for answer in answers] == [200, 200, 404, 200, 400, 421, 422, 200]
    for answer in answers:
        assert answer.headers["content-security-policy"] == CSP
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert HEADERS.items() <= dict(answer.headers).items()


def test_nothing_on_the_page_needs_more_than_the_policy_allows(stranger):
    page = stranger.get("/").text
    assert " style=" not in page
    assert " onclick" not in page
    assert "<script>" not in page
    assert "http://" not in page
    assert "https://" not in page
    for name in ("main", "api", "column", "card", "dom", "theme"):
        script = stranger.get(f"/static/{name}.js")
        assert script.headers["content-type"].startswith("text/javascript")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in script.text


@pytest.mark.parametrize("path", ["/static/..%2fapp.py", "/static/../app.py", "/static/app.py"])
def test_no_other_file_is_served(stranger, path):
    assert stranger.get(path).status_code == 404


def test_bodies_have_limits(shared):
    with shared.client() as client:
        large = client.post("/api/run", json={"prompt": "x" * 1_100_000, "columns": [{}]})
        assert large.status_code == 413
        plain = client.post(
            "/api/run", content="prompt=x", headers={"content-type": "application/x-www-form"}
        )
        assert plain.status_code == 415
        long = client.post("/api/run", json={"prompt": "x" * 20_001, "columns": [{}]})
        assert long.status_code == 422
        assert "prompt" in long.json()["error"]["message"]
        assert client.get("/api/setup").status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", "", "10.0.0.1"])
def test_only_this_machine_may_be_listened_on(host):
    with pytest.raises(ConfigurationError, match="this machine only") as caught:
        listen_here(host, 0)
    assert repr(host) in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_loopback_addresses_are(host):
    listen_here(host, 0).close()


def test_the_link_of_an_ipv6_address():
    door = Door(None, host="::1", port=8322, token="t")  # type: ignore[arg-type]
    assert door.link == "http://[::1]:8322/#token=t"


def test_two_playgrounds_do_not_share_a_cookie(shared):
    with serve_playground() as other, shared.client() as client:
        cookies = {**client.cookies}
        answer = httpx2.get(f"{other.root}/api/setup", cookies=cookies, trust_env=False)
        assert answer.status_code == 401
        assert run(client)["done"]
