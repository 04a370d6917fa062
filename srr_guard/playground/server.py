"""Runs the playground under uvicorn, on this machine only."""

from __future__ import annotations

import asyncio
import logging
import socket
import webbrowser
from collections.abc import Callable

import uvicorn

from srr_guard.errors import ConfigurationError, SRRGuardError
from srr_guard.playground.app import Playground
from srr_guard.playground.bench import Bench
from srr_guard.serving.config import GatewayConfig
from srr_guard.serving.server import is_loopback, listen
from srr_guard.threads import blocking_calls

logger = logging.getLogger("srr_guard.playground")


def run_playground(
    bench: Bench,
    *,
    host: str = "127.0.0.1",
    port: int = 8322,
    browser: bool = True,
    say: Callable[[str], object] = print,
) -> None:
    """Serve the page until it is interrupted.

    Args:
        bench: The model and the scorers.
        host: A loopback address.
        port: 0 takes a free one.
        browser: Open the page in the browser.
        say: Told of the link.

    Raises:
        ConfigurationError: Other machines could reach the address, or the port cannot be had.
    """
    bound = listen_here(host, port)
    playground = Playground(bench, host=host, port=bound.getsockname()[1])
    say(f"the playground is at {playground.link}  (stop with Ctrl-C)")
    if browser:
        webbrowser.open(playground.link)
    playground_server(playground, bench).run(sockets=[bound])


def listen_here(host: str, port: int) -> socket.socket:
    """Bind a port that other machines cannot reach.

    Raises:
        ConfigurationError: They could, or it cannot be had.
    """
    if not is_loopback(host):
        raise ConfigurationError(
            f"host={host!r}: the playground shows prompts and answers to whoever opens it, so it "
            "listens on this machine only: give 127.0.0.1, localhost or ::1, or forward the port "
            "by ssh"
        )
    return listen(GatewayConfig(host=host, port=port))


def playground_server(playground: Playground, bench: Bench) -> uvicorn.Server:
    """A uvicorn server for the page; the scorers are loaded while it starts."""
    options = uvicorn.Config(
        playground,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    return _Server(options, bench)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, bench: Bench) -> None:
        super().__init__(config)
        self._bench = bench
        self._warming: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for scorer in self._bench.scorers.values():
            if (warm_up := getattr(scorer, "warm_up", None)) is not None:
                self._warming.append(asyncio.create_task(_warm(warm_up)))


async def _warm(warm_up: Callable[[], object]) -> None:
    try:
        await blocking_calls.run(warm_up)
    except SRRGuardError as error:  # the first run meets it again, and shows it
        logger.warning("the scorer cannot be loaded: %s", error)
