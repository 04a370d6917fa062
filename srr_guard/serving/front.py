"""The front door: keys, limits and bodies of requests, before anything else sees them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from srr_guard.serving.config import KeyConfig, LimitsConfig
from srr_guard.serving.keys import Keys
from srr_guard.serving.note import Note, note_of_request, request_id
from srr_guard.serving.problems import HttpError, problem_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("srr_guard.serving")

OPEN = ("/healthz", "/readyz", "/metrics")
"""Paths that need no key and have no body."""

HUNG_UP = 499

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Front:
    """An ASGI application around another one.

    In this order: the key (401), the announced size (413), places for requests (429), the body
    (408, 413), then the application. A client that hangs up ends its request at once, with all
    that is under way for it.

    Args:
        app: Answers the requests that come through.
        keys: Gives the keys; asked anew for each request.
        limits: Gives the limits; likewise.
        endpoints: Paths that get a name in logs and metrics.
        ended: Told of each request, with the seconds it took.
        around: Gives a context to serve each request in.
        clock: Gives the time in seconds.
    """

    def __init__(
        self,
        app: App,
        *,
        keys: Callable[[], Keys],
        limits: Callable[[], LimitsConfig],
        endpoints: frozenset[str],
        ended: Callable[[Note, float], None],
        around: Callable[[Note], AbstractContextManager[object]] = nullcontext,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._app = app
        self._keys = keys
        self._limits = limits
        self._endpoints = endpoints
        self._ended = ended
        self._around = around
        self._clock = clock
        self._inside = 0

    @property
    def inside(self) -> int:
        """Requests that are being served now."""
        return self._inside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        path = scope["path"]
        note = Note(
            id=request_id(headers.get("x-request-id")),
            endpoint=path if path in self._endpoints else "other",
            headers=headers,
            method=scope["method"] if scope["method"] in _METHODS else "HTTP",
        )
        if scope["method"] == "HEAD":  # servers keep the body of its answer back
            scope = {**scope, "method": "GET"}
        started, token = self._clock(), note_of_request.set(note)
        try:
            with self._around(note):
                await self._serve(scope, receive, _noting(send, note), note)
        # each ends in an answer or the connection; a server cancels what does not end in time
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001
            note.error = type(error).__name__
            if note.status:  # the answer has begun: the server ends the connection
                logger.warning("an answer was given up on (%s, %s)", note.error, note.id)
                note.status = HUNG_UP if isinstance(error, TimeoutError) else note.status
                return
            await _answer(problem_of(error), scope, receive, _noting(send, note))
        finally:
            note_of_request.reset(token)
            self._ended(note, self._clock() - started)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, note: Note) -> None:
        if scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        try:
            _require_single(scope["headers"])
            note.key = self._admitted(note)
            _require_plausible(note.headers, self._limits())
            with self._place(note.key):
                body = await _body(receive, self._limits())
                if body is None:
                    note.status = HUNG_UP
                else:
                    await self._run(scope, receive, send, note, body)
        except HttpError as problem:
            note.error = problem.code or type(problem).__name__
            await _answer(problem, scope, receive, send)

    def _admitted(self, note: Note) -> KeyConfig | None:
        keys = self._keys()
        if not keys.required:
            return None
        key = keys.find(note.headers)
        if key is None:
            raise HttpError(401, "the API key is missing or not known", code="invalid_api_key")
        return key

    @contextmanager
    def _place(self, key: KeyConfig | None) -> Iterator[None]:
        """A place for one request.

        Raises:
            HttpError: There is none.
        """
        if self._inside >= self._limits().requests:
            raise HttpError(
                429, "too many requests are being served", code="overloaded", retry_after=1.0
            )
        meter = None if key is None else self._keys().meter(key)
        if meter is not None and (wait := meter.enter()) is not None:
            raise HttpError(
                429, "too many requests with this key", code="rate_limit_exceeded", retry_after=wait
            )
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            if meter is not None:
                meter.leave()

    async def _run(
        self, scope: Scope, receive: Receive, send: Send, note: Note, body: bytes
    ) -> None:
        """Run the application until it is done or the client hangs up."""
        hung_up = asyncio.Event()
        answered = False

        async def noting_the_end(message: Message) -> None:
            nonlocal answered
            async with asyncio.timeout(self._limits().send_seconds):
                await send(message)
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            answered = answered or ended

        async def replay() -> Message:
            nonlocal body
            given, body = body, b""
            if given or not replayed.is_set():
                replayed.set()
                return {"type": "http.request", "body": given, "more_body": False}
            await hung_up.wait()
            return {"type": "http.disconnect"}

        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            hung_up.set()

        replayed = asyncio.Event()
        work = asyncio.ensure_future(self._app(scope, replay, noting_the_end))
        listening = asyncio.create_task(listen())
        try:
            await asyncio.wait({work, listening}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not answered and listening.exception() is None:
                note.status = HUNG_UP
                work.cancel()
                await asyncio.wait({work})
            if not (note.status == HUNG_UP and work.cancelled()):
                await work
        finally:
            listening.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait({work})


def _noting(send: Send, note: Note) -> Send:
    """Note the status, and add the request's id to the answer."""

    async def noting(message: Message) -> None:
        if message["type"] == "http.response.start":
            note.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", note.id.encode()),
            ]
        await send(message)

    return noting


_SINGLE = (b"authorization", b"x-api-key", b"content-type", b"content-encoding")


def _require_single(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse headers that a proxy in front may have read otherwise: those that come twice."""
    names = [name for name, _ in headers]
    for name in _SINGLE:
        if names.count(name) > 1:
            raise HttpError(
                400, f"the header {name.decode()!r} comes twice", code="invalid_request"
            )


def _require_plausible(headers: Any, limits: LimitsConfig) -> None:
    """Refuse by its head what is too large, or no JSON.

    A browser sends JSON to another site only after asking, and is told no.
    """
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length) > limits.body_bytes:
        raise _too_large(limits)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if ("transfer-encoding" in headers or length != "0") and kind != "application/json":
        raise HttpError(
            415, "send JSON, with `content-type: application/json`", code="unsupported_media_type"
        )
    if (encoding := headers.get("content-encoding", "identity")).lower() != "identity":
        raise HttpError(
            415,
            f"bodies are read as they are: send them without `content-encoding: {encoding:.20}`",
            code="unsupported_media_type",
        )


async def _body(receive: Receive, limits: LimitsConfig) -> bytes | None:
    """The whole body; None if the client hangs up first."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limits.body_bytes:
                    raise _too_large(limits)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError as error:
        raise HttpError(
            408, f"the body was not here within {limits.body_seconds} s", code="body_timeout"
        ) from error


def _too_large(limits: LimitsConfig) -> HttpError:
    return HttpError(
        413, f"the body is larger than {limits.body_bytes} bytes", code="body_too_large"
    )


async def _answer(problem: HttpError, scope: Scope, receive: Receive, send: Send) -> None:
    response = problem.response()
    if problem.status in (401, 408, 413, 415, 429):
        response.headers["connection"] = "close"  # the rest of the body is not read
    await response(scope, receive, send)
