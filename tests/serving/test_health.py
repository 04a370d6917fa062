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
    async with fleet(failures=2, rest=3.0) as it:
        await it.ask()
        assert (await it.ask())[0] == 500
        waits = []
        for _ in range(4):
            _, wait = await it.ask()
            waits.append(wait)
            it.pass_by(wait)
            assert (await it.ask())[0] == 500
        assert waits == [1.0, 2.0, 3.0, 3.0]


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
        expected = (503, 2.0) if ends == 500 and cause == 500 else "ok"
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
