"""Requests over connections that are kept open and shared by all requests."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx2


async def send(
    client: httpx2.AsyncClient,
    method: str,
    url: str,
    *,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    stream: bool = False,
) -> httpx2.Response:
    """Send a request; once more where a kept connection is closed before an answer begins.

    Servers close idle connections, and may do so while a request is on its way. What fails on a
    new connection, or after the answer's head, is not sent again.

    Args:
        client: Its connections are used.
        method: HTTP method.
        url: Address.
        content: The body.
        headers: Added to those of the client.
        stream: The body of the answer is read by the caller, who closes it.

    Raises:
        httpx2.HTTPError: As the client raises it.
    """
    for is_last in (False, True):
        progress = _Progress()
        request = client.build_request(
            method, url, content=content, headers=headers, extensions={"trace": progress.note}
        )
        try:
            return await client.send(request, stream=stream)
        except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
            if is_last or not progress.was_stale:
                raise
    raise AssertionError("the last one returns or raises")


def no_cookies() -> CookieJar:
    """A jar that stays empty: what a server sets for one request is not for all others."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


class _Progress:
    """How far a request came, as the events of `httpcore2` tell."""

    def __init__(self) -> None:
        self._connected = self._sent = self._answered = False

    @property
    def was_stale(self) -> bool:
        """True if it went out on a connection that had been kept, and nothing came back."""
        return self._sent and not self._connected and not self._answered

    async def note(self, event: str, info: Mapping[str, Any]) -> None:
        _, _, step = event.partition(".")
        self._connected |= step.startswith("connect_")
        self._sent |= step == "send_request_headers.started"
        self._answered |= step == "receive_response_headers.complete"
