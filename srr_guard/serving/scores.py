"""`/v1/score`, `/v1/rank`, `/v1/explain` and `/v1/checks`: judge answers that are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from srr_guard.conversation import Conversation, Turn
from srr_guard.core.scoring import TimedScorer
from srr_guard.decision import Decision, Ranking, ScoredCandidate
from srr_guard.errors import AllCandidatesFailedError, InvalidInputError
from srr_guard.formats.openai import as_message
from srr_guard.serving.gateway import Gateway
from srr_guard.serving.problems import HttpError, json_response
from srr_guard.threads import blocking_calls


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Turns(_Body):
    """A conversation in plain text, as `Conversation` has it."""

    turns: list[Turn] = Field(min_length=1)


Asked = str | list[dict[str, Any]] | Turns
"""A prompt, a list of messages in OpenAI's form, or turns."""

Text = Annotated[str, Field(strict=True)]


class ScoreRequest(_Body):
    """Candidates to score.

    Attributes:
        conversation: What was asked.
        candidates: At least one text.
    """

    conversation: Asked
    candidates: list[Text] = Field(min_length=1)


class ExplainRequest(_Body):
    """An answer to explain."""

    conversation: Asked
    answer: Text


class CheckRequest(_Body):
    """An answer to check, or a conversation that ends in one.

    Attributes:
        conversation: What was asked; without `answer`, messages that end with the assistant's
            answer or a tool's result, which is checked.
        answer: The answer: a text, or an assistant's message.
        turns: `all` checks every answer and every tool's result of the conversation.
        srr_guard: Names a policy, and changes its settings.
    """

    conversation: Asked
    answer: Text | dict[str, Any] | None = None
    turns: Literal["last", "all"] = "last"
    srr_guard: dict[str, Any] | None = None


def router(gateway: Gateway, route_class: type[Any]) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", route_class=route_class)

    async def ranking_of(body: ScoreRequest) -> Ranking:
        most = gateway.config.limits.answers
        if len(body.candidates) > most:
            raise InvalidInputError(
                f"candidates: {len(body.candidates)} texts are more than {most}, the most here"
            )
        timeout = gateway.policy(None).guard.decision.scoring_timeout
        scorer = TimedScorer(gateway.scorer, timeout=timeout)
        return await scorer.ascore(_conversation(body.conversation), body.candidates)

    @routes.post("/score")
    async def score(body: ScoreRequest) -> Response:
        """Score candidates: the numbers in the order of the candidates."""
        ranking = await ranking_of(body)
        return json_response({**ranking.model_dump()})

    @routes.post("/rank")
    async def rank(body: ScoreRequest) -> Response:
        """Score candidates: best first."""
        ranking = await ranking_of(body)
        results = [{"index": i, **ranking.marks(i)} for i in ranking.order]
        return json_response({"results": results, "familiarity": ranking.familiarity})

    @routes.post("/explain")
    async def explain(body: ExplainRequest) -> Response:
        """Take the score of an answer apart, token by token."""
        scorer = gateway.explains
        if scorer is None:
            raise HttpError(
                501, "the scorer of this server cannot explain its scores", code="not_supported"
            )
        asked = _conversation(body.conversation)
        found = await blocking_calls.run(scorer.explain, asked, body.answer)
        return json_response(found.model_dump(mode="json"))

    @routes.post("/checks")
    async def checks(body: CheckRequest) -> Response:
        """Check an answer, or those of a conversation: pass, hold or uncertain."""
        policy = gateway.policy(body.srr_guard, checking=True)
        pairs = _to_check(body)
        if len(pairs) > (most := gateway.config.limits.answers):
            raise InvalidInputError(f"{len(pairs)} answers to check are more than {most}")
        guard = policy.checking
        results = []
        for index, asked, answer in pairs:
            try:
                decision = await guard.acheck(asked, answer)
            except AllCandidatesFailedError as error:
                raise InvalidInputError(f"answer cannot be checked: {error.causes[0]}") from error
            results.append({"turn": index, **outcome_of(decision)})
        order = ("pass", "uncertain", "hold")
        worst = max((result["outcome"] for result in results), key=order.index)
        return json_response({"outcome": worst, "policy": policy.name, "results": results})

    return routes


def outcome_of(decision: Decision[Any]) -> dict[str, Any]:
    """What a check says: hold below the policy's threshold, uncertain by the scorer's bounds."""
    (candidate,) = decision.candidates
    scored = candidate if isinstance(candidate, ScoredCandidate) else None
    outcome = "pass" if decision.passed else "hold"
    if decision.passed and scored is not None and scored.verdict in ("uncertain", "hold"):
        outcome = "uncertain"
    return {
        "outcome": outcome,
        "reason": decision.reason,
        "p_safe": scored.p_safe if scored else None,
        "p_help": scored.p_help if scored else None,
        "p_refusal": scored.p_refusal if scored else None,
        "verdict": scored.verdict if scored else None,
        "familiarity": decision.ranking.familiarity if decision.ranking else None,
        "unreadable": list(candidate.unreadable),
        "would_have": decision.would_have.reason if decision.would_have else None,
    }


def _conversation(asked: Asked) -> Conversation:
    return Conversation.of(_messages(asked))


def _messages(asked: Asked) -> Any:
    """The conversation in a form that `Conversation.of` reads."""
    if isinstance(asked, Turns):
        return Conversation(turns=tuple(asked.turns))
    return asked


def _to_check(body: CheckRequest) -> list[tuple[int | None, Any, Any]]:
    """Index, what was asked, and answer of each thing to check."""
    asked = _messages(body.conversation)
    if body.answer is not None:
        answer = body.answer
        return [(None, asked, answer if isinstance(answer, str) else as_message(answer))]
    if isinstance(asked, str):
        raise InvalidInputError("answer is missing: give it, or messages that end with one")
    turns = list(asked.turns) if isinstance(asked, Conversation) else asked
    roles = [turn.role if isinstance(turn, Turn) else turn.get("role") for turn in turns]
    places = [i for i, role in enumerate(roles) if i and role in ("assistant", "tool")]
    if not places or (body.turns == "last" and places[-1] != len(turns) - 1):
        raise InvalidInputError(
            "conversation: the last message is neither an answer nor a tool's result, so there is "
            "nothing to check: give `answer`, or add it"
        )
    chosen = places if body.turns == "all" else places[-1:]
    return [(i, _before(turns[:i]), _answer(turns[i])) for i in chosen]


def _before(turns: Sequence[Any]) -> Any:
    if isinstance(turns[0], Turn):
        return Conversation(turns=tuple(turns))
    return list(turns)


def _answer(turn: Any) -> Any:
    """An answer as it is read: the text of a tool's result, an assistant's message with calls."""
    return turn.text if isinstance(turn, Turn) else as_message(turn)
