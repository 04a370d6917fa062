"""The page's server as an ASGI application."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from srr_guard import __version__
from srr_guard.errors import InvalidInputError, SRRGuardError
from srr_guard.playground import history
from srr_guard.playground.bench import Bench
from srr_guard.playground.door import SESSION, Door
from srr_guard.playground.examples import EXAMPLES
from srr_guard.playground.requests import (
    MOST,
    ColumnSettings,
    DecideRequest,
    ExplainRequest,
    LabelRequest,
    RunRequest,
    SessionRequest,
)
from srr_guard.playground.runs import Event, Run, decide, live, read_prompt
from srr_guard.playground.words import one_line
from srr_guard.serving.config import LimitsConfig
from srr_guard.serving.front import Front
from srr_guard.serving.keys import Keys
from srr_guard.serving.problems import HttpError, encode, json_response
from srr_guard.serving.routes import answering

logger = logging.getLogger("srr_guard.playground")

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


class Playground:
    """The playground as an ASGI application. Serve it on a loopback address only.

    Args:
        bench: The model and the scorers.
        host: Address that is listened on.
        port: Port.
        token: Secret of the link; None: a new one.

    Example:
        >>> from srr_guard.playground.bench import Bench
        >>> from srr_guard.testing import FakeScorer
        >>> bench = Bench(model=None, scorer=FakeScorer(lambda prompt, answer: 0.9))
        >>> Playground(bench, host="127.0.0.1", port=8322, token="secret").link
        'http://127.0.0.1:8322/#token=secret'
    """

    def __init__(self, bench: Bench, *, host: str, port: int, token: str | None = None) -> None:
        limits = LimitsConfig()
        keys = Keys(())
        inner = _routes(bench, lambda given: self._door.admit(given))
        front = Front(
            inner,
            keys=lambda: keys,
            limits=lambda: limits,
            endpoints=frozenset(),
            ended=lambda note, seconds: None,
        )
        self._door = Door(front, host=host, port=port, token=token)

    @property
    def link(self) -> str:
        """The address to open."""
        return self._door.link

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection, as ASGI has it."""
        await self._door(scope, receive, send)


def _problem(error: Exception) -> HttpError:
    match error:
        case HttpError():
            return error
        case RequestValidationError():
            found = error.errors()[0]
            place = ".".join(str(part) for part in found["loc"][1:]) or "body"
            return HttpError(422, f"{place}: {found['msg']}", code="invalid_request")
        case HTTPException():  # a body that FastAPI cannot parse
            return HttpError(error.status_code, str(error.detail), code="invalid_request")
        case SRRGuardError():
            return HttpError(400, one_line(error), code="invalid_request")
    logger.error("a request failed", exc_info=error)
    return HttpError(500, one_line(error), code="internal_error")


def _page_files() -> dict[str, tuple[bytes, str]]:
    folder = files("srr_guard.playground") / "static"
    return {
        file.name: (file.read_bytes(), _TYPES["." + file.name.rsplit(".", maxsplit=1)[-1]])
        for file in folder.iterdir()
        if file.is_file()
    }


def _routes(bench: Bench, admit: Callable[[str], str]) -> FastAPI:
    app = FastAPI(
        title="srr_guard playground",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.router.route_class = answering(lambda error: _problem(error).response())
    page = _page_files()

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        text = "there is nothing here" if error.status_code == 404 else str(error.detail)
        return HttpError(error.status_code, text, code="not_found").response()

    @app.get("/")
    async def index() -> Response:
        return _file(page, "index.html")

    @app.get("/static/{name}")
    async def static(name: str) -> Response:
        return _file(page, name)

    @app.post(SESSION)
    async def session(body: SessionRequest) -> Response:
        return Response(status_code=204, headers={"set-cookie": admit(body.token)})

    @app.get("/api/setup")
    async def setup() -> Response:
        return json_response(
            {
                "version": __version__,
                "answers": bench.answers,
                "most": MOST,
                "scorers": bench.labelled_scorers(),
                "recipes": bench.recipes(),
                "examples": [asdict(example) for example in EXAMPLES],
                "defaults": ColumnSettings().model_dump(mode="json"),
            }
        )

    @app.post("/api/run")
    async def run(body: RunRequest) -> Response:
        begun = bench.begin(body)
        return StreamingResponse(
            _as_stream(live(begun, body.columns), begun), media_type="text/event-stream"
        )

    @app.post("/api/decide")
    async def decide_again(body: DecideRequest) -> Response:
        found = bench.store.get(body.run)
        gates = [await read_prompt(found, settings.scorer) for settings in body.columns]
        outcomes = [await decide(found, settings) for settings in body.columns]
        if not any("needs" in outcome for outcome in outcomes):
            found.columns, found.outcomes = list(body.columns), outcomes
        told = [gate for gate in gates if gate is not None]
        return json_response({"columns": outcomes, "gates": told})

    @app.post("/api/explain")
    async def explain(body: ExplainRequest) -> Response:
        return json_response(await _explained(bench.store.get(body.run), body))

    @app.get("/api/history")
    async def listed() -> Response:
        return json_response({"runs": history.listed(bench.store.newest_first())})

    @app.get("/api/runs/{name}")
    async def one(name: str) -> Response:
        return json_response(history.told(bench.store.get(name)))

    @app.post("/api/label")
    async def label(body: LabelRequest) -> Response:
        found = bench.store.get(body.run)
        found.text(body.candidate)
        if body.label is None:
            found.labels.pop(body.candidate, None)
        else:
            found.labels[body.candidate] = body.label
        total = sum(len(kept.labels) for kept in bench.store.newest_first())
        return json_response({"labels": total})

    @app.get("/api/export")
    async def export() -> Response:
        lines = history.as_json_lines(bench.store.newest_first())
        disposition = 'attachment; filename="playground.jsonl"'
        return Response(
            lines, media_type="application/x-ndjson", headers={"content-disposition": disposition}
        )

    return app


def _file(page: dict[str, tuple[bytes, str]], name: str) -> Response:
    if name not in page:
        raise HttpError(404, "there is nothing here", code="not_found")
    content, kind = page[name]
    return Response(content, media_type=kind)


async def _as_stream(events: AsyncIterator[Event], run: Run) -> AsyncIterator[bytes]:
    """Events in the form of server-sent events."""
    try:
        async for name, data in events:
            yield _event(name, data)
    except Exception as error:
        logger.error("the run %s failed", run.id, exc_info=error)
        yield _event("error", {"message": one_line(error)})


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + encode(data) + b"\n\n"


async def _explained(run: Run, body: ExplainRequest) -> dict[str, Any]:
    """The sentences of an answer and the effect of each on its score."""
    scores = run.scores.get(body.scorer)
    if scores is None or not scores.explains:
        raise InvalidInputError("this scorer does not explain its scores")
    key = (body.scorer, body.candidate)
    if key not in run.explained:
        found = await scores.explain(run.text(body.candidate))
        sentences = found.effects or found.harmless.sentences
        run.explained[key] = {
            "text": found.harmless.text,
            "sentences": [sentence.model_dump() for sentence in sentences],
        }
    return run.explained[key]
