"""`RemoteScorer`: over HTTP, against servers that answer, fail, and come back."""

from __future__ import annotations

import asyncio
import doctest
import json
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx2
import pytest
from servers import ASK, PATIENCE, Upstream, gateway, until, upstream_server

import srr_guard.scorer.remote as remote
from srr_guard import Conversation, Guard, ResponseScorer
from srr_guard.errors import (
    ConfigurationError,
    InvalidInputError,
    MissingExtraError,
    ScorerBusyError,
    ScorerUnreachableError,
    ScoringError,
)
from srr_guard.scorer import RemoteScorer
from srr_guard.testing import FakeScorer

TEXTS = ["a bad answer", "a good answer"]
RANKING = {"order": [1, 0], "scores": [0.1, 0.9], "p_safe": [0.1, 0.9]}


def scripted(*steps, urls=("http://a/v1",), **options):
    """A scorer whose servers follow a script: statuses, bodies, exceptions."""
    seen: list[httpx2.Request] = []
    left = list(steps)

    def answer(request):
        seen.append(request)
        step = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(step, Exception):
            raise step
        if isinstance(step, int):
            return httpx2.Response(step, json={"error": {"message": "scripted"}})
        return (
            httpx2.Response(200, json=step)
            if isinstance(step, dict)
            else httpx2.Response(200, text=step)
        )

    scorer = RemoteScorer(urls, transport=httpx2.MockTransport(answer), **options)
    return scorer, seen


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(remote.wait_random_exponential, "__call__", lambda *_: 0.0)


def test_it_is_a_scorer_like_any_other():
    with gateway() as served, RemoteScorer(served.url) as scorer:
        assert isinstance(scorer, ResponseScorer)
        asked = Conversation.of(
            [("system", "Be brief."), ("user", "q"), ("ai", "a"), ("user", "r")]
        )
        assert scorer.score(asked, TEXTS).order == (1, 0)
        assert scorer.score(ASK, TEXTS).p_safe == (0.1, 0.9)
        assert scorer.score("lone \ud800", ["good \ud800"]).p_safe == (0.9,)
        assert Guard(scorer=scorer).choose("q", TEXTS).output == "a good answer"


async def test_async():
    with gateway() as served, RemoteScorer(served.url) as scorer:
        found = await asyncio.gather(*(scorer.ascore("q", TEXTS) for _ in range(20)))
        assert {ranking.order for ranking in found} == {(1, 0)}
        assert (await Guard(scorer=scorer).achoose("q", TEXTS)).output == "a good answer"


def test_many_threads_and_loops_share_one():
    with (
        gateway(fn=lambda prompt, answer: float(answer) / 100) as served,
        RemoteScorer(served.url, connections=4) as scorer,
        ThreadPoolExecutor(16) as pool,
    ):

        def one(i):
            if i % 2:
                return asyncio.run(scorer.ascore("q", [str(i)])).p_safe[0]
            return scorer.score("q", [str(i)]).p_safe[0]

        assert list(pool.map(one, range(64))) == [i / 100 for i in range(64)]


def test_the_key_is_sent():
    with gateway(keys=[{"name": "a", "key": "key-of-a"}]) as served:
        with RemoteScorer(served.url, key="key-of-a") as scorer:
            assert scorer.score("q", TEXTS).order == (1, 0)
        with RemoteScorer(served.url) as scorer, pytest.raises(ScoringError, match="give `key=`"):
            scorer.score("q", TEXTS)


FAULTS = [
    500,
    502,
    503,
    504,
    408,
    "no json",
    "[]",
    {"order": [0]},
    {**RANKING, "p_safe": [0.1, float(7)]},
    {"order": [0], "scores": [0.1], "p_safe": [0.1]},
    httpx2.ConnectError("refused"),
    httpx2.ReadTimeout("slow"),
    httpx2.RemoteProtocolError("cut off"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_tried_again(fault):
    scorer, seen = scripted(fault, RANKING)
    with scorer:
        assert scorer.score("q", TEXTS).order == (1, 0)
    assert len(seen) == 2


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_that_stays_is_an_error(fault):
    scorer, seen = scripted(fault, attempts=2)
    with scorer, pytest.raises(ScorerUnreachableError):
        scorer.score("q", TEXTS)
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("status", "error", "calls"),
    [
        (429, ScorerBusyError, 3),
        (400, InvalidInputError, 1),
        (413, InvalidInputError, 1),
        (422, InvalidInputError, 1),
        (401, ScoringError, 1),
        (403, ScoringError, 1),
        (404, ScoringError, 1),
        (301, ScoringError, 1),
        (418, ScoringError, 1),
    ],
)
def test_what_another_call_would_not_mend(status, error, calls):
    scorer, seen = scripted(status)
    with scorer, pytest.raises(error):
        scorer.score("q", TEXTS)
    assert len(seen) == calls
    assert scorer.available


# ---- servers that name a time ----

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


def test_servers_take_turns_and_a_broken_one_is_left_alone():
    hosts = []

    def answer(request):
        hosts.append(request.url.host)
        if request.url.host == "b":
            raise httpx2.ConnectError("refused")
        return httpx2.Response(200, json=RANKING)

    urls = ["http://a/v1", "http://b/v1", "http://c/v1"]
    with RemoteScorer(urls, transport=httpx2.MockTransport(answer)) as scorer:
        for _ in range(12):
            scorer.score("q", TEXTS)
    assert hosts.count("b") == 3
    assert hosts[:3] == ["a", "b", "c"]
    assert min(hosts.count("a"), hosts.count("c")) >= 5


def test_with_all_servers_broken_none_is_asked():
    scorer, seen = scripted(httpx2.ConnectError("refused"))
    with scorer:
        for _ in range(2):
            with pytest.raises(ScorerUnreachableError):
                scorer.score("q", TEXTS)
        assert len(seen) == 3
        assert not scorer.available
        with pytest.raises(ScorerUnreachableError, match="all 1 scorers have failed"):
            scorer.score("q", TEXTS)


def test_a_ranking_that_makes_a_server_fail_shuts_nobody_out():
    scorer, seen = scripted(500)
    with scorer:
        with pytest.raises(ScorerUnreachableError):
            scorer.score("the one it dies of", TEXTS)
        assert len(seen) == 3
        assert scorer.available
        for _ in range(2):
            with pytest.raises(ScorerUnreachableError):
                scorer.score("q", TEXTS)
        assert not scorer.available


def test_no_free_connection_is_no_failure_of_the_server():
    scorer, _ = scripted(httpx2.PoolTimeout(""))
    with scorer:
        for _ in range(3):
            with pytest.raises(ScorerBusyError, match="connections"):
                scorer.score("q", TEXTS)
        assert scorer.available


def test_a_server_comes_back_by_one_trial_that_may_be_given_up(monkeypatch):
    now = [0.0]
    made = partial(remote.CircuitBreaker, clock=lambda: now[0])
    monkeypatch.setattr(remote, "CircuitBreaker", made)
    up = False
    begun, hosts = threading.Event(), []

    async def answer(request):
        hosts.append(request.url.host)
        if len(hosts) < 4:
            raise httpx2.ConnectError("refused")
        if not up:
            begun.set()
            await asyncio.Event().wait()
        return httpx2.Response(200, json=RANKING)

    async def trial():
        task = asyncio.ensure_future(scorer.ascore("q", TEXTS))
        while not begun.is_set():
            await asyncio.sleep(0)
        with pytest.raises(ScorerUnreachableError, match=r"asked in 1\.0 s"):
            await scorer.ascore("q", TEXTS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    scorer = RemoteScorer("http://a/v1", transport=httpx2.MockTransport(answer))
    with scorer:
        with pytest.raises(ScorerUnreachableError):
            scorer.score("q", TEXTS)
        assert not scorer.available
        now[0] += 1.0
        asyncio.run(trial())
        assert len(hosts) == 4  # one trial
        until(lambda: scorer.available)
        up = True
        assert scorer.score("q", TEXTS).order == (1, 0)


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


@pytest.mark.parametrize("policy", ["refuse", "raise"])
def test_a_guard_passes_nothing_on_unscored(policy):
    from srr_guard import DecisionPolicy

    scorer, _ = scripted(500)
    guard = Guard(scorer=scorer, decision=DecisionPolicy(scorer_error=policy))
    with scorer:
        if policy == "raise":
            with pytest.raises(ScoringError):
                guard.choose("q", TEXTS)
        else:
            assert guard.choose("q", TEXTS).reason == "refused"


async def test_a_cancelled_call_is_ended():
    begun, ended = threading.Event(), threading.Event()

    class Slow(FakeScorer):
        async def ascore(self, conversation, candidates):
            if candidates != ["slow"]:
                return await super().ascore(conversation, candidates)
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.set()
                raise

    with gateway(scorer=Slow(lambda p, a: 0.9)) as served, RemoteScorer(served.url) as scorer:
        call = asyncio.create_task(scorer.ascore("q", ["slow"]))
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        call.cancel()
        assert await asyncio.to_thread(ended.wait, PATIENCE)


def test_a_server_that_takes_too_long():
    class Slow(FakeScorer):
        async def ascore(self, conversation, candidates):
            await asyncio.Event().wait()

    with (
        gateway(scorer=Slow(lambda p, a: 0.9)) as served,
        RemoteScorer(served.url, timeout=0.05, attempts=1) as scorer,
        pytest.raises(ScorerUnreachableError, match="ReadTimeout"),
    ):
        scorer.score("q", TEXTS)


def test_a_server_that_comes_back():
    with gateway() as served:
        port, url = served.port, served.url
        scorer = RemoteScorer(url, attempts=1)
        assert scorer.score("q", TEXTS).best == 1
    with pytest.raises(ScorerUnreachableError):
        scorer.score("q", TEXTS)
    with gateway(port=port):
        assert scorer.score("q", TEXTS).best == 1
    scorer.close()


def test_a_closed_one_opens_again():
    scorer, seen = scripted(RANKING)
    scorer.close()
    for _ in range(2):
        assert scorer.score("q", TEXTS).best == 1
        scorer.close()
    assert len(seen) == 2


def test_copies_keep_the_settings():
    scorer = RemoteScorer(["http://a/v1", "http://b/v1/"], key="k", attempts=5)
    copied = pickle.loads(pickle.dumps(scorer))
    assert copied.urls == ("http://a/v1", "http://b/v1")
    assert repr(copied) == "RemoteScorer(['http://a/v1', 'http://b/v1'])"
    assert "k" not in repr(copied).replace("http", "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"urls": []}, "names no server"),
        ({"urls": "a/v1"}, "'a/v1' is no address"),
        ({"urls": ["ftp://a"]}, "'ftp://a' is no address"),
        ({"urls": [None]}, "None is no address"),
        ({"urls": "http://a", "timeout": 0}, "timeout=0"),
        ({"urls": "http://a", "attempts": -1}, "attempts=-1"),
    ],
)
def test_settings_that_make_no_sense(options, said):
    with pytest.raises(ConfigurationError, match=said):
        RemoteScorer(**options)


@pytest.mark.parametrize("candidates", [[], "text", [1], None])
def test_candidates_that_cannot_be_read(candidates):
    with pytest.raises(InvalidInputError):
        RemoteScorer("http://a").score("q", candidates)


def test_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(MissingExtraError, match=r"srr-guard\[remote\]"):
        RemoteScorer("http://a").score("q", ["a"])


def test_it_needs_no_torch():
    """In a process where torch and the like cannot be imported."""
    with gateway() as served:
        script = (
            "import sys\n"
            "for name in ('torch', 'transformers', 'safetensors', 'huggingface_hub', 'numpy'):\n"
            "    sys.modules[name] = None\n"
            "from srr_guard import Guard\n"
            "from srr_guard.scorer import RemoteScorer\n"
            f"with RemoteScorer({served.url!r}) as scorer:\n"
            f"    print(Guard(scorer=scorer).choose('q', {TEXTS!r}).output)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
        )
    assert done.stdout == "a good answer\n"


def test_a_gateway_that_scores_elsewhere():
    """One server scores, another one answers; the second refuses while the first is away."""
    with gateway() as scoring:
        url = scoring.url
        scorer = RemoteScorer(url)
        with gateway(scorer=scorer) as served:
            body = {"conversation": "q", "candidates": TEXTS}
            answer = httpx2.post(f"{served.url}/rank", json=body, trust_env=False)
            assert answer.json()["results"][0]["index"] == 1
            assert json.loads(answer.text)["familiarity"] is None
        scorer.close()


def test_docstring_examples():
    result = doctest.testmod(remote)
    assert result.attempted > 0
    assert result.failed == 0


def test_a_forked_child_has_connections_of_its_own():
    with gateway() as served:
        script = (
            "import os\n"
            "from srr_guard.scorer import RemoteScorer\n"
            f"scorer = RemoteScorer({served.url!r})\n"
            f"assert scorer.score('q', {TEXTS!r}).best == 1\n"
            "child = os.fork()\n"
            f"assert scorer.score('q', {TEXTS!r}).best == 1\n"
            "scorer.close()\n"
            "if child:\n"
            "    assert os.waitpid(child, 0)[1] == 0\n"
        )
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
        subprocess.run(command, check=True, timeout=60)


def test_what_a_server_says_begins_no_line_of_a_log():
    said = "a\r\n2026 ERROR forged\x1b[31m" + "x" * 5000

    def answer(request):
        return httpx2.Response(500, json={"error": {"message": said}})

    scorer = RemoteScorer("http://a/v1", transport=httpx2.MockTransport(answer), attempts=1)
    with scorer, pytest.raises(ScorerUnreachableError) as caught:
        scorer.score("q", TEXTS)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
