"""Errors as HTTP answers in OpenAI's shape."""

from __future__ import annotations

import json
import math
from asyncio import CancelledError
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from srr_guard.errors import (
    AllCandidatesFailedError,
    ConfigurationError,
    InvalidInputError,
    MissingExtraError,
    NotEnoughCandidatesError,
    ReferenceModelError,
    SamplingError,
    ScorerBusyError,
    ScorerError,
    ScoringError,
    UpstreamError,
    WithheldError,
)


class HttpError(Exception):
    """An HTTP answer in place of the one that was asked for.

    Args:
        status: HTTP status.
        message: For the client.
        code: A word for programs.
        param: Name of the field that is wrong.
        retry_after: Seconds after which to ask again.
        extra: Further fields of the body, beside `error`.
        headers: Further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The answer."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return json_response({"error": error, **self.extra}, self.status, headers)


def json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON answer."""
    return Response(encode(content), status, dict(headers or {}), media_type="application/json")


def encode(content: Any) -> bytes:
    """JSON as UTF-8; lone surrogates, which UTF-8 has no form for, are escaped."""
    try:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(content, separators=(",", ":")).encode()


def loads(content: str | bytes) -> Any:
    """Read the JSON of a server; numbers that JSON has no form for are null.

    Raises:
        ValueError: It is none.
        RecursionError: It is too deep.
    """
    return json.loads(content, parse_constant=lambda _: None, parse_float=finite)


def finite(number: str) -> float | None:
    """A number that has been read; None where it is too large for one."""
    value = float(number)
    return value if math.isfinite(value) else None


def problem_of(error: BaseException) -> HttpError:
    """The answer to a request that ended in this error. Unknown errors keep their text."""
    match error:
        case HttpError():
            return error
        case HTTPException():  # a body that FastAPI cannot parse
            return HttpError(error.status_code, str(error.detail), code="invalid_request")
        case WithheldError():
            summary = error.decision.summary()
            return HttpError(400, str(error), code="content_filter", extra={"srr_guard": summary})
        case AllCandidatesFailedError() | NotEnoughCandidatesError():
            return _of_candidates(error)
        case UpstreamError():
            return _of_upstream(error)
        case SamplingError():
            return HttpError(502, str(error), code="no_usable_answer")
        case ScorerBusyError():
            # its text may name addresses of ours
            wait = 1.0 if error.retry_after is None else error.retry_after
            message = "the scorer has too much to do"
            return HttpError(429, message, code="scorer_busy", retry_after=wait)
        case ScorerError() | ReferenceModelError():
            # its text may name folders and addresses of ours; where this very request may be why
            # it failed, nobody is told to leave the server alone
            after = error.retry_after if isinstance(error, ScoringError) else None
            message = f"the answers cannot be scored ({type(error).__name__})"
            return HttpError(503, message, code="scorer_unavailable", retry_after=after)
        case MissingExtraError():
            return HttpError(500, str(error), code="not_installed")
        case InvalidInputError() | ConfigurationError():
            return HttpError(400, str(error), code="invalid_request")
        case CancelledError():
            return HttpError(503, "the server stops", code="shutting_down", retry_after=1.0)
        case TimeoutError():
            return HttpError(504, "no answer came in time", code="timeout")
    return HttpError(500, "internal error; the log names its type", code="internal_error")


def _of_candidates(error: AllCandidatesFailedError | NotEnoughCandidatesError) -> HttpError:
    """The answer by what the candidates failed of; the upstream's own word first."""
    upstream = [cause for cause in error.causes if isinstance(cause, UpstreamError)]
    if upstream:
        return _of_upstream(max(upstream, key=lambda cause: not cause.is_retryable))
    kinds = (TimeoutError, InvalidInputError, ConfigurationError)
    if error.causes and all(isinstance(cause, kinds) for cause in error.causes):
        return problem_of(error.causes[0])
    causes = ", ".join(dict.fromkeys(str(cause) for cause in error.causes))
    if not all(isinstance(cause, SamplingError) for cause in error.causes):
        causes = ", ".join(dict.fromkeys(type(cause).__name__ for cause in error.causes))
    return HttpError(502, f"no candidate can be used: {causes}", code="no_usable_answer")


def _of_upstream(error: UpstreamError) -> HttpError:
    """Hand on what the client can mend; what is between us and the server is our fault."""
    if error.status == 429:
        after = 1.0 if error.retry_after is None else error.retry_after
        return HttpError(429, str(error), code="upstream_busy", retry_after=after)
    if error.status in (400, 404, 409, 413, 415, 422):
        detail = error.detail if isinstance(error.detail, Mapping) else {}
        message, code, param = (detail.get(name) for name in ("message", "code", "param"))
        return HttpError(
            error.status,
            message if isinstance(message, str) else str(error),
            code=code if isinstance(code, str) else "upstream_refused",
            param=param if isinstance(param, str) else None,
        )
    status = error.status if error.status in (503, 504) else 502
    return HttpError(status, str(error), code="upstream_failed", retry_after=error.retry_after)
