"""`SafetyDependency`: the guard as a dependency of FastAPI endpoints.

FastAPI reads the types of the dependency when it is used, so importing this adapter imports it.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, Unpack

from srr_guard import Decision, Guard
from srr_guard.errors import (
    ConfigurationError,
    InvalidInputError,
    MissingExtraError,
    SamplingError,
    ScorerError,
    WithheldError,
)
from srr_guard.wrappers.settings import GuardSettings, guard_from
from srr_guard_integrations.stream_forms import TextForm, form_of, texts_of

try:
    from fastapi import HTTPException, Response
    from fastapi.responses import StreamingResponse
except ImportError as error:
    raise MissingExtraError(
        package="fastapi", extra="fastapi", purpose="srr_guard_integrations.fastapi"
    ) from error

T = TypeVar("T")

HEADER = "x-srr-guard"
"""The response header that says why the request ended as it did (`Decision.reason`)."""


class SafetyDependency:
    """A dependency that hands each request a guard whose errors are HTTP errors.

    The endpoint calls `answer`, `check` or `stream` of what it is given (see `RequestGuard`), the
    `a...` twins in async endpoints. The response has the header `x-srr-guard`.

    | error | status |
    | --- | --- |
    | the prompt cannot be read | 422 |
    | no answer may be passed on, and the policy says to raise | 422 |
    | too few answers came back | 502 |
    | the answers could not be scored | 503 |

    Their details never hold text of an answer; the error itself is the exception's `__cause__`.

    Args:
        settings: Those of `Guard`, or `guard=`, a guard to share (see `GuardSettings`).

    Raises:
        ConfigurationError: A setting is of the wrong kind.

    Example:
        >>> from typing import Annotated
        >>> from fastapi import Depends, FastAPI
        >>> from fastapi.testclient import TestClient
        >>> from srr_guard.testing import FakeScorer
        >>> scorer = FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1)
        >>> safety, app = SafetyDependency(n=2, scorer=scorer), FastAPI()
        >>> answers = iter(["a bad answer", "a good answer"])
        >>> @app.get("/reply")
        ... def reply(q: str, guard: Annotated[RequestGuard, Depends(safety)]) -> str:
        ...     return guard.answer(q, lambda: next(answers))
        >>> with TestClient(app) as client:
        ...     client.get("/reply?q=why").json()
        'a good answer'
    """

    def __init__(self, **settings: Unpack[GuardSettings]) -> None:
        self.guard: Guard = guard_from(settings)

    def __call__(self, response: Response) -> "RequestGuard":
        """Make the guard of one request."""
        return RequestGuard(self.guard, response)


class RequestGuard:
    """The guard of one request; FastAPI makes it (see `SafetyDependency`).

    Attributes:
        decision: What was decided last; None before.
    """

    def __init__(self, guard: Guard, response: Response) -> None:
        self._guard = guard
        self._response = response
        self.decision: Decision[Any] | None = None

    def answer(self, prompt: Any, call: Callable[[], T]) -> T:
        """Return the best safe answer of n.

        Args:
            prompt: What was asked: anything that `Conversation.of` reads.
            call: Makes one answer; called once per candidate, on threads.

        Raises:
            HTTPException: There is no answer that may be passed on.
        """
        with _http_errors():
            return self._tell(self._guard.decide(prompt, lambda _: call()))

    async def aanswer(self, prompt: Any, call: Callable[[], Awaitable[T]]) -> T:
        """Like `answer`, without blocking the event loop; `call` is async, each call a task."""

        async def candidate(_: int) -> T:
            return await call()

        with _http_errors():
            return self._tell(await self._guard.adecide(prompt, candidate))

    def check(self, prompt: Any, answer: T) -> T:
        """Return an answer you have, or the refusal in its place.

        Raises:
            HTTPException: It may not be passed on, and the policy or its kind has no refusal.
        """
        with _http_errors():
            return self._tell(self._guard.check(prompt, answer))

    async def acheck(self, prompt: Any, answer: T) -> T:
        """Like `check`, without blocking the event loop."""
        with _http_errors():
            return self._tell(await self._guard.acheck(prompt, answer))

    def stream(
        self, prompt: Any, call: Callable[[], Any], *, media_type: str = "text/plain"
    ) -> StreamingResponse:
        """Select among n answers that come in pieces, then stream the chosen one.

        With `text/event-stream` each piece is sent as an event of its own, with `application/jsonl`
        and its like as a line of JSON; an answer in events or lines already is sent as it is, and
        read without them. A refusal has the same form.

        Args:
            prompt: What was asked: anything that `Conversation.of` reads.
            call: Makes one answer, an iterable of str, or of bytes in UTF-8.
            media_type: Of the response.

        Raises:
            HTTPException: There is no answer that may be passed on.
            ConfigurationError: The pieces are of another kind.
        """
        form = form_of(media_type)
        with _http_errors():
            decision = self._guard.decide(prompt, lambda _: texts_of(call()), delivery=form)
            return self._streamed(self._tell(decision), form, media_type)

    async def astream(
        self, prompt: Any, call: Callable[[], Any], *, media_type: str = "text/plain"
    ) -> StreamingResponse:
        """Like `stream`; `call` makes an async iterable."""
        form = form_of(media_type)

        async def candidate(_: int) -> list[Any]:
            return texts_of([piece async for piece in call()])

        with _http_errors():
            decision = await self._guard.adecide(prompt, candidate, delivery=form)
            return self._streamed(self._tell(decision), form, media_type)

    def _tell(self, decision: Decision[T]) -> T:
        self.decision = decision
        self._response.headers[HEADER] = decision.reason
        assert decision.output is not None
        return decision.output

    def _streamed(self, pieces: list[str], form: TextForm, media_type: str) -> StreamingResponse:
        if kinds := {type(piece).__name__ for piece in pieces if not isinstance(piece, str)}:
            raise ConfigurationError(
                f"the pieces are of type {min(kinds)!r}, and a response streams text: let `call` "
                "yield str"
            )
        headers = {HEADER: self._response.headers[HEADER]}
        return StreamingResponse(iter(form.sent(pieces)), media_type=media_type, headers=headers)


@contextmanager
def _http_errors() -> Iterator[None]:
    try:
        yield
    except WithheldError as error:
        headers = {HEADER: error.decision.reason}
        raise HTTPException(422, "no answer may be passed on", headers=headers) from error
    except InvalidInputError as error:
        raise HTTPException(422, str(error)) from error
    except ScorerError as error:
        raise HTTPException(503, "the answers could not be scored") from error
    except SamplingError as error:
        raise HTTPException(502, "the model gave no answer") from error
