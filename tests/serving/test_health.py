"""Whom a server's failures shut out, and how it comes back: scripted servers and a fake clock."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

import httpx2
import pytest

from srr_guard.errors import UpstreamError
from srr_guard.serving.config import UpstreamConfig
from srr_guard.serving.health import Caller
from srr_guard.serving.upstreams import Upstreams

GOOD = {"choices": [{"message": {"content": "hello"}}]}


class Servers(httpx2.AsyncBaseTransport):
    """Answers by script: statuses, exceptions, pairs of status and headers; or waits to be told."""

    def __init__(self, script):
        self.script = script
        self.asked = []
        self.waiting: asyncio.Queue[asyncio.Future] = asyncio.Queue()

    async def handle_async_request(self, request):
        self.asked.append(request.url.host)
        step = self.script
        if step == "wait":
            told = asyncio.get_running_loop().create_future()
            await self.waiting.put(told)
            step = await told
        if isinstance(step, dict):
            step = step[request.url.host]
        if isinstance(step, Exception):
            raise step
        status, headers = step if isinstance(step, tuple) else (step, {})
        body = GOOD if status == 200 else {"error": {"message": "scripted"}}
        return httpx2.Response(status, json=body, headers=headers)


class Fleet:
    def __init__(self, servers, upstreams, clock):
        self.servers, self.upstreams, self.clock = servers, upstreams, clock
        self.requests = 0

    async def ask(self, client=None, request=None):
        """One call, of a new request or of one that was let in; `ok`, or status and wait."""
        self.requests += 1
        try:
            if request is None:
                request = f"request {self.requests}"
                self.upstreams.require_one("m", Caller(client, request))
            caller = Caller(client, request)
            await self.upstreams.post("/chat/completions", {"model": "m"}, {}, caller)
        except UpstreamError as error:
            return error.status, error.retry_after
        return "ok"

    def begin(self, *args):
        return asyncio.ensure_future(self.ask(*args))

    async def told(self, step):
        (await self.servers.waiting.get()).set_result(step)

    def pass_by(self, seconds):
        self.clock[0] += seconds


@asynccontextmanager
async def fleet(script=500, hosts=("a",), fallbacks=(), **settings):
    clock = [0.0]
    servers = Servers(script)
    configs = [
        UpstreamConfig(url=f"http://{host}/v1", fallback=host in fallbacks, **settings)
        for host in (*hosts, *fallbacks)
    ]
    made = Upstreams(
        configs,
        answer_bytes=1000,
        observe=lambda upstream, outcome: None,
        transport=servers,
        clock=lambda: clock[0],
    )
    async with made:
        yield Fleet(servers, made, clock)


# ---- what counts, and for whom ----


@pytest.mark.parametrize("step", [500, 502, 503, 504, httpx2.ReadTimeout(""), httpx2.ReadError("")])
async def test_a_failure_that_a_request_may_cause_shuts_out_its_client_alone(step):
    async with fleet(step) as it:
        for _ in range(3):
            assert (await it.ask("mallory"))[0] >= 500
        assert await it.ask("mallory") == (503, 1.0)
        it.servers.script = 200
        assert await it.ask("alice") == "ok"
        assert await it.ask("mallory") == (503, 1.0)  # still
        it.pass_by(1.0)
        assert await it.ask("mallory") == "ok"


@pytest.mark.parametrize(
    "step", [httpx2.ConnectError(""), httpx2.ConnectTimeout(""), 401, (302, {"location": "/"})]
)
async def test_a_server_that_nobody_can_use_is_left_alone_by_all(step):
    async with fleet(step) as it:
        for client in ("alice", "bob", "carol"):
            assert (await it.ask(client))[0] != 503
        it.servers.script = 200
        assert await it.ask("dave") == (503, 1.0)
        it.pass_by(1.0)
        assert await it.ask("dave") == "ok"
        assert await it.ask("alice") == "ok"


@pytest.mark.parametrize("status", [400, 403, 404, 408, 409, 413, 415, 422, 425, 429, 501])
async def test_a_refusal_is_an_answer(status):
    async with fleet(status) as it:
        for _ in range(10):
            assert (await it.ask())[0] == status


async def test_a_refusal_ends_a_row_of_failures():
    async with fleet() as it:
        for status in (500, 500, 400, 500, 500, 422, 500, 500):
            it.servers.script = status
            assert (await it.ask())[0] == status


async def test_all_calls_of_one_request_are_one_failure():
    async with fleet() as it:
        for _ in range(10):
            assert (await it.ask(None, "one request"))[0] == 500
        it.servers.script = 200
        assert await it.ask() == "ok"


async def test_connections_that_are_all_taken_say_nothing_of_the_server():
    async with fleet(httpx2.PoolTimeout("")) as it:
        for _ in range(10):
            assert await it.ask() == (503, None)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_rests_for_all_when_it_asks_to(status):
    async with fleet((status, {"retry-after": "7"})) as it:
        assert await it.ask("alice") == (status, 7.0)
        assert await it.ask("bob") == (503, 7.0)
        it.pass_by(6.5)
        assert await it.ask("bob") == (503, 0.5)
        it.servers.script = 200
        it.pass_by(0.5)
        assert await it.ask("bob") == "ok"
        assert it.servers.asked == ["a", "a"]


async def test_nobody_rests_for_longer_than_a_minute():
    async with fleet((429, {"retry-after": "86400"})) as it:
        await it.ask()
        assert await it.ask() == (503, 60.0)


@pytest.mark.parametrize("headers", [{}, {"retry-after": "0"}, {"retry-after": "soon"}])
async def test_a_busy_server_that_names_no_time_is_asked_again(headers):
    async with fleet((429, headers)) as it:
        for _ in range(5):
            assert (await it.ask())[0] == 429


async def test_callers_that_give_up_say_nothing_of_the_server():
    async with fleet("wait") as it:
        for _ in range(5):
            call = it.begin()
            await it.servers.waiting.get()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        it.servers.script = 200
        assert await it.ask() == "ok"


async def test_settings_say_how_many_failures_and_how_long():
    async with fleet({"a": 500, "b": 200}, fallbacks=("b",), failures=2, rest=3.0) as it:
        asked_at = []
        for _ in range(60):
            it.servers.asked.clear()
            assert await it.ask() == "ok"
            asked_at += [it.clock[0]] * it.servers.asked.count("a")
            it.pass_by(0.25)
        assert asked_at == [0.0, 0.25, 1.25, 3.25, 6.25, 9.25, 12.25]


# ---- on trial ----


async def test_exactly_one_of_many_requests_goes_through_on_trial():
    async with fleet() as it:
        for _ in range(3):
            await it.ask()
        it.pass_by(1.0)
        it.servers.script, it.servers.asked = "wait", []
        trial, *others = [it.begin() for _ in range(8)]
        assert await asyncio.gather(*others) == [(503, 1.0)] * 7
        assert it.servers.asked == ["a"]
        await it.told(200)
        assert await trial == "ok"
        it.servers.script = 200
        assert await asyncio.gather(*(it.ask() for _ in range(8))) == ["ok"] * 8


@pytest.mark.parametrize("ends", [200, 500, "cancelled"])
@pytest.mark.parametrize("cause", [500, httpx2.ConnectError("")], ids=["failing", "unreachable"])
async def test_calls_of_the_request_on_trial_wait_for_it(cause, ends):
    async with fleet(cause) as it:
        for _ in range(3):
            await it.ask()
        it.pass_by(1.0)
        it.servers.script, it.servers.asked = "wait", []
        trial = it.begin(None, "one request")
        told = await it.servers.waiting.get()
        others = [it.begin(None, "one request") for _ in range(3)]
        await asyncio.sleep(0)
        assert it.servers.asked == ["a"]
        it.servers.script = 200
        if ends == "cancelled":
            trial.cancel()
            with suppress(asyncio.CancelledError):
                await trial
        else:
            told.set_result(ends)
            await trial
        expected = (503, 1.0) if ends == 500 and cause == 500 else "ok"
        assert await asyncio.gather(*others) == [expected] * 3


async def test_a_trial_that_is_given_up_is_the_next_ones():
    async with fleet() as it:
        for _ in range(3):
            await it.ask()
        it.pass_by(1.0)
        it.servers.script = "wait"
        trial = it.begin()
        await it.servers.waiting.get()
        trial.cancel()
        with suppress(asyncio.CancelledError):
            await trial
        it.servers.script = 200
        assert await it.ask() == "ok"


async def test_a_fallback_answers_meanwhile():
    async with fleet({"a": 500, "b": 200}, fallbacks=("b",)) as it:
        for _ in range(6):
            assert await it.ask() == "ok"
        assert it.servers.asked == ["a", "b"] * 3 + ["b"] * 3
        it.pass_by(1.0)
        it.servers.asked.clear()
        it.servers.script = {"a": 200, "b": 200}
        assert await it.ask() == "ok"
        assert it.servers.asked == ["a"]


@pytest.mark.parametrize(
    ("script", "said", "asked"),
    [
        ({"a": 404, "b": 200, "c": 200}, "ok", ["a", "b"]),
        ({"a": 404, "b": 404, "c": 200}, "ok", ["a", "b", "c"]),
        ({"a": 404, "b": 404, "c": 404}, (404, None), ["a", "b", "c"]),
        ({"a": 404, "b": 500, "c": 404}, (500, None), ["a", "b", "c"]),
        ({"a": 500, "b": 404, "c": 404}, (500, None), ["a", "b", "c"]),
        ({"a": 400, "b": 200, "c": 200}, (400, None), ["a"]),
    ],
)
async def test_a_model_that_one_server_lacks_another_may_have(script, said, asked):
    async with fleet(script, hosts=("a", "b"), fallbacks=("c",)) as it:
        assert await it.ask() == said
        assert it.servers.asked == asked


async def test_another_server_takes_all_while_one_is_on_trial():
    async with fleet({"a": 500, "b": 200}, hosts=("a", "b")) as it:
        for _ in range(8):
            assert await it.ask() == "ok"
        assert it.servers.asked.count("a") == 3
        it.pass_by(1.0)
        it.servers.script, it.servers.asked = "wait", []
        calls = [it.begin() for _ in range(4)]
        for _ in calls:
            await it.told(200)
        assert await asyncio.gather(*calls) == ["ok"] * 4
        assert it.servers.asked.count("a") == 1


# ---- where no other is left ----


@pytest.mark.parametrize("cause", [500, httpx2.ConnectError("")], ids=["failing", "unreachable"])
async def test_a_server_without_another_is_tried_once_a_second(cause):
    async with fleet(cause, rest=60.0) as it:
        for _ in range(3):
            await it.ask()
        it.servers.asked.clear()
        for _ in range(100):  # ten requests a second, for ten seconds
            await it.ask()
            it.pass_by(0.125)
        assert len(it.servers.asked) == 12
        it.servers.script = 200
        it.pass_by(1.0)
        assert await asyncio.gather(*(it.ask() for _ in range(4))) == ["ok"] * 4


async def test_one_request_tries_all_that_rest():
    async with fleet(httpx2.ConnectError(""), hosts=("a", "b"), fallbacks=("c",)) as it:
        for _ in range(6):
            await it.ask()
        it.pass_by(1.0)
        await it.ask()  # from now on they rest two seconds
        it.servers.asked.clear()
        it.pass_by(1.0)
        it.servers.script = {"a": 500, "b": 503, "c": 200}
        assert await it.ask() == "ok"
        assert sorted(it.servers.asked[:2]) == ["a", "b"]
        assert it.servers.asked[2:] == ["c"]


async def test_one_request_at_a_time_is_the_last_resort():
    async with fleet(httpx2.ConnectError("")) as it:
        for _ in range(4):
            await it.ask()
            it.pass_by(1.0)
        it.servers.script, it.servers.asked = "wait", []
        trial, *others = [it.begin() for _ in range(8)]
        assert await asyncio.gather(*others) == [(503, 1.0)] * 7
        it.pass_by(30.0)
        assert await it.ask() == (503, 1.0)
        await it.told(200)
        assert await trial == "ok"
        assert it.servers.asked == ["a"]


async def test_a_rest_that_was_asked_for_is_kept_where_no_other_is_left():
    async with fleet() as it:
        for _ in range(4):
            await it.ask()
            it.pass_by(1.0)
        it.servers.script = (503, {"retry-after": "7"})
        assert await it.ask() == (503, 7.0)
        it.servers.script = 200
        it.pass_by(6.0)
        assert await it.ask() == (503, 1.0)
        it.pass_by(1.0)
        assert await it.ask() == "ok"


async def test_a_client_that_is_shut_out_shares_no_last_resort():
    async with fleet(hosts=("a",)) as it:
        for _ in range(5):
            await it.ask("mallory")
            it.pass_by(1.0)
        it.servers.script = "wait"
        trial = it.begin("mallory")
        told = await it.servers.waiting.get()
        assert await it.ask("mallory") == (503, 1.0)
        it.servers.script = 200
        assert await it.ask("alice") == "ok"
        told.set_result(500)
        await trial
        assert await it.ask("mallory") == (503, 1.0)
        assert await it.ask("alice") == "ok"


async def test_a_server_with_another_model_is_no_other():
    async with fleet({"a": 500, "b": 200}, hosts=("a",)) as it:
        made = UpstreamConfig(url="http://b/v1", models=("other",))
        two = Upstreams(
            [UpstreamConfig(url="http://a/v1"), made],
            answer_bytes=1000,
            observe=lambda upstream, outcome: None,
            transport=it.servers,
            clock=lambda: it.clock[0],
        )
        it.upstreams = two
        async with two:
            for _ in range(20):
                await it.ask()
                it.pass_by(0.5)
        assert it.servers.asked == ["a"] * 11  # three at once, then every second
