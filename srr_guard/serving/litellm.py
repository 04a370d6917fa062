"""LiteLLM's Generic Guardrail API: its proxy asks here about requests and answers."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Literal

from fastapi import APIRouter
from langchain_core.messages import AIMessage
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from srr_guard.characters import is_blank
from srr_guard.conversation import Conversation
from srr_guard.errors import InvalidInputError
from srr_guard.formats.openai import as_conversation, as_message
from srr_guard.serving.gateway import Gateway
from srr_guard.serving.note import current_note
from srr_guard.serving.problems import json_response
from srr_guard.serving.scores import outcome_of

PATH = "/beta/litellm_basic_guardrail_api"


class GuardrailRequest(BaseModel):
    """What LiteLLM sends; fields that are not read here are let be.

    Attributes:
        input_type: A request before the model sees it, or the answer after.
        litellm_call_id: The same for both.
        structured_messages: The request's messages; LiteLLM sends none with an answer.
        texts: The texts of the request or the answer.
        tool_calls: Calls of the answer.
        images: Images of the request or the answer.
        additional_provider_specific_params: `{"srr_guard": {...}}` names a policy.
    """

    model_config = ConfigDict(extra="ignore")

    input_type: Literal["request", "response"]
    litellm_call_id: str | None = None
    structured_messages: list[dict[str, Any]] | None = None
    texts: list[str] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    images: list[str] | None = None
    additional_provider_specific_params: dict[str, Any] | None = None


def router(gateway: Gateway, route_class: type[Any]) -> APIRouter:
    """The route. Requests are remembered for their answers, ten minutes at most."""
    routes = APIRouter(route_class=route_class)
    asked_before = Remembered()

    @routes.post(PATH)
    async def guardrail(body: GuardrailRequest) -> Response:
        """Remember a request; block an answer that is held."""
        given = body.additional_provider_specific_params or {}
        policy = gateway.policy(given.get("srr_guard"), checking=True)
        key = current_note().key
        call = (key.name if key else "", body.litellm_call_id or "")
        asked = _asked(body)
        if body.input_type == "request":
            if asked is not None and body.litellm_call_id:
                asked_before.put(call, asked)
            return json_response({"action": "NONE"})
        if body.structured_messages is None:
            asked = asked_before.get(call)
        if asked is None:
            return _blocked(
                "the request of this answer is not known here, so it cannot be scored: run the "
                "guardrail with `mode: [pre_call, post_call]`, on one server"
            )
        answers = _answers(body)
        if len(answers) > (most := gateway.config.limits.answers):
            raise InvalidInputError(f"{len(answers)} answers to check are more than {most}")
        guard = policy.checking
        for answer in answers:
            outcome = outcome_of(await guard.acheck(asked, answer))
            if outcome["outcome"] == "hold":
                return _blocked(guard.decision.refusal)
        return json_response({"action": "NONE"})

    return routes


class Remembered:
    """Conversations by call, the oldest forgotten first.

    Args:
        seconds: How long each is kept.
        characters: How much is kept of all together.
        clock: Gives the time in seconds.
    """

    def __init__(
        self,
        *,
        seconds: float = 600.0,
        characters: int = 64_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._most = characters
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str], tuple[float, int, Conversation]] = OrderedDict()
        self._size = 0

    def put(self, call: tuple[str, str], asked: Conversation) -> None:
        """Remember what was asked."""
        self._forget(call)
        size = sum(len(turn.text) for turn in asked.turns) + 200
        self._kept[call] = (self._clock(), size, asked)
        self._size += size
        while self._kept and (self._size > self._most or self._oldest_is_over()):
            self._forget(next(iter(self._kept)))

    def get(self, call: tuple[str, str]) -> Conversation | None:
        """What was asked; None if it is not known any more."""
        found = self._kept.get(call)
        return found[2] if found and self._clock() - found[0] <= self._seconds else None

    def _oldest_is_over(self) -> bool:
        return self._clock() - next(iter(self._kept.values()))[0] > self._seconds

    def _forget(self, call: tuple[str, str]) -> None:
        if (found := self._kept.pop(call, None)) is not None:
            self._size -= found[1]


def _asked(body: GuardrailRequest) -> Conversation | None:
    if body.structured_messages:
        return as_conversation(body.structured_messages)
    if body.input_type == "request" and not all(map(is_blank, body.texts or ())):
        return Conversation.of("\n".join(body.texts or ()))
    return None


def _answers(body: GuardrailRequest) -> list[Any]:
    """Each text that says something, the calls together, and what cannot be read."""
    answers: list[Any] = [text for text in body.texts or () if not is_blank(text)]
    if body.tool_calls:
        answers.append(as_message({"role": "assistant", "tool_calls": body.tool_calls}))
    if body.images:
        blocks: list[str | dict[Any, Any]] = [{"type": "image_url"} for _ in body.images]
        answers.append(AIMessage(blocks))
    return answers


def _blocked(reason: str) -> Response:
    found: Mapping[str, Any] = {"action": "BLOCKED", "blocked_reason": reason}
    return json_response(found)
