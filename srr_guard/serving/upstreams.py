"""Servers that answer: which one is asked, and how its answer is read."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import httpx2

from srr_guard import __version__
from srr_guard.errors import UpstreamError
from srr_guard.kept_connections import no_cookies, send
from srr_guard.protocols import CutOff
from srr_guard.retry_after import LONGEST_REST, seconds_to_wait
from srr_guard.serving.config import UpstreamConfig
from srr_guard.serving.health import Call, Caller, Health
from srr_guard.serving.problems import loads
from srr_guard.serving.streams import Watching, is_stream, read_stream
from srr_guard.visible import visible_line

logger = logging.getLogger("srr_guard.serving")

_RETRYABLE = (408, 409, 425, 429)


class Observer(Protocol):
    """Told of each call of a server."""

    def __call__(self, upstream: str, outcome: str) -> None:
        """Count a call.

        Args:
            upstream: Name of the server.
            outcome: `ok`, `cut`, a status, `unreachable`, `timeout`, `crowded`, `garbage`,
                `cancelled`.
        """
        ...


@dataclass
class _Server:
    """A server and how it has been doing."""

    config: UpstreamConfig
    client: httpx2.AsyncClient
    health: Health
    credit: float = 0.0

    def serves(self, model: Any) -> bool:
        return self.config.models is None or model in self.config.models


class Upstreams:
    """OpenAI-compatible servers with weights and fallbacks. A context manager of one event loop.

    Args:
        configs: At least one.
        answer_bytes: Largest answer that is read.
        observe: Told of each call.
        transport: Stands in for the network in tests.
        clock: Gives the time in seconds.
    """

    def __init__(
        self,
        configs: Sequence[UpstreamConfig],
        *,
        answer_bytes: int,
        observe: Observer,
        transport: httpx2.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = [
            _Server(
                config,
                _client(config, transport),
                Health(failures=config.failures, rest=config.rest, clock=clock),
            )
            for config in configs
        ]
        self._answer_bytes = answer_bytes
        self._observe = observe
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Upstreams:
        for server in self._servers:
            await self._stack.enter_async_context(server.client)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.aclose()

    def require_one(self, model: Any, caller: Caller) -> None:
        """Refuse a request that no server can take now, before anything is asked.

        Raises:
            UpstreamError: No server has this model, or all of them are left alone.
        """
        servers = [server for server in self._servers if server.serves(model)]
        if not servers:
            raise UpstreamError(
                f"no server has the model {model!r}; see /v1/models", status=404, is_retryable=False
            )
        wait = min(server.health.last_resort_wait(caller) for server in servers)
        if wait > 0.0:
            raise UpstreamError(
                "no server answers at the moment", status=503, retry_after=wait, is_retryable=False
            )

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        caller: Caller,
        *,
        output_tokens: int | None = None,
        watching: Watching | None = None,
    ) -> dict[str, Any] | CutOff[dict[str, Any]]:
        """Ask one server after another until one answers.

        Calls of one request wait for each other where a server is on trial.

        Args:
            path: Behind `/v1`.
            body: The request.
            headers: Added to those of the server.
            caller: Who asks.
            output_tokens: Most tokens of the answer, in the server's own field for it; None: as
                the body says.
            watching: Follows the answer, which is streamed then; None: it comes whole.

        Returns:
            The answer; a CutOff with what came of it where it was cut off.

        Raises:
            UpstreamError: None does, or one says that the request is wrong.
        """
        model = body.get("model")
        last: UpstreamError | None = None
        while last is None:
            for server, call in self._in_turn(model, caller):
                own = _fitted(server.config, path, body, output_tokens)
                try:
                    return await self._ask(server, call, path, own, headers, caller, watching)
                except UpstreamError as error:
                    if not error.is_retryable and error.status != 404:
                        raise
                    if last is None or error.is_retryable:
                        last = error  # another server may have the model that this one lacks
            trials = [s.health.trial(caller) for s in self._servers if s.serves(model)]
            trial = next((found for found in trials if found is not None), None)
            if last is None and trial is None:
                self.require_one(model, caller)
                last = UpstreamError("no server answers at the moment", status=503)
            elif last is None and trial is not None:
                await trial.wait()
        raise last

    async def models(self) -> list[dict[str, Any]]:
        """The models of all servers, each once; of those that answer."""
        found: dict[str, dict[str, Any]] = {}
        listed = await asyncio.gather(*map(self._models_of, self._servers))
        for model in (model for models in listed for model in models):
            found.setdefault(model["id"], model)
        return list(found.values())

    async def _models_of(self, server: _Server) -> list[dict[str, Any]]:
        config = server.config
        if config.models is not None:
            return [_model(name, config.label) for name in config.models]
        try:
            answer = await self._call(server, "GET", "/models", None, {})
        except UpstreamError:
            return []
        data = answer.get("data") if isinstance(answer, dict) else None
        models = data if isinstance(data, list) else []
        names = [m["id"] for m in models if isinstance(m, dict) and isinstance(m.get("id"), str)]
        return [_model(name, config.label) for name in names]

    def _in_turn(self, model: Any, caller: Caller) -> Iterator[tuple[_Server, Call]]:
        """Servers that may be asked: by weight, then fallbacks in their order.

        Where all of them rest, each may still be asked once a second.
        """
        servers = [server for server in self._servers if server.serves(model)]
        ready = [server for server in servers if server.health.wait(caller) == 0.0]
        last_resort = not ready
        ready = ready or [s for s in servers if s.health.last_resort_wait(caller) == 0.0]
        primary = [server for server in ready if not server.config.fallback]
        for server in primary:
            server.credit += server.config.weight
        primary.sort(key=lambda server: -server.credit)
        if primary:
            primary[0].credit -= sum(server.config.weight for server in primary)
        for server in [*primary, *(server for server in ready if server.config.fallback)]:
            if (call := server.health.call(caller, last_resort=last_resort)) is not None:
                yield server, call

    async def _ask(
        self,
        server: _Server,
        call: Call,
        path: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        caller: Caller,
        watching: Watching | None,
    ) -> dict[str, Any] | CutOff[dict[str, Any]]:
        if watching is not None:
            usage = {} if path == "/responses" else {"stream_options": {"include_usage": True}}
            body = {**body, "stream": True, **usage}
        content = json.dumps(body).encode()
        with call:
            try:
                answer = await self._call(server, "POST", path, content, headers, watching)
            except UpstreamError as error:
                logger.warning("%s", visible_line(str(error)))
                before = server.health.wait(caller)
                _tell(call, error, caller)
                if (wait := server.health.wait(caller)) > before:
                    logger.warning("%r is left alone for %.1f s", server.config.label, wait)
                raise
            call.succeeded()
        return answer

    async def _call(
        self,
        server: _Server,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        watching: Watching | None = None,
    ) -> dict[str, Any] | CutOff[dict[str, Any]]:
        label, outcome = server.config.label, "unreachable"
        try:
            url = f"{server.config.url}{path}"
            async with aclosing(
                await send(server.client, method, url, content=body, headers=headers, stream=True)
            ) as response:
                if watching is not None and is_stream(response):
                    outcome, most = "garbage", self._answer_bytes
                    refusal = partial(_refusal, server.config)
                    streamed = await read_stream(
                        response, path, watching, label=label, most=most, refusal=refusal
                    )
                    outcome = "cut" if isinstance(streamed, CutOff) else "ok"
                    return streamed
                content = bytearray()
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > self._answer_bytes:
                        raise _failed(label, "gave too large an answer", 502)
            outcome = "ok" if response.status_code == 200 else str(response.status_code)
            if response.status_code != 200:
                raise _refused(server.config, response, _object(bytes(content)))
            answer = _object(bytes(content))
            if answer is None:
                outcome = "garbage"
                raise _failed(label, "gave no JSON object", 502)
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.InvalidURL) as error:
            raise _UnusableError(
                f"the server {label!r} does not answer ({type(error).__name__})", status=502
            ) from error
        except httpx2.PoolTimeout as error:
            outcome = "crowded"
            raise _CrowdedError(
                f"all connections to the server {label!r} are taken", status=503
            ) from error
        except httpx2.TimeoutException as error:
            outcome = "timeout"
            raise _failed(label, "took too long", 504) from error
        except httpx2.HTTPError as error:
            raise _failed(label, f"does not answer ({type(error).__name__})", 502) from error
        finally:
            self._observe(label, outcome)
        return answer


class _UnusableError(UpstreamError):
    """No request can be made of this server."""


class _CrowdedError(UpstreamError):
    """The request was not sent, because too many are under way."""


def _tell(call: Call, error: UpstreamError, caller: Caller) -> None:
    """Say how the server did. Refusals are answers; who caused a failure decides for whom it is."""
    if isinstance(error, _CrowdedError):
        return
    if isinstance(error, _UnusableError) or error.status == 401 or error.status < 400:
        call.unusable()
    elif error.status in (429, 503) and error.retry_after:
        call.rest(min(error.retry_after, LONGEST_REST))
    elif error.status >= 500 and error.status != 501:
        call.failed(by=caller.request)
    else:
        call.succeeded()


def _client(
    config: UpstreamConfig, transport: httpx2.AsyncBaseTransport | None
) -> httpx2.AsyncClient:
    headers = {"content-type": "application/json", "user-agent": f"srr-guard/{__version__}"}
    if (secret := config.secret()) is not None:
        headers["authorization"] = f"Bearer {secret}"
    most = config.connections
    return httpx2.AsyncClient(
        headers=headers,
        timeout=httpx2.Timeout(config.timeout, connect=min(5.0, config.timeout)),
        limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
        transport=transport,
        cookies=no_cookies(),
    )


def _fitted(
    config: UpstreamConfig, path: str, body: Mapping[str, Any], output_tokens: int | None
) -> Mapping[str, Any]:
    """The body for one server: with its model, and the limit in its own field."""
    own: dict[str, Any] = {} if config.model is None else {"model": config.model}
    if output_tokens is not None:
        field = "max_output_tokens" if path == "/responses" else config.limit_field
        own[field] = output_tokens
    return {**body, **own}


def _model(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def _failed(label: str, what: str, status: int) -> UpstreamError:
    return UpstreamError(f"the server {label!r} {what}", status=status)


def _refused(config: UpstreamConfig, response: httpx2.Response, answer: Any) -> UpstreamError:
    wait = seconds_to_wait(response.headers) if response.status_code >= 400 else None
    return _refusal(config, response.status_code, answer, wait)


def _refusal(
    config: UpstreamConfig, status: int, answer: Any, retry_after: float | None = None
) -> UpstreamError:
    """The error for what a server refused, with its own word."""
    said, secret = _said(answer), config.secret()
    if said is not None and secret is not None:  # some servers repeat the key that they got
        said = {k: v.replace(secret, "[key]") if isinstance(v, str) else v for k, v in said.items()}
    return UpstreamError(
        f"the server {config.label!r} answered with HTTP {status}",
        status=status,
        detail=said,
        retry_after=retry_after,
        is_retryable=status in _RETRYABLE or status >= 500 or status in (401, 403) or status < 400,
    )


def _said(answer: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The error in an answer, in OpenAI's form; FastAPI, Ollama and older servers have others."""
    if answer is None:
        return None
    error = answer.get("error", answer.get("detail", answer))
    if isinstance(error, str):
        return {"message": error}
    if isinstance(error, list):
        wrong = [one for one in error if isinstance(one, Mapping)]
        paths = [loc if isinstance(loc := one.get("loc"), list) else [] for one in wrong]
        places = [".".join(map(str, path[1:])) for path in paths]
        pairs = zip(places, wrong, strict=True)
        return {
            "message": "; ".join(f"{place}: {one.get('msg')}" for place, one in pairs),
            "param": places[0] if places else None,
        }
    return error if isinstance(error, Mapping) and "message" in error else None


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        found = loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
