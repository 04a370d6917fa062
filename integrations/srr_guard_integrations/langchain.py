"""`SafetyRankerMiddleware`: the guard for agents made by `langchain.agents.create_agent`.

This adapter is a subclass of a class of LangChain's, so importing it imports LangChain.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from langchain_core.messages import AIMessage
from pydantic import PrivateAttr

from srr_guard import (
    Decision,
    DecisionPolicy,
    Guard,
    ResponseScorer,
    SafetyRankedChatModel,
    SafetyRanker,
    SamplingPolicy,
    Totals,
)
from srr_guard.errors import ConfigurationError, MissingExtraError
from srr_guard.formats.schemas import Check, schema_check
from srr_guard.policy import GatePolicy
from srr_guard.protocols import PromptGate
from srr_guard.runnables.tracing import TraceCandidates
from srr_guard.wrappers.settings import guard_of

try:
    from langchain.agents.middleware import AgentMiddleware
    from langchain.agents.middleware.types import ModelRequest, ModelResponse
    from langchain.agents.structured_output import ToolStrategy
except ImportError as error:
    raise MissingExtraError(
        package="langchain", extra="agents", purpose="SafetyRankerMiddleware"
    ) from error


class SafetyRankerMiddleware(AgentMiddleware[Any, Any, Any]):
    """Makes each model call of an agent give the best safe answer of several.

    The model is called n times inside one call of the agent's model node. Other middleware and
    tools run once. Tokens of candidates reach no stream. A refusal ends the agent's loop like
    any answer without tool calls.

    Put it last in the list of middleware, which is innermost. Middleware inside it could swap
    the model or the answer: an answer that was not scored here raises ConfigurationError and
    is not passed on.

    Args:
        scorer: Ranks the candidates; None: the shipped scorer, loaded on first use.
        sampling: How candidates are sampled.
        decision: What may be passed on.
        gating: What is decided from the prompt alone (see `Guard`).
        gate: Assesses prompts (see `Guard`).
        trace_candidates: What traces see of candidates (see `SafetyRanker`).
        on_decision: Called with each Decision (see `Guard`).
        n: Short for `sampling=SamplingPolicy(n=...)`.
        threshold: Short for `decision=DecisionPolicy(threshold=...)`.
        guard: A guard to share, in place of `scorer`, the policies, `gate` and `on_decision`.

    Raises:
        ConfigurationError: An argument is of the wrong kind.

    Example:
        >>> from langchain.agents import create_agent
        >>> from srr_guard.testing import FakeScorer, ScriptedChatModel
        >>> guard = SafetyRankerMiddleware(
        ...     scorer=FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1),
        ... )
        >>> model = ScriptedChatModel(answers=["a bad answer", "a good answer"])
        >>> agent = create_agent(model=model, tools=[], middleware=[guard])
        >>> agent.invoke({"messages": [("user", "a question")]})["messages"][-1].text
        'a good answer'
    """

    def __init__(
        self,
        *,
        scorer: ResponseScorer | None = None,
        sampling: SamplingPolicy | None = None,
        decision: DecisionPolicy | None = None,
        gating: GatePolicy | None = None,
        gate: PromptGate | None = None,
        trace_candidates: TraceCandidates = False,
        on_decision: Callable[[Decision], object] | None = None,
        n: int | None = None,
        threshold: float | None = None,
        guard: Guard | None = None,
    ) -> None:
        super().__init__()
        self.trace_candidates: TraceCandidates = trace_candidates
        self.guard = guard_of(
            guard,
            scorer=scorer,
            sampling=sampling,
            decision=decision,
            gating=gating,
            gate=gate,
            on_decision=on_decision,
            n=n,
            threshold=threshold,
        )

    @property
    def bypasses(self) -> int:
        """Answers passed on unscored or below the threshold so far."""
        return self.totals.bypasses

    @property
    def totals(self) -> Totals:
        """Requests, candidates and bypasses so far; a request is one call of the agent's model."""
        return self.guard.totals

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Call the model through the guard.

        Raises:
            ConfigurationError: The answer was not scored here, or the model is guarded already.
            SamplingError: Too few candidates came back, or none may be passed on.
            ScorerError: The candidates could not be scored and the policy says to raise.
        """
        model = self._around(request)
        return model.checked(handler(request.override(model=model)))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Like `wrap_model_call`, without blocking the event loop."""
        model = self._around(request)
        return model.checked(await handler(request.override(model=model)))

    def _around(self, request: ModelRequest[Any]) -> _CheckingModel:
        inner: Any = request.model
        while (bound := getattr(inner, "bound", None)) is not None:
            inner = bound
        if isinstance(inner, (SafetyRankedChatModel, SafetyRanker)):
            raise ConfigurationError(
                f"the agent's model is {request.model!r}, which is guarded already: leave out "
                "SafetyRankerMiddleware, or give the agent the model inside"
            )
        model = _CheckingModel(
            request.model, guard=self.guard, trace_candidates=self.trace_candidates
        )
        model.expect(request.response_format)
        return model


class _CheckingModel(SafetyRankedChatModel):
    """Knows the answers that it has given, so that others are told from them."""

    _given: list[tuple[Any, ...]] = PrivateAttr(default_factory=list)  # shared by all copies

    _types: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options)

    def expect(self, response_format: Any) -> None:
        """Check answers as LangChain will read them in this response format."""
        if response_format is None:
            return
        if not isinstance(response_format, ToolStrategy):  # or LangChain chooses
            self._types[""] = getattr(response_format, "schema", response_format)
            response_format = ToolStrategy(self._types[""])
        self._types |= {spec.name: spec.schema for spec in response_format.schema_specs}

    def _fits(self, options: dict[str, Any]) -> Check | None:
        return schema_check(options, lax=True, types=self._types)

    def _message(self, decision: Decision) -> AIMessage:
        message = super()._message(decision)
        self._given.append(_said(message))
        return message

    def checked(self, response: ModelResponse[Any]) -> ModelResponse[Any]:
        """Return the response if all its answers are its own.

        Raises:
            ConfigurationError: One is not.
        """
        for message in response.result:
            if isinstance(message, AIMessage) and _said(message) not in self._given:
                raise ConfigurationError(
                    "SafetyRankerMiddleware got an answer that it has not scored: middleware "
                    "inside it changed the model or the answer; put SafetyRankerMiddleware last "
                    "in `middleware=[...]`"
                )
        return response


def _said(message: AIMessage) -> tuple[Any, ...]:
    """What LangChain leaves as it is of an answer, in whichever form it puts its content."""
    calls = [(call["name"], call["args"]) for call in message.tool_calls]
    return str(message.text), calls, "srr_guard" in message.response_metadata
