"""`RemoteScorer`: ranks candidates with the scorers of other machines, over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from srr_guard.breaker import CircuitBreaker, Permit
from srr_guard.conversation import Conversation
from srr_guard.decision import Ranking
from srr_guard.errors import (
    ConfigurationError,
    InvalidInputError,
    MissingExtraError,
    ScorerBusyError,
    ScorerUnreachableError,
    ScoringError,
    SRRGuardError,
)
from srr_guard.reading import valid_unicode
from srr_guard.retry_after import LONGEST_REST, seconds_to_wait
from srr_guard.threads import reset_after_fork

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")


class RemoteScorer:
    """Ranks candidates with servers that offer `/v1/score` (`srr-guard serve`). Needs no torch.

    Servers take turns; one at which three rankings in a row fail, or which three calls in a row
    do not reach, is left alone, for one second at first, for at most ten; where no other is left,
    one ranking a second tries it. A failed call is tried again, on the next server. A server that
    answers 429 or 503 with `Retry-After` (or `retry-after-ms`) is left alone for so long, a minute
    at most; where no other is left, the ranking waits, within `timeout`, or fails at once. If none
    gives a ranking, an error is raised: no answer passes unscored. One thread with an event loop
    of its own makes all calls, so a scorer may be shared between threads and event loops; it is
    copied without its connections.

    Args:
        urls: Addresses of the servers up to and with `/v1`, or one of them.
        key: API key.
        timeout: Seconds one call may take, and that a ranking may wait for servers that want to
            be left alone.
        connect_timeout: Seconds until a connection must stand.
        attempts: Calls per ranking, over all servers.
        connections: Most connections to all servers together.
        transport: Stands in for the network in tests (an `httpx2.AsyncBaseTransport`).

    Raises:
        ConfigurationError: There is no address, or one is not `http://` or `https://`.
        MissingExtraError: The extra `remote` is not installed (on first use).

    Example:
        >>> import httpx2
        >>> def server(request):
        ...     return httpx2.Response(200, json={"order": [0], "scores": [1.5], "p_safe": [0.9]})
        >>> scorer = RemoteScorer(
        ...     "http://127.0.0.1:8321/v1", transport=httpx2.MockTransport(server)
        ... )
        >>> scorer.score("a question", ["an answer"]).p_safe
        (0.9,)
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        key: str | None = None,
        timeout: float = 30.0,
        connect_timeout: float = 2.0,
        attempts: int = 3,
        connections: int = 64,
        transport: Any = None,
    ) -> None:
        self._urls = _addresses(urls)
        numbers = {"timeout": timeout, "connect_timeout": connect_timeout}
        numbers |= {"attempts": attempts, "connections": connections}
        for name, value in numbers.items():
            if not isinstance(value, (int, float)) or not value > 0:
                raise ConfigurationError(f"{name}={value!r} cannot be used: give a number above 0")
        self._attempts = attempts
        self._settings: dict[str, Any] = {
            "key": key,
            "timeout": timeout,
            "connect_timeout": connect_timeout,
            "connections": connections,
            "transport": transport,
        }
        self._lock = threading.Lock()
        self._network: _Network | None = None
        self._breakers = [CircuitBreaker() for _ in self._urls]
        self._rests = _Rests(len(self._urls))
        self._next = 0
        reset_after_fork(self)

    @property
    def urls(self) -> tuple[str, ...]:
        """Addresses of the servers."""
        return self._urls

    @property
    def available(self) -> bool:
        """False while every server is left alone: it failed, or wants to be for too long."""
        longest = self._settings["timeout"]
        return any(self._rests.left(place) <= longest for place in self._working())

    def score(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Rank candidates (see `ResponseScorer.score`).

        Raises:
            InvalidInputError: The conversation or a candidate cannot be read.
            ScorerBusyError: The servers have too much to do; `retry_after` holds for how long,
                if they say.
            ScorerUnreachableError: No server gave a ranking that can be used.
            ScoringError: A server refused the key, or could not score.
            MissingExtraError: The extra `remote` is not installed.
        """
        return self._submit(conversation, candidates).result()

    async def ascore(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Like `score`, without blocking the event loop. Cancelling it ends the call."""
        return await asyncio.wrap_future(self._submit(conversation, candidates))

    def close(self) -> None:
        """Close the connections and end the calls under way; the next call opens new ones."""
        with self._lock:
            network, self._network = self._network, None
        if network is not None:
            network.close()

    def __enter__(self) -> RemoteScorer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        return _rebuild, (self._urls, {**self._settings, "attempts": self._attempts})

    def __repr__(self) -> str:
        return f"RemoteScorer({list(self._urls)!r})"

    def reset(self) -> None:
        """Forget connections and failures; a forked child begins so."""
        self._lock = threading.Lock()
        self._network = None
        self._breakers = [CircuitBreaker() for _ in self._urls]
        self._rests = _Rests(len(self._urls))

    def _submit(self, conversation: Any, candidates: Sequence[str]) -> Future[Ranking]:
        asked = Conversation.of(conversation)
        texts = _texts(candidates)
        body = {"conversation": asked.model_dump(), "candidates": texts}
        with self._lock:
            if self._network is None:
                _require_httpx()
                self._network = _Network(partial(_client, **self._settings))
                weakref.finalize(self, self._network.close)
            network = self._network
            # before the lock goes, so that no close comes between
            return network.submit(self._rank(network, json.dumps(body).encode(), len(texts)))

    async def _rank(self, network: _Network, body: bytes, n: int) -> Ranking:
        end = self._rests.clock() + self._settings["timeout"]

        def worth_it(error: BaseException) -> bool:
            if not isinstance(error, (ScorerUnreachableError, ScorerBusyError)):
                return False
            wait = error.retry_after or 0.0
            return wait <= end - self._rests.clock() or self._one_is_left()

        ranking = object()  # however often it makes a server fail, that is one failure
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            retry=retry_if_exception(worth_it),
            sleep=self._rests.sleep,
            reraise=True,
        )
        return await retrying(self._ask, network, body, n, ranking, end)

    async def _ask(
        self, network: _Network, body: bytes, n: int, cause: object, end: float
    ) -> Ranking:
        import httpx2

        from srr_guard.kept_connections import send

        place, permit = await self._server(end)
        url, breaker = self._urls[place], self._breakers[place]
        try:
            answer = await send(network.client, "POST", f"{url}/score", content=body)
            ranking = _ranking(answer, url, n)
            breaker.succeeded(permit)
            return ranking
        except httpx2.PoolTimeout as error:
            raise ScorerBusyError(f"all connections to the scorer at {url} are taken") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            connecting = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
            breaker.failed(permit, by=None if connecting else cause)
            raise ScorerUnreachableError(
                f"the scorer at {url} does not answer: {type(error).__name__}"
            ) from error
        except SRRGuardError as error:
            asked = error.retry_after if isinstance(error, ScoringError) else None
            if asked:
                self._rests.begin(place, asked)
            elif isinstance(error, ScorerUnreachableError):
                breaker.failed(permit, by=cause)
            else:
                breaker.succeeded(permit)  # it answers, if not with a ranking
            raise
        finally:
            breaker.abandoned(permit)  # if nothing else was said, such as when it is cancelled

    def _working(self) -> list[int]:
        """Places of the servers that have not failed."""
        return [i for i, breaker in enumerate(self._breakers) if breaker.wait == 0.0]

    def _ready(self) -> list[int]:
        """Places of those among them that may be asked now."""
        return [place for place in self._working() if self._rests.left(place) == 0.0]

    def _one_is_left(self) -> bool:
        """True if a server may be asked now, if only as a last resort."""
        waits = [breaker.last_resort_wait for breaker in self._breakers]
        return any(self._rests.left(i) == 0.0 for i, wait in enumerate(waits) if wait == 0.0)

    async def _server(self, end: float) -> tuple[int, Permit]:
        """The next server in turn that may be asked.

        Where none is left, one ranking a second tries those that have failed.

        Raises:
            ScorerBusyError: None may be until `end`, because they asked for it.
            ScorerUnreachableError: All of them have failed.
        """
        while True:
            with self._lock:
                turn = self._next
                self._next += 1
            ready = self._ready()
            if (found := self._permitted(ready, turn)) is not None:
                return found
            rests = [] if ready else [self._rests.left(place) for place in self._working()]
            if not rests or min(rests) > end - self._rests.clock():
                break
            await self._rests.sleep(min(rests))
        resting = [i for i in range(len(self._urls)) if self._rests.left(i) == 0.0]
        if (found := self._permitted(resting, turn, last_resort=True)) is not None:
            return found
        if rests:
            raise ScorerBusyError(
                f"all {len(self._urls)} scorers have too much to do; the next one wants to be "
                f"asked in {min(rests):.1f} s",
                retry_after=min(rests),
            )
        wait = min(breaker.last_resort_wait for breaker in self._breakers)
        raise ScorerUnreachableError(
            f"all {len(self._urls)} scorers have failed ({', '.join(self._urls)}); the next one is "
            f"asked in {wait:.1f} s",
            retry_after=wait,
        )

    def _permitted(
        self, places: list[int], turn: int, *, last_resort: bool = False
    ) -> tuple[int, Permit] | None:
        """The first of these servers, from this turn on, that allows a call."""
        for i in range(len(places)):
            place = places[(turn + i) % len(places)]
            permit = self._breakers[place].permit(last_resort=last_resort)
            if permit is not None:
                return place, permit
        return None


class _Rests:
    """For how long servers want to be left alone.

    Args:
        servers: How many there are.
        clock: Gives the time in seconds.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        servers: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.clock = clock
        self.sleep = sleep
        self._until = [0.0] * servers

    def begin(self, place: int, seconds: float) -> None:
        """Leave a server alone; a longer rest that has begun goes on."""
        until = self.clock() + min(seconds, LONGEST_REST)
        self._until[place] = max(self._until[place], until)

    def left(self, place: int) -> float:
        """Seconds until a server may be asked; 0 if it may now."""
        return max(0.0, self._until[place] - self.clock())


class _Network:
    """A client, and the event loop on a daemon thread that it lives in.

    Args:
        connect: Makes the client, on that thread; it reads certificates, which takes a while.
    """

    def __init__(self, connect: Callable[[], httpx2.AsyncClient]) -> None:
        self._connect = connect
        self._client: httpx2.AsyncClient | Exception | None = None
        self._loop = asyncio.new_event_loop()
        self._process = os.getpid()
        self._closing = threading.Lock()  # taken for good by the one who closes
        threading.Thread(target=self._run, name="srr_guard_remote", daemon=True).start()

    @property
    def client(self) -> httpx2.AsyncClient:
        """The client; on the loop's thread only."""
        if isinstance(self._client, Exception):
            raise ScorerUnreachableError(f"no client can be made: {self._client}")
        assert self._client is not None  # made before the loop runs
        return self._client

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Cancel what is under way, close the client, end the thread. May be called twice."""
        if self._process != os.getpid() or not self._closing.acquire(blocking=False):
            return  # the thread of a forked child's parent is the parent's

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            if not isinstance(self._client, Exception | None):
                await self._client.aclose()

        def stop(_: object) -> None:
            self._loop.call_soon_threadsafe(self._loop.stop)

        self.submit(end()).add_done_callback(stop)

    def _run(self) -> None:
        try:
            self._client = self._connect()
        except Exception as error:  # noqa: BLE001 (told to every caller)
            self._client = error
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()


def _client(
    *, key: str | None, timeout: float, connect_timeout: float, connections: int, transport: Any
) -> httpx2.AsyncClient:
    import httpx2

    from srr_guard.kept_connections import no_cookies

    headers = {"content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    return httpx2.AsyncClient(
        headers=headers,
        timeout=httpx2.Timeout(timeout, connect=connect_timeout),
        limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
        transport=transport,
        cookies=no_cookies(),
    )


def _addresses(urls: str | Sequence[str]) -> tuple[str, ...]:
    listed = (urls,) if isinstance(urls, str) else tuple(urls)
    if not listed:
        raise ConfigurationError("urls=[] names no server: give at least one address")
    for url in listed:
        parts = urlsplit(url) if isinstance(url, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                f"urls: {url!r} is no address: give one such as 'http://10.0.0.5:8321/v1'"
            )
    return tuple(url.rstrip("/") for url in listed)


def _texts(candidates: Sequence[str]) -> list[str]:
    if isinstance(candidates, str) or not isinstance(candidates, Sequence) or not candidates:
        raise InvalidInputError(
            f"candidates must be a list with at least one text, got {candidates!r:.60}"
        )
    for i, text in enumerate(candidates):
        if not isinstance(text, str):
            raise InvalidInputError(f"candidates[{i}] is {text!r:.60}: every candidate is a str")
    return [valid_unicode(text) for text in candidates]


def _require_httpx() -> None:
    try:
        import httpx2  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(package="httpx2", extra="remote", purpose="RemoteScorer") from error


def _ranking(answer: httpx2.Response, url: str, n: int) -> Ranking:
    """Read a server's answer.

    Raises:
        SRRGuardError: It is no ranking of n candidates; of which kind depends on the status.
    """
    status = answer.status_code
    if status == 200:
        try:
            ranking = Ranking.model_validate_json(answer.content)
        except ValidationError as error:
            raise ScorerUnreachableError(
                f"the scorer at {url} gave no ranking that can be read: is it `srr-guard serve`?"
            ) from error
        if len(ranking) != n:
            raise ScorerUnreachableError(
                f"the scorer at {url} ranked {len(ranking)} of {n} candidates"
            )
        return ranking
    said, wait = _said(answer), None
    if status in (429, 503) and (wait := seconds_to_wait(answer.headers)):
        said += f"; it wants to be asked again in {wait:.1f} s"
    if status == 429:
        raise ScorerBusyError(f"the scorer at {url} has too much to do{said}", retry_after=wait)
    if status in (401, 403):
        raise ScoringError(f"the scorer at {url} refused the key (HTTP {status}): give `key=`")
    if status in (400, 413, 422):
        raise InvalidInputError(f"the scorer at {url} cannot read the request{said}")
    if status in (408, 500, 502, 503, 504):
        raise ScorerUnreachableError(
            f"the scorer at {url} failed with HTTP {status}{said}", retry_after=wait
        )
    raise ScoringError(f"the scorer at {url} answered HTTP {status}: is `/v1` part of its address?")


def _said(answer: httpx2.Response) -> str:
    try:
        said = str(answer.json()["error"]["message"])[:300]
        return ": " + "".join(c if c.isprintable() else " " for c in said)  # it goes into logs
    except (ValueError, KeyError, TypeError):
        return ""


def _rebuild(urls: tuple[str, ...], settings: dict[str, Any]) -> RemoteScorer:
    return RemoteScorer(urls, **settings)
