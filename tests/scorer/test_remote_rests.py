"""Servers that `RemoteScorer` leaves alone: those that ask for it, and those that fail."""

from __future__ import annotations

import asyncio
from functools import partial

import httpx2
import pytest
from servers import Upstream, upstream_server

import srr_guard.scorer.remote as remote
from srr_guard.errors import (
    InvalidInputError,
    ScorerBusyError,
    ScorerUnreachableError,
    ScoringError,
)
from srr_guard.scorer import RemoteScorer

TEXTS = ["a bad answer", "a good answer"]
RANKING = {"order": [1, 0], "scores": [0.1, 0.9], "p_safe": [0.1, 0.9]}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(remote.wait_random_exponential, "__call__", lambda *_: 0.0)


# ---- that name a time ----

BUSY = (429, {"retry-after": "7"})


@pytest.fixture
def clock(monkeypatch):
    """The time, which only sleeping moves; and how long was slept."""
    now, slept = [1000.0], []

    async def sleep(seconds):
        if seconds:
            slept.append(round(seconds, 6))
            now[0] += seconds

    made = partial(remote._Rests, clock=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(remote, "_Rests", made)
    return now, slept


def busy(*steps, urls=("http://a/v1",), **options):
    """A scorer whose servers answer with a status and headers; 200: with a ranking."""
    hosts, left = [], list(steps)

    def answer(request):
        hosts.append(request.url.host)
        step = left.pop(0) if len(left) > 1 else left[0]
        status, headers = step if isinstance(step, tuple) else (step, {})
        body = RANKING if status == 200 else {"error": {"message": "scripted"}}
        return httpx2.Response(status, json=body, headers=headers)

    return RemoteScorer(urls, transport=httpx2.MockTransport(answer), **options), hosts


DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("headers", "slept"),
    [
        ({"retry-after": "7"}, [7.0]),
        ({"Retry-After": "7.5"}, [7.5]),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:07 GMT", "date": DATE}, [7.0]),
        ({"retry-after-ms": "250", "retry-after": "1"}, [0.25]),
        ({"retry-after": "0"}, []),
        ({"retry-after": "-7"}, []),
        ({"retry-after": "soon"}, []),
        ({"retry-after": "inf"}, []),
        ({"retry-after": DATE}, []),
        ({}, []),
    ],
    ids=str,
)
def test_a_busy_server_is_asked_when_it_says(clock, status, headers, slept):
    scorer, hosts = busy((status, headers), 200)
    with scorer:
        assert scorer.score("q", TEXTS).order == (1, 0)
    assert (clock[1], len(hosts)) == (slept, 2)


def test_a_real_server_is_asked_when_it_says(clock):
    script = ({"status": 429, "headers": {"retry-after": "7"}}, {"status": 200, "body": RANKING})
    with upstream_server(Upstream(*script)) as server, RemoteScorer(server.url) as scorer:
        assert scorer.score("q", TEXTS).order == (1, 0)
        assert len(server.requests) == 2
    assert clock[1] == [7.0]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("seconds", ["31", "3600", "99999999999"])
def test_a_time_that_is_too_long_is_an_error_at_once(clock, status, seconds):
    scorer, hosts = busy((status, {"retry-after": seconds}), timeout=30.0)
    kind = ScorerBusyError if status == 429 else ScorerUnreachableError
    with scorer:
        said = rf"scripted; it wants to be asked again in {seconds}\.0 s"
        with pytest.raises(kind, match=said) as caught:
            scorer.score("q", TEXTS)
        assert caught.value.retry_after == float(seconds)
        assert not scorer.available
        with pytest.raises(ScorerBusyError, match="all 1 scorers have too much to do"):
            scorer.score("q", TEXTS)
        assert (clock[1], len(hosts)) == ([], 1)
        clock[0][0] += 60.0  # nobody is left alone for longer
        assert scorer.available
        with pytest.raises(kind):
            scorer.score("q", TEXTS)
        assert len(hosts) == 2


def test_waits_of_one_ranking_stay_within_its_timeout(clock):
    scorer, hosts = busy((429, {"retry-after": "20"}), timeout=30.0, attempts=9)
    with scorer, pytest.raises(ScorerBusyError, match="asked again in 20"):
        scorer.score("q", TEXTS)
    assert (clock[1], len(hosts)) == ([20.0], 2)


def test_another_server_is_asked_meanwhile(clock):
    scorer, hosts = busy((429, {"retry-after": "3600"}), 200, urls=["http://a/v1", "http://b/v1"])
    with scorer:
        for _ in range(3):
            assert scorer.score("q", TEXTS).order == (1, 0)
        assert scorer.available
    assert (hosts, clock[1]) == (["a", "b", "b", "b"], [])


def test_the_server_that_is_free_first_is_asked_first(clock):
    urls = ["http://a/v1", "http://b/v1"]
    scorer, hosts = busy(BUSY, (503, {"retry-after": "3"}), 200, urls=urls)
    with scorer:
        assert scorer.score("q", TEXTS).order == (1, 0)
    assert (hosts, clock[1]) == (["a", "b", "b"], [3.0])


def test_all_rankings_leave_a_busy_server_alone(clock):
    """And come back together: there is nothing to try out."""
    scorer, hosts = busy(BUSY, 200, attempts=1)
    with scorer:
        with pytest.raises(ScorerBusyError):
            scorer.score("q", TEXTS)

        async def many():
            return await asyncio.gather(*(scorer.ascore("q", TEXTS) for _ in range(8)))

        assert {ranking.order for ranking in asyncio.run(many())} == {(1, 0)}
    assert len(hosts) == 9
    assert clock[1][0] == 7.0


@pytest.mark.parametrize("status", [200, 301, 400, 404, 500])
def test_other_answers_name_no_time(clock, status):
    scorer, _ = busy((status, {"retry-after": "7"}), 200)
    with scorer:
        if status in (200, 500):
            assert scorer.score("q", TEXTS).order == (1, 0)
        else:
            with pytest.raises((ScoringError, InvalidInputError)):
                scorer.score("q", TEXTS)
    assert clock[1] == []


def test_a_busy_server_is_no_failure_and_a_broken_one_is_waited_for_by_nobody(clock):
    scorer, hosts = busy((503, {"retry-after": "1"}), attempts=6)
    with scorer:
        with pytest.raises(ScorerUnreachableError):
            scorer.score("q", TEXTS)
        assert len(hosts) == 6  # three failures would have shut it out
    assert clock[1] == [1.0] * 5


# ---- that fail ----


def test_where_no_other_is_left_one_ranking_a_second_tries_a_broken_one(monkeypatch):
    now, hosts, up = [0.0], [], set()
    made = partial(remote.CircuitBreaker, clock=lambda: now[0])
    monkeypatch.setattr(remote, "CircuitBreaker", made)

    def answer(request):
        hosts.append(request.url.host)
        if request.url.host not in up:
            raise httpx2.ConnectError("refused")
        return httpx2.Response(200, json=RANKING)

    urls = ["http://a/v1", "http://b/v1"]
    with RemoteScorer(urls, transport=httpx2.MockTransport(answer), attempts=1) as scorer:

        def ask():
            try:
                return scorer.score("q", TEXTS).order
            except ScorerUnreachableError as error:
                return error.retry_after

        for _ in range(6):
            ask()
        hosts.clear()
        for _ in range(80):  # eight a second, for ten seconds
            ask()
            now[0] += 0.125
        assert sorted(hosts) == ["a"] * 9 + ["b"] * 9
        up.add("b")
        now[0] += 1.0
        assert (1, 0) in (ask(), ask())
        hosts.clear()
        assert [ask() for _ in range(4)] == [(1, 0)] * 4
        assert hosts == ["b"] * 4  # the other one rests, for one is left
        assert scorer.available


def test_a_broken_one_is_tried_where_the_others_want_to_rest(clock, monkeypatch):
    made = partial(remote.CircuitBreaker, clock=lambda: clock[0][0])
    monkeypatch.setattr(remote, "CircuitBreaker", made)
    script = {"http://a/v1/score": httpx2.ConnectError("refused"), "http://b/v1/score": 200}
    hosts = []

    def answer(request):
        hosts.append(request.url.host)
        step = script[str(request.url)]
        if isinstance(step, Exception):
            raise step
        return httpx2.Response(step, json=RANKING, headers={"retry-after": "50"})

    urls = ["http://a/v1", "http://b/v1"]
    with RemoteScorer(urls, transport=httpx2.MockTransport(answer), timeout=30.0) as scorer:
        for _ in range(9):  # until the first one rests longer than a second
            scorer.score("q", TEXTS)
            clock[0][0] += 0.5
        clock[0][0] += 0.5
        script = {"http://a/v1/score": 200, "http://b/v1/score": 429}
        assert scorer.score("q", TEXTS).order == (1, 0)
        assert hosts[-2:] == ["b", "a"]
        assert scorer.score("q", TEXTS).order == (1, 0)
        assert hosts[-1] == "a"
    assert clock[1] == []
