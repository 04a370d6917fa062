"""The door: only this machine's own page may ask, and nothing but it may run in it."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from srr_guard.serving.front import App, Message, Receive, Scope, Send
from srr_guard.serving.problems import HttpError

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of every answer."""

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

SESSION = "/api/session"


class Door:
    """An ASGI application around another one, for one browser on this machine.

    A request must name this server as its host, so that no foreign name can be pointed here (DNS
    rebinding). A browser's request must come from the page itself. `/api/` needs the cookie that
    the printed link is exchanged for.

    Args:
        app: Answers the requests that come through.
        host: Address that is listened on.
        port: Port.
        token: Secret of the link; None: a new one.

    Attributes:
        token: The secret of the link.
    """

    def __init__(self, app: App, *, host: str, port: int, token: str | None = None) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in (_in_url(host), "127.0.0.1", "localhost")}
        self._cookie = f"srr_guard_playground_{port}"
        self._session = secrets.token_urlsafe(32)
        self._link = f"http://{_in_url(host)}:{port}/"
        self.token = token or secrets.token_urlsafe(24)

    @property
    def link(self) -> str:
        """The address to open, with the token where no server or log sees it."""
        return f"{self._link}#token={self.token}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        guarded = _with_headers(send)
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        try:
            self._require_own(headers)
            path = scope["path"]
            if path.startswith("/api/") and path != SESSION:
                self._require_session(headers)
        except HttpError as problem:
            response = problem.response()
            response.headers["connection"] = "close"  # a body is not read
            await response(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)

    def admit(self, token: str) -> str:
        """Exchange the link's token for the cookie of a session.

        Raises:
            HttpError: It is another token.
        """
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            raise HttpError(
                401,
                "the link is not valid any more: open the one that `srr-guard playground` printed",
                code="invalid_token",
            )
        return f"{self._cookie}={self._session}; HttpOnly; SameSite=Strict; Path=/api/"

    def _require_own(self, headers: Mapping[str, str]) -> None:
        host = headers.get("host", "").lower()
        if host not in self._hosts:
            raise HttpError(421, "this server answers to its own address only", code="wrong_host")
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "same-origin")
        if (origin is not None and origin != f"http://{host}") or site not in (
            "same-origin",
            "none",
        ):
            raise HttpError(403, "requests of other pages are not answered", code="wrong_origin")

    def _require_session(self, headers: Mapping[str, str]) -> None:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            found = None
        given = "" if found is None else found.value
        if not hmac.compare_digest(given.encode(), self._session.encode()):
            raise HttpError(
                401, "open the link that `srr-guard playground` printed", code="no_session"
            )


def _with_headers(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message["headers"] = [*message.get("headers", ()), *own]
        await send(message)

    return guarded


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
