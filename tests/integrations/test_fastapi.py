"""Endpoints of a FastAPI app that answer through the dependency."""

from __future__ import annotations

import asyncio
import doctest
import itertools
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import srr_guard_integrations.fastapi as adapter
from adapters import REFUSAL, STRICT, guard_by_word
from fastapi import Depends, FastAPI, Response
from fastapi.testclient import TestClient
from langchain_core.messages import AIMessageChunk
from pydantic import BaseModel
from srr_guard_integrations.fastapi import RequestGuard, SafetyDependency

from srr_guard import DecisionPolicy
from srr_guard.errors import ConfigurationError
from srr_guard.policy import GatePolicy
from srr_guard.testing import FakeGate, FakeScorer


class Reply(BaseModel):
    text: str


def client_of(*answers: Any, **settings: Any) -> Iterator[TestClient]:
    safety = SafetyDependency(guard=guard_by_word(**settings))
    app, script = FastAPI(), itertools.cycle(answers)
    given: Any = Depends(safety)

    def say() -> str:
        given = next(script)
        if isinstance(given, Exception):
            raise given
        return given

    async def asay() -> str:
        await asyncio.sleep(0)
        return say()

    @app.get("/sync")
    def sync(q: str, guard: RequestGuard = given) -> str:
        return guard.answer(q, say)

    @app.get("/async")
    async def a_sync(q: str, guard: RequestGuard = given) -> str:
        return await guard.aanswer(q, asay)

    @app.get("/check")
    def check(q: str, answer: str, guard: RequestGuard = given) -> str:
        return guard.check(q, answer)

    @app.get("/acheck")
    async def acheck(q: str, answer: str, guard: RequestGuard = given) -> dict[str, Any]:
        text = await guard.acheck(q, answer)
        assert guard.decision is not None
        return {"text": text, "passed": guard.decision.passed}

    @app.get("/object")
    async def typed(q: str, guard: RequestGuard = given) -> Reply:
        async def make() -> Reply:
            return Reply(text=await asay())

        return await guard.aanswer(q, make)

    @app.get("/stream", response_model=None)
    def stream(q: str, guard: RequestGuard = given) -> Any:
        return guard.stream(q, lambda: say().partition(" "))

    @app.get("/astream", response_model=None)
    async def astream(q: str, guard: RequestGuard = given) -> Any:
        async def pieces() -> AsyncIterator[str]:
            for piece in (await asay()).partition(" "):
                yield piece

        return await guard.astream(q, pieces)

    with TestClient(app) as client:
        yield client


@pytest.fixture
def client() -> Iterator[TestClient]:
    yield from client_of("a bad", "a good")


@pytest.fixture
def bad() -> Iterator[TestClient]:
    yield from client_of("bad")


@pytest.fixture
def strict() -> Iterator[TestClient]:
    yield from client_of("bad", decision=STRICT)


@pytest.mark.parametrize("path", ["sync", "async"])
class TestAnswers:
    def test_best_of_n(self, client, path):
        response = client.get(f"/{path}?q=why")
        assert (response.status_code, response.json()) == (200, "a good")
        assert response.headers["x-srr-guard"] == "best_of_n"

    def test_refusal(self, bad, path):
        response = bad.get(f"/{path}?q=why")
        assert (response.status_code, response.json()) == (200, REFUSAL)
        assert response.headers["x-srr-guard"] == "refused"

    def test_strict(self, strict, path):
        response = strict.get(f"/{path}?q=why")
        assert (response.status_code, response.json()["detail"]) == (
            422,
            "no answer may be passed on",
        )
        assert response.headers["x-srr-guard"] == "refused"

    def test_the_gate_refuses(self, path):
        gate = {"gate": FakeGate(lambda _: 0.9), "gating": GatePolicy(refuse_above=0.8)}
        for decision, status in ((DecisionPolicy(), 200), (STRICT, 422)):
            (client,) = client_of("good", decision=decision, **gate)
            response = client.get(f"/{path}?q=why")
            assert response.status_code == status
            assert response.headers["x-srr-guard"] == "refused_by_gate"

    def test_an_empty_prompt(self, client, path):
        assert client.get(f"/{path}?q=").status_code == 422

    def test_a_model_that_fails(self, path):
        (client,) = client_of(RuntimeError("secret"))
        response = client.get(f"/{path}?q=why")
        assert response.status_code == 502
        assert "secret" not in response.text

    def test_a_scorer_that_fails(self, path):
        broken = FakeScorer(lambda *_: 0.9, error=RuntimeError("secret"))
        (client,) = client_of("good", scorer=broken)
        response = client.get(f"/{path}?q=why")
        assert response.status_code == 503
        assert "good" not in response.text

    def test_requests_at_the_same_time(self, client, path):
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda _: client.get(f"/{path}?q=why"), range(8)))
        assert {response.status_code for response in got} == {200}
        assert {response.json() for response in got} <= {"a good", REFUSAL}


class TestChecks:
    def test_sync(self, client):
        assert client.get("/check?q=why&answer=good").json() == "good"
        response = client.get("/check?q=why&answer=bad")
        assert (response.json(), response.headers["x-srr-guard"]) == (REFUSAL, "refused")

    def test_async(self, client):
        assert client.get("/acheck?q=why&answer=bad").json() == {"text": REFUSAL, "passed": False}
        assert client.get("/acheck?q=why&answer=good").json()["passed"]


class TestObjects:
    def test_chosen(self, client):
        assert client.get("/object?q=why").json() == {"text": "a good"}

    def test_a_refusal_has_no_form(self, bad):
        assert bad.get("/object?q=why").status_code == 422


@pytest.mark.parametrize("path", ["stream", "astream"])
class TestStreams:
    def test_selects_then_emits(self, client, path):
        with client.stream("GET", f"/{path}?q=why") as response:
            assert "".join(response.iter_text()) == "a good"
            assert response.headers["x-srr-guard"] == "best_of_n"
            assert response.headers["content-type"].startswith("text/plain")

    def test_refusal(self, bad, path):
        assert bad.get(f"/{path}?q=why").text == REFUSAL

    def test_strict(self, strict, path):
        assert strict.get(f"/{path}?q=why").status_code == 422


@pytest.mark.parametrize("piece", [AIMessageChunk("good"), {"good": 1}])
def test_pieces_that_are_no_text(piece):
    guard = SafetyDependency(guard=guard_by_word())(Response())
    with pytest.raises(ConfigurationError, match=f"{type(piece).__name__!r}.*yield str"):
        guard.stream("why", lambda: [piece])


def test_settings():
    with pytest.raises(ConfigurationError, match="threshold"):
        SafetyDependency(guard=guard_by_word(), threshold=0.9)
    assert SafetyDependency(n=2, threshold=0.9).guard.decision.threshold == 0.9


def test_docstring():
    assert doctest.testmod(adapter).failed == 0
