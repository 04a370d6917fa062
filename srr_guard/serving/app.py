"""The application: routes, and the front door around them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from srr_guard import __version__
from srr_guard.decision import Decision
from srr_guard.protocols import ResponseScorer
from srr_guard.serving import decisions, generation, litellm, scores
from srr_guard.serving.config import GatewayConfig
from srr_guard.serving.front import OPEN, Front
from srr_guard.serving.gateway import Gateway
from srr_guard.serving.logs import log_request
from srr_guard.serving.metrics import CONTENT_TYPE
from srr_guard.serving.note import Note, current_note
from srr_guard.serving.problems import HttpError, json_response, problem_of
from srr_guard.serving.routes import answering
from srr_guard.serving.spans import request_span

logger = logging.getLogger("srr_guard.serving")


class GatewayApp:
    """The gateway as an ASGI application.

    Attributes:
        gateway: Its state.
    """

    def __init__(
        self,
        config: GatewayConfig,
        *,
        scorer: ResponseScorer | None = None,
        on_decision: Callable[[Decision], object] | None = None,
        model: Any = None,
    ) -> None:
        self.gateway = Gateway(
            config,
            scorer=scorer,
            on_decision=on_decision,
            inside=lambda: self._front.inside,
            model=model,
        )
        inner, paths = _routes(self.gateway)
        self._front = Front(
            inner,
            keys=lambda: self.gateway.keys,
            limits=lambda: self.gateway.config.limits,
            endpoints=paths,
            ended=self._ended,
            around=request_span if config.telemetry else nullcontext,
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection, as ASGI has it."""
        await self._front(scope, receive, send)

    def _ended(self, note: Note, seconds: float) -> None:
        self.gateway.metrics.ended(note, seconds)
        log_request(note, seconds)


def create_app(
    config: GatewayConfig,
    *,
    scorer: ResponseScorer | None = None,
    on_decision: Callable[[Decision], object] | None = None,
) -> GatewayApp:
    """Make the gateway as an ASGI application, to be run by any server.

    `serve` runs it under uvicorn, with limits for slow clients and reloading.

    Args:
        config: Its settings.
        scorer: Ranks the answers; None: the one of the settings.
        on_decision: Told of each decision, on the event loop (see `Guard`).

    Raises:
        ScorerError: There is no such scorer.
        ConfigurationError: The audit log has no folder.

    Example:
        >>> from srr_guard.serving import GatewayConfig
        >>> from srr_guard.testing import FakeScorer
        >>> app = create_app(GatewayConfig(), scorer=FakeScorer(lambda prompt, answer: 0.9))
        >>> app.gateway.not_ready
        'no score has been made yet'
    """
    return GatewayApp(config, scorer=scorer, on_decision=on_decision)


def _problem_response(error: Exception) -> Response:
    note = current_note()
    if isinstance(error, RequestValidationError):
        problem = _of_validation(error)
    else:
        problem = problem_of(error)
    note.error = type(error).__name__
    if problem.status == 500:
        logger.error("a request failed with %s (%s)", type(error).__name__, note.id)
        logger.debug("traceback", exc_info=error)
    response = problem.response()
    if note.decision is not None:
        response.headers.update(generation.decision_headers(note.decision))
    return response


_ROUTE = answering(_problem_response)


def _of_validation(error: RequestValidationError) -> HttpError:
    """Name the field, never its value."""
    found = error.errors()[0]
    if found["type"] == "json_invalid":
        return HttpError(400, "the body is not valid JSON", code="invalid_request")
    place = ".".join(str(part) for part in found["loc"][1:]) or None
    return HttpError(422, f"{place or 'body'}: {found['msg']}", code="invalid_request", param=place)


def _no_route(request: Request, error: HTTPException) -> HttpError:
    """The answer where no route fits, or not with this method."""
    if error.status_code != 405:
        return HttpError(error.status_code, "there is nothing here", code="not_found")
    served = set((error.headers or {}).get("Allow", "").split(", "))
    if "GET" in served:
        served.add("HEAD")  # the front door takes one for the other
    allowed = ", ".join(sorted(served))
    return HttpError(
        405,
        f"{request.method:.20} is not served here: use {allowed}",
        code="method_not_supported",
        headers={"allow": allowed},
    )


def _routes(gateway: Gateway) -> tuple[FastAPI, frozenset[str]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with gateway.running():
            yield

    app = FastAPI(
        title="srr_guard",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # the front door makes the span of a request, and only where the settings say so
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.router.route_class = _ROUTE

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return _no_route(request, error).response()

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> Response:
        return json_response({"status": "ok"})

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> Response:
        why = gateway.not_ready
        body = {"status": "ready"} if why is None else {"status": "not ready", "reason": why}
        return json_response(body, 200 if why is None else 503)

    if gateway.config.metrics:

        @app.get("/metrics", include_in_schema=False)
        async def metrics() -> Response:
            return Response(gateway.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/v1/models")
    async def models() -> Response:
        """List the models."""
        backend = gateway.backend
        listed = await backend.models() if backend is not None else []
        return json_response({"object": "list", "data": listed})

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> Response:
        """Describe one model."""
        backend = gateway.backend
        for found in await backend.models() if backend is not None else []:
            if found["id"] == model:
                return json_response(found)
        raise HttpError(404, f"there is no model {model!r}", code="model_not_found", param="model")

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation with the best of n candidates."""
        return await generation.generate(gateway, generation.CHAT, request)

    @app.post("/v1/responses")
    async def responses(request: Request) -> Response:
        """Answer a conversation with the best of n candidates."""
        return await generation.generate(gateway, generation.RESPONSES, request)

    app.include_router(scores.router(gateway, _ROUTE))
    app.include_router(decisions.router(gateway, _ROUTE))
    app.include_router(litellm.router(gateway, _ROUTE))
    return app, frozenset({*OPEN, *app.openapi()["paths"]})
