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
from servers import ASK, PATIENCE, gateway, until

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
        ({"urls": "http://a", "timeout": "30"}, "timeout='30'"),
        ({"urls": "http://a", "connect_timeout": None}, "connect_timeout=None"),
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
