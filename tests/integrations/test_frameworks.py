"""The guard where applications call it: web handlers, task workers, cells of a notebook."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from celery import Celery
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from flask import Flask, request

from srr_guard import (
    BelowThresholdError,
    DecisionPolicy,
    SafetyRanker,
    SamplingPolicy,
    srr_guard,
)
from srr_guard.policy import DEFAULT_REFUSAL
from srr_guard.testing import FakeScorer, ScriptedChatModel

STRICT = DecisionPolicy(below_threshold="raise")


def by_word(prompt: str, answer: str) -> float:
    return 0.9 if "good" in answer else 0.1


guarded = partial(srr_guard, scorer=FakeScorer(by_word), n=4)


class Model:
    """Answers every question badly first and well after; all badly where asked to."""

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}
        self._lock = threading.Lock()

    def __call__(self, question: str) -> str:
        with self._lock:
            self._asked[question] = n = self._asked.get(question, 0) + 1
        return f"good: {question}" if n > 1 and "never" not in question else f"bad: {question}"


def at_once(ask, questions: list[str]) -> list[str]:
    with ThreadPoolExecutor(len(questions)) as pool:
        return list(pool.map(ask, questions))


QUESTIONS = [f"question {i}" for i in range(8)]
GOOD = [f"good: {question}" for question in QUESTIONS]


class TestFlask:
    @pytest.fixture
    def app(self):
        app, model = Flask("app"), Model()

        @guarded()
        def answer(question: str) -> str:
            return f"{model(question)} for {request.args['user']}"

        @app.get("/ask")
        @guarded(prompt=lambda: request.args["q"])
        def ask():
            return model(request.args["q"])

        @app.get("/ask-inside")
        def ask_inside():
            return {"answer": answer(request.args["q"])}

        @app.get("/strict")
        @guarded(prompt=lambda: request.args["q"], decision=STRICT)
        def strict():
            return model(request.args["q"])

        @app.errorhandler(BelowThresholdError)
        def nothing_safe(error):
            return {"best": error.decision.ranking.best}, 422

        return app

    def test_view_itself(self, app):
        """Candidates see the request that they are made for."""
        assert app.test_client().get("/ask?q=why").text == "good: why"
        assert app.test_client().get("/ask?q=never").text == DEFAULT_REFUSAL

    def test_function_inside_a_view(self, app):
        response = app.test_client().get("/ask-inside?q=why&user=ann")
        assert response.json == {"answer": "good: why for ann"}

    def test_errors_reach_the_error_handlers(self, app):
        response = app.test_client().get("/strict?q=never")
        assert (response.status_code, response.json) == (422, {"best": 0})

    def test_requests_at_the_same_time(self, app):
        def ask(question):
            return app.test_client().get("/ask", query_string={"q": question}).text

        assert at_once(ask, QUESTIONS) == GOOD


class TestFastAPI:
    @pytest.fixture
    def client(self):
        app, model = FastAPI(), Model()

        @app.get("/sync")
        @guarded()
        def sync_handler(q: str) -> str:
            return model(q)

        @app.get("/async")
        @guarded()
        async def async_handler(q: str) -> str:
            await asyncio.sleep(0)
            return model(q)

        @guarded()
        def answer(question: str) -> str:
            return model(question)

        @app.get("/sync-from-async")
        async def sync_from_async(q: str) -> str:
            return (await answer.adecide(q)).output

        @app.get("/strict")
        @guarded(decision=STRICT)
        async def strict(q: str) -> str:
            return model(q)

        @app.exception_handler(BelowThresholdError)
        async def nothing_safe(request, error):
            return JSONResponse({"best": error.decision.ranking.best}, 422)

        with TestClient(app) as client:
            yield client

    @pytest.mark.parametrize("path", ["sync", "async", "sync-from-async"])
    def test_handler(self, client, path):
        assert client.get(f"/{path}?q=why").json() == "good: why"
        assert client.get(f"/{path}?q=never").json() == DEFAULT_REFUSAL

    def test_errors_reach_the_error_handlers(self, client):
        response = client.get("/strict?q=never")
        assert (response.status_code, response.json()) == (422, {"best": 0})

    @pytest.mark.parametrize("path", ["sync", "async"])
    def test_parameters_are_still_checked(self, client, path):
        """FastAPI reads the function's own signature through the guard."""
        assert client.get(f"/{path}").status_code == 422

    @pytest.mark.parametrize("path", ["sync", "async", "sync-from-async"])
    def test_requests_at_the_same_time(self, client, path):
        def ask(question):
            return client.get(f"/{path}", params={"q": question}).json()

        assert at_once(ask, QUESTIONS) == GOOD


class TestCelery:
    @pytest.fixture
    def tasks(self):
        app = Celery("app", set_as_current=False)
        app.conf.task_always_eager = True
        model = Model()

        @app.task(name="answer", shared=False)
        @guarded()
        def answer(question: str) -> str:
            return model(question)

        @app.task(name="strict", bind=True, shared=False)
        @guarded(prompt="question", decision=STRICT)
        def strict(task, question: str) -> str:
            return f"{model(question)} by {task.name}"

        return app.tasks

    def test_task(self, tasks):
        assert tasks["answer"].delay("why").get() == "good: why"
        assert tasks["answer"].delay("never").get() == DEFAULT_REFUSAL

    def test_bound_task(self, tasks):
        assert tasks["strict"].delay("why").get() == "good: why by strict"

    def test_failure_is_the_result_of_the_task(self, tasks):
        result = tasks["strict"].delay("never")
        assert result.failed()
        with pytest.raises(BelowThresholdError):
            result.get()

    def test_workers_at_the_same_time(self, tasks):
        assert at_once(lambda q: tasks["answer"].delay(q).result, QUESTIONS) == GOOD


class TestNotebook:
    """A cell is run by a loop that is running already; sync calls are made all the same."""

    async def test_sync_function(self):
        assert guarded()(Model().__call__)("why") == "good: why"

    async def test_generator(self):
        model = Model()

        @guarded()
        def pieces(question: str):
            yield from model(question).partition(": ")

        assert list(pieces("why")) == ["good", ": ", "why"]

    async def test_sync_methods_of_a_ranker(self):
        ranker = SafetyRanker(
            ScriptedChatModel(answers=["bad", "good"]),
            scorer=FakeScorer(by_word),
            sampling=SamplingPolicy(n=2),
        )
        assert ranker.invoke("why").content == "good"
        assert [chunk.content for chunk in ranker.stream("why")] == ["good"]
        assert [m.content for m in ranker.batch(["why", "how"])] == ["good", "good"]
        assert (await ranker.ainvoke("why")).content == "good"

    async def test_async_function_is_awaited(self):
        model = Model()

        @guarded()
        async def answer(question: str) -> str:
            return model(question)

        assert await answer("why") == "good: why"
