"""Whether scores can be made: at the start, and after the scorer was lost."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import ExitStack
from functools import partial

from servers import ASK, gateway, good_is_safe, until

from srr_guard.breaker import CircuitBreaker
from srr_guard.scorer import RemoteScorer
from srr_guard.testing import FakeScorer


def ask(http, served):
    return http.post(f"{served.url}/chat/completions", json={"model": "m", "messages": ASK})


def test_ready_only_when_a_score_has_been_made(http):
    let_go = threading.Event()

    class Loading(FakeScorer):
        async def ascore(self, conversation, candidates):
            while not let_go.is_set():
                await asyncio.sleep(0.005)
            return await super().ascore(conversation, candidates)

    with gateway(scorer=Loading(good_is_safe)) as served:
        before = http.get(f"{served.root}/readyz")
        assert http.get(f"{served.root}/healthz").json() == {"status": "ok"}
        let_go.set()
        until(lambda: http.get(f"{served.root}/readyz").status_code == 200)
        assert "srr_guard_ready 1.0" in http.get(f"{served.root}/metrics").text
    assert (before.status_code, before.json()["reason"]) == (503, "no score has been made yet")


def test_a_scorer_that_cannot_be_loaded_is_tried_again(http, monkeypatch):
    monkeypatch.setattr("srr_guard.serving.gateway._FIRST_WAIT", 0.01)
    tries = 0

    class Broken(FakeScorer):
        async def ascore(self, conversation, candidates):
            nonlocal tries
            tries += 1
            if tries < 3:
                raise OSError("a secret path")
            return await super().ascore(conversation, candidates)

    with gateway(scorer=Broken(good_is_safe)) as served:
        seen = []

        def is_ready():
            seen.append(http.get(f"{served.root}/readyz"))
            return seen[-1].status_code == 200

        until(is_ready)
        assert "secret" not in "".join(answer.text for answer in seen)
    assert tries == 3


def test_a_scorer_elsewhere_is_looked_for_while_nobody_asks(http, upstream, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("srr_guard.serving.gateway._PROBE_EVERY", 0.01)
    now = [0.0]
    made = partial(CircuitBreaker, clock=lambda: now[0])
    monkeypatch.setattr("srr_guard.scorer.remote.CircuitBreaker", made)
    scores = {"conversation": "q", "candidates": ["good"]}
    with ExitStack() as first, ExitStack() as stack:
        port = first.enter_context(gateway()).port
        scorer = RemoteScorer(f"http://127.0.0.1:{port}/v1", attempts=1)
        served = stack.enter_context(gateway(upstream, scorer=scorer))

        def ready():
            return http.get(f"{served.root}/readyz").status_code == 200

        until(ready)
        first.close()
        for _ in range(3):
            assert http.post(f"{served.url}/score", json=scores).status_code == 503
        until(lambda: any("no scorer answers" in one for one in caplog.messages))
        now[0] += 1.0  # its rest is over, and nobody knows whether it is back
        answer = ask(http, served)
        assert (ready(), answer.status_code, upstream.requests) == (False, 503, [])
        stack.enter_context(gateway(port=port))
        now[0] += 5.0
        until(ready)
        assert sum("no scorer answers" in one for one in caplog.messages) == 1
        assert caplog.messages.count("a scorer answers again") == 1
        assert ask(http, served).status_code == 200


def test_a_scorer_that_breaks_later_is_not_ready_until_it_works_again(http, upstream, monkeypatch):
    monkeypatch.setattr("srr_guard.serving.gateway._PROBE_EVERY", 0.01)
    error = None

    class Breaking(FakeScorer):
        async def ascore(self, conversation, candidates):
            if error is not None and (candidates != ["the one it dies of"]) == error[1]:
                raise error[0]
            return await super().ascore(conversation, candidates)

    def ready():
        return http.get(f"{served.root}/readyz").status_code == 200

    with gateway(upstream, scorer=Breaking(good_is_safe)) as served:
        until(ready)
        body = {"conversation": "q", "candidates": ["the one it dies of"]}
        error = (RuntimeError("a secret"), False)
        assert http.post(f"{served.url}/score", json=body).status_code == 503
        assert ready()
        error = (RuntimeError("CUDA error"), True)
        assert ask(http, served).status_code == 503
        until(lambda: not ready())
        asked = len(upstream.requests)
        assert ask(http, served).json()["error"]["code"] == "scorer_unavailable"
        assert len(upstream.requests) == asked  # nothing is generated for nothing
        assert "srr_guard_ready 0.0" in http.get(f"{served.root}/metrics").text
        error = None
        until(ready)
        assert ask(http, served).status_code == 200
        assert "srr_guard_ready 1.0" in http.get(f"{served.root}/metrics").text
