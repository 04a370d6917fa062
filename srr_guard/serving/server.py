"""Runs the gateway under uvicorn."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from srr_guard.decision import Decision
from srr_guard.errors import ConfigurationError
from srr_guard.protocols import ResponseScorer
from srr_guard.serving import logs
from srr_guard.serving.app import GatewayApp
from srr_guard.serving.config import GatewayConfig

logger = logging.getLogger("srr_guard.serving")


def serve(
    config: GatewayConfig,
    *,
    scorer: ResponseScorer | None = None,
    on_decision: Callable[[Decision], object] | None = None,
    reread: Callable[[], GatewayConfig] | None = None,
) -> None:
    """Run the gateway until SIGTERM or SIGINT; requests that were accepted are finished first.

    SIGHUP takes over policies, keys and limits from what `reread` gives.

    Args:
        config: Its settings.
        scorer: Ranks the answers; None: the one of the settings.
        on_decision: Told of each decision.
        reread: Reads the settings anew; None: SIGHUP ends the process, as is usual.

    Raises:
        ConfigurationError: The port cannot be had.
        ScorerError: There is no such scorer.
    """
    logs.configure(config.logs)
    app = GatewayApp(config, scorer=scorer, on_decision=on_decision)
    warn_of_exposure(config)
    if app.gateway.backend is None:
        logger.info("no upstream and no local model: only scores and checks are served")
    bound = listen(config)
    logger.info("listening on http://%s:%d", *bound.getsockname()[:2])

    def on_start() -> None:
        if reread is not None:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, _reload, app, reread)

    gateway_server(app, config, on_start=on_start).run(sockets=[bound])


def gateway_server(
    app: GatewayApp, config: GatewayConfig, *, on_start: Callable[[], None] | None = None
) -> uvicorn.Server:
    """A uvicorn server for the gateway."""
    options = uvicorn.Config(
        app,
        http=_impatient(config.limits.head_seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=config.limits.shutdown_seconds,
    )
    return _Server(options, on_start)


def listen(config: GatewayConfig) -> socket.socket:
    """Bind the port.

    Raises:
        ConfigurationError: It cannot be had.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # the protocol is named because asyncio switches Nagle's algorithm off only where it is: an
    # answer's body would wait 40 ms for the client to acknowledge its head
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((config.host, config.port))
        bound.listen(2048)
        return bound
    except (OSError, OverflowError) as error:
        bound.close()
        raise ConfigurationError(
            f"host={config.host!r}, port={config.port}: cannot listen there ({error})"
        ) from error


def warn_of_exposure(config: GatewayConfig) -> None:
    """Warn where other machines can reach the port."""
    if is_loopback(config.host):
        return
    if not config.keys:
        logger.warning(
            "host=%r: every machine that reaches this port is served, for no keys are "
            "configured: add `keys`, or listen on 127.0.0.1",
            config.host,
        )
    logger.warning(
        "host=%r: keys and texts travel unencrypted: put a proxy with TLS in front", config.host
    )


def is_loopback(host: str) -> bool:
    """True if no other machine can reach this address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reload(app: GatewayApp, reread: Callable[[], GatewayConfig]) -> None:
    try:
        app.gateway.reload(reread())
    except Exception as error:  # noqa: BLE001 (whatever it is, the server goes on)
        app.gateway.keep(error)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._on_start is not None:
            self._on_start()


def _impatient(seconds: float) -> type[asyncio.Protocol]:
    """A protocol that closes connections on which the head of a request does not come in time."""

    class Impatient(H11Protocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._impatience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:  # the head is not whole yet
                self._wait_for_head()
            else:
                self._stop_waiting()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait_for_head(self) -> None:
            if self._impatience is None:
                self._impatience = self.loop.call_later(seconds, self._give_up)

        def _stop_waiting(self) -> None:
            if self._impatience is not None:
                self._impatience.cancel()
                self._impatience = None

        def _give_up(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

    return Impatient
