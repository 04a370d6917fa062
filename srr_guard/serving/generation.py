"""`/v1/chat/completions` and `/v1/responses`: sample, rank, answer as one."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import jsonschema  # noqa: F401 (else imported by the first check, which would block the loop)
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from srr_guard.conversation import Conversation
from srr_guard.decision import Decision
from srr_guard.errors import InvalidInputError
from srr_guard.formats import openai, responses
from srr_guard.formats.completion_chunks import completion_chunks
from srr_guard.formats.response_events import event_records
from srr_guard.formats.schemas import call_check, schema_check
from srr_guard.protocols import Delivery
from srr_guard.serving.backends import LIMIT_FIELDS, Door
from srr_guard.serving.gateway import Gateway
from srr_guard.serving.health import Caller
from srr_guard.serving.note import current_note
from srr_guard.serving.problems import encode, finite, json_response
from srr_guard.serving.spans import trace_headers

logger = logging.getLogger("srr_guard.serving")

_OURS = ("srr_guard", "stream", "stream_options", "n")


@dataclass(frozen=True)
class _Shape:
    """One of the two doors.

    Attributes:
        door: Its path.
        read: From the body to what was asked.
        delivery: The form of its answers, from the checks of a schema and of calls.
        lines: From an answer to the lines of a stream.
    """

    door: Door
    read: Callable[[Mapping[str, Any]], Conversation]
    delivery: Callable[[Any, Any], Delivery[Any]]
    lines: Callable[[Mapping[str, Any], Mapping[str, Any]], list[bytes]]


def _chat_messages(body: Mapping[str, Any]) -> Conversation:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidInputError("messages: give a list with at least one message")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidInputError(f"messages.{i}: give an object with `role` and `content`")
    return openai.as_conversation(messages)


def _chat_lines(answer: Mapping[str, Any], body: Mapping[str, Any]) -> list[bytes]:
    options = body.get("stream_options")
    usage = isinstance(options, Mapping) and bool(options.get("include_usage"))
    chunks = completion_chunks(answer, usage=usage)
    return [*(b"data: " + encode(chunk) + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]


def _event_lines(answer: Mapping[str, Any], body: Mapping[str, Any]) -> list[bytes]:
    return [
        b"event: " + record["type"].encode() + b"\ndata: " + encode(record) + b"\n\n"
        for record in event_records(answer)
    ]


CHAT = _Shape("/chat/completions", _chat_messages, openai.CompletionDelivery, _chat_lines)
RESPONSES = _Shape(
    "/responses", responses.as_conversation, responses.ResponseDelivery, _event_lines
)


async def generate(gateway: Gateway, shape: _Shape, request: Request) -> Response:
    """Answer one request.

    Raises:
        Exception: Whatever `problem_of` has an answer for.
    """
    body = read_json(await request.body())
    backend = gateway.answering()
    _require_plain(body)
    policy = gateway.policy(body.get("srr_guard"))
    asked = shape.read(body)
    forwarded = _forwarded(shape.door, body)
    limit = _unsaid_limit(shape.door, body, gateway.config.limits.output_tokens)
    note = current_note()
    caller = Caller(note.key.name if note.key else None, note.id)
    backend.require_ready(forwarded, caller)
    guard = policy.guard
    sampling = backend.plan(forwarded, guard.sampling)
    if sampling != guard.sampling:
        guard = policy.with_sampling(sampling)
    source = backend.source(
        shape.door,
        forwarded,
        guard=guard,
        asked=asked,
        limit=policy.limit,
        output_tokens=limit,
        headers=_forwarded_headers(gateway),
        caller=caller,
    )
    delivery = shape.delivery(schema_check(forwarded), call_check(forwarded))
    decision = await guard.adecide(asked, source, delivery=delivery)
    answer: Any = decision.output
    answer["srr_guard"] = {**answer["srr_guard"], "policy": policy.name}
    headers = decision_headers(decision)
    if not body.get("stream"):
        return json_response(answer, headers=headers)
    lines = shape.lines(answer, body)
    headers["cache-control"] = "no-store"
    return StreamingResponse(_each(lines), headers=headers, media_type="text/event-stream")


def read_json(body: bytes) -> dict[str, Any]:
    """Read the body of a request.

    Raises:
        InvalidInputError: It is no JSON object.
    """

    def refuse(name: str) -> NoReturn:
        raise InvalidInputError(f"the body holds {name:.20}, which is no number of JSON")

    def number(text: str) -> float:
        return float(text) if finite(text) is not None else refuse(text)

    try:
        found = json.loads(body, parse_constant=refuse, parse_float=number)
    except InvalidInputError:
        raise
    except (ValueError, RecursionError) as error:
        place = f" ({error})" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidInputError(f"the body is not valid JSON{place}") from error
    if not isinstance(found, dict):
        raise InvalidInputError(f"the body is no JSON object but {type(found).__name__!r}")
    return found


def decision_headers(decision: Decision[Any]) -> dict[str, str]:
    """The decision as one header. It holds numbers and our own words only."""
    summary = decision.summary()
    names = ("reason", "chosen", "p_safe", "sampled", "failed")
    return {"x-srr-guard-decision": json.dumps({name: summary[name] for name in names})}


def _require_plain(body: Mapping[str, Any]) -> None:
    """Refuse what would be lost on the way: other answers, and what is in the wrong place.

    Raises:
        InvalidInputError: The body asks for it.
    """
    n = body.get("n")
    if n is not None and (n != 1 or isinstance(n, bool)):
        raise InvalidInputError(
            f"n={n!r} asks for several answers, and the best one is returned: leave n out, and "
            'set the candidates with `extra_body={"srr_guard": {"n": ...}}`'
        )
    if not isinstance(body.get("stream", False), bool | None):
        raise InvalidInputError("stream: give true or false")
    options = body.get("stream_options")
    if not isinstance(options, Mapping | None):
        raise InvalidInputError("stream_options: give an object")
    if options and not isinstance(options.get("include_usage", False), bool | None):
        raise InvalidInputError("stream_options.include_usage: give true or false")
    inner = body.get("extra_body")
    if isinstance(inner, Mapping) and "srr_guard" in inner:
        raise InvalidInputError(
            "extra_body.srr_guard: `extra_body` is an argument of OpenAI's Python client, which "
            "puts its fields into the body: give `srr_guard` there"
        )


def _forwarded(door: Door, body: Mapping[str, Any]) -> dict[str, Any]:
    """The body as servers get it: without what is ours."""
    forwarded = {name: value for name, value in body.items() if name not in _OURS}
    if door == "/responses":
        forwarded.setdefault("store", False)  # n answers, of which one is known to the client
    return forwarded


def _unsaid_limit(door: Door, body: Mapping[str, Any], most: int | None) -> int | None:
    """The operator's limit of tokens, where the request names none.

    Raises:
        InvalidInputError: It names one that is no number, or not within the limit.
    """
    said = {name: body[name] for name in LIMIT_FIELDS[door] if body.get(name) is not None}
    for name, value in said.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidInputError(f"{name}={value!r:.40} is no number of tokens")
        if most is not None and value > most:
            raise InvalidInputError(f"{name}={value} is above {most}, the most here")
        if most is not None and value < 1:  # some servers read it as no limit
            raise InvalidInputError(f"{name}={value} is below 1, the least here")
    return None if said else most


def _forwarded_headers(gateway: Gateway) -> dict[str, str]:
    trace = trace_headers() if gateway.config.telemetry else {}
    return {**trace, "x-request-id": current_note().id}


async def _each(lines: list[bytes]) -> AsyncIterator[bytes]:
    for line in lines:
        yield line
