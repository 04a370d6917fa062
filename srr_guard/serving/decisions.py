"""`/v1/decisions`: the scorer's probabilities in the form of OpenAI's Decisions API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from srr_guard.core.scoring import TimedScorer
from srr_guard.errors import InvalidInputError
from srr_guard.formats import responses
from srr_guard.serving.gateway import Gateway
from srr_guard.serving.problems import json_response

MODEL = "srr-guard"


class _Question(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Predicate(_Question):
    """A statement about the answer: `instructions` is safe, harmful, helpful or refusal."""

    type: Literal["predicate"]
    instructions: str
    name: str | None = None


class Unanswered(BaseModel):
    """A question of a type that a fixed scorer cannot answer."""

    model_config = ConfigDict(extra="allow")

    type: Literal["choice", "score"]
    name: str | None = None


class DecisionRequest(BaseModel):
    """Questions about an answer.

    Attributes:
        model: Any name; it is not looked at.
        input: Messages as in the Responses API that end with the answer.
        questions: Each gets an answer in its place.
    """

    model_config = ConfigDict(extra="ignore")

    model: str
    input: list[dict[str, Any]] = Field(min_length=2)
    questions: list[Annotated[Predicate | Unanswered, Field(discriminator="type")]] = Field(
        min_length=1, max_length=400
    )


def router(gateway: Gateway, route_class: type[Any]) -> APIRouter:
    """The route."""
    routes = APIRouter(prefix="/v1", route_class=route_class)

    @routes.post("/decisions")
    async def decisions(body: DecisionRequest) -> Response:
        """Say how probable statements about an answer are."""
        last = body.input[-1]
        if last.get("role") != "assistant":
            raise InvalidInputError(
                "input: the last message is not the assistant's, so there is no answer to judge"
            )
        asked = responses.as_conversation({"input": body.input[:-1]})
        timeout = gateway.policy(None).guard.decision.scoring_timeout
        ranking = await TimedScorer(gateway.scorer, timeout=timeout).ascore(asked, [_text(last)])
        marks = ranking.marks(0)
        answers = [_answer(question, marks) for question in body.questions]
        return json_response({"model": MODEL, "answers": answers, "usage": _NO_TOKENS})

    return routes


_NO_TOKENS = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}


def _answer(question: Predicate | Unanswered, marks: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one question; a refusal where the scorer has none."""
    probability = None
    if isinstance(question, Predicate):
        p_safe = marks["p_safe"]
        known = {"safe": p_safe, "harmful": 1.0 - p_safe}
        known |= {"helpful": marks.get("p_help"), "refusal": marks.get("p_refusal")}
        probability = known.get(question.instructions.strip().lower())
    if probability is None:
        return {"type": "refusal", "name": question.name}
    return {"type": "predicate", "name": question.name, "probability": probability}


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [
        part.get("text") if part.get("type") == "output_text" else part.get("refusal")
        for part in parts
        if isinstance(part, Mapping)
    ]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidInputError(
            "input: the answer's content is neither a text nor a list of output_text and refusal"
        )
    return "".join(text for text in texts if text is not None)
