"""`SafetyRankedModel` and `safety_guardrail`: the guard for the OpenAI Agents SDK.

The model is a subclass of a class of the SDK, so importing this adapter imports it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from typing import Any, Unpack

from pydantic_core import to_jsonable_python

from srr_guard import Decision, Guard
from srr_guard.core.calls import FunctionSource
from srr_guard.errors import MissingExtraError, WithheldError
from srr_guard.formats import responses
from srr_guard.formats.response_events import as_events
from srr_guard.formats.schemas import call_check, schema_check
from srr_guard.wrappers.settings import GuardSettings, guard_from
from srr_guard_integrations.bypass import hand_out

try:
    from agents import (
        Agent,
        AgentOutputSchemaBase,
        GuardrailFunctionOutput,
        Handoff,
        Model,
        ModelResponse,
        ModelSettings,
        ModelTracing,
        MultiProvider,
        OutputGuardrail,
        RunContextWrapper,
        Tool,
        Usage,
        generation_span,
    )
    from agents.items import TResponseInputItem, TResponseStreamEvent
    from openai.types.responses import (
        Response,
        ResponseOutputMessage,
        ResponseOutputRefusal,
        ResponseOutputText,
        ResponseUsage,
    )
except ImportError as error:
    raise MissingExtraError(
        package="openai-agents",
        extra="openai-agents",
        purpose="srr_guard_integrations.openai_agents",
    ) from error


class SafetyRankedModel(Model):
    """A model of the Agents SDK each of whose responses is the best safe one of several.

    Each turn of an agent calls the wrapped model n times. Tools and handoffs run once, with the
    calls of the chosen response. Its `usage` is the sum over all candidates, and `srr_guard` on it
    (in `RunResult.raw_responses`) is the decision as a dict.

    Streaming selects first, then emits the chosen response as events; `requests` of the usage is
    1 there, for the SDK counts them itself.

    A refusal is a text, or, where the agent has an output type, a `refusal` part, for which the
    SDK raises ModelRefusalError. A candidate that does not fit the output type, or calls no tool
    where one must be called, counts as failed.

    Candidates are not traced; the chosen response is, as one generation.

    The scorer must see what the model sees: `previous_response_id`, `conversation_id` and `prompt`
    stand for turns that only the provider knows, and raise ConfigurationError. Use a session.

    Args:
        wrapped: The model, or its name.
        settings: Those of `Guard`, or `guard=`, a guard to share (see `GuardSettings`).

    Raises:
        ConfigurationError: A setting is of the wrong kind.

    Example:
        >>> from agents import Runner, set_tracing_disabled
        >>> from agents.testing import ScriptedModel, assistant_message
        >>> from srr_guard.testing import FakeScorer
        >>> set_tracing_disabled(True)
        >>> answers = [assistant_message("a bad answer"), assistant_message("a good answer")]
        >>> model = ScriptedModel([[answer] for answer in answers])
        >>> scorer = FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1)
        >>> agent = Agent("helper", model=SafetyRankedModel(model, n=2, scorer=scorer))
        >>> Runner.run_sync(agent, "a question").final_output
        'a good answer'
    """

    def __init__(self, wrapped: Model | str, **settings: Unpack[GuardSettings]) -> None:
        self._wrapped = MultiProvider().get_model(wrapped) if isinstance(wrapped, str) else wrapped
        self.guard: Guard = guard_from(settings)

    async def get_response(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        tracing: ModelTracing,
        **kept: Any,
    ) -> ModelResponse:
        """Answer with the best safe response of n.

        Raises:
            ConfigurationError: The input stands for turns that are not given.
            SamplingError: Too few candidates came back, or none may be passed on.
            ScorerError: The candidates could not be scored and the policy says to raise.
        """
        asked = responses.as_conversation(
            {
                "instructions": system_instructions,
                "input": input,
                "previous_response_id": kept.get("previous_response_id"),
                "conversation": kept.get("conversation_id"),
                "prompt": kept.get("prompt"),
            }
        )

        async def call(_: int) -> ModelResponse:
            return await self._wrapped.get_response(
                system_instructions,
                input,
                model_settings,
                tools,
                output_schema,
                handoffs,
                ModelTracing.DISABLED,
                **kept,
            )

        wanted = _wanted(model_settings, [*tools, *handoffs], output_schema)
        strict = output_schema is None or output_schema.is_strict_json_schema()
        delivery = _Delivery(wanted, strict=strict)
        with generation_span(model=repr(self), disabled=tracing.is_disabled()) as span:
            decision = await self.guard.adecide(
                asked, FunctionSource(call, isolated=False), delivery=delivery
            )
            response: ModelResponse | None = decision.output
            assert response is not None
            if tracing.include_data():
                span.span_data.output = [item.model_dump() for item in response.output]
            tokens = {"input_tokens", "output_tokens"}
            span.span_data.usage = {name: getattr(response.usage, name) for name in tokens}
        return response

    async def stream_response(self, *args: Any, **kept: Any) -> AsyncIterator[TResponseStreamEvent]:
        """Select as `get_response` does, then emit the events of the chosen response."""
        for event in as_events(_whole(await self.get_response(*args, **kept))):
            yield event

    def unguarded(self) -> Model:
        """Hand out the model inside: a bypass, logged and counted."""
        return hand_out(self._wrapped, repr(self._wrapped), guard=self.guard, of="model")

    async def close(self) -> None:
        """Close the model inside."""
        await self._wrapped.close()

    async def _cleanup_on_run_end(self, owner: object) -> None:
        await self._wrapped._cleanup_on_run_end(owner)

    def __repr__(self) -> str:
        return f"SafetyRankedModel({getattr(self._wrapped, 'model', self._wrapped)!r})"


def safety_guardrail(
    *, name: str = "srr_guard", **settings: Unpack[GuardSettings]
) -> OutputGuardrail[Any]:
    """Make an output guardrail: the final output of an agent must be safe enough.

    The tripwire is triggered when the decision policy holds the output back; `output_info` is the
    decision as a dict. Nothing is sampled. An output that cannot be scored ends the run with an
    error, unless the policy lets it pass.

    A guardrail runs when the output is complete: with `Runner.run_streamed` its text has been
    emitted by then. Use SafetyRankedModel there.

    Args:
        name: Of the guardrail, for traces.
        settings: Those of `Guard`, or `guard=`, a guard to share (see `GuardSettings`).

    Example:
        >>> from srr_guard.testing import FakeScorer
        >>> guardrail = safety_guardrail(scorer=FakeScorer(lambda prompt, answer: 0.9))
        >>> Agent("helper", output_guardrails=[guardrail]).output_guardrails[0].get_name()
        'srr_guard'
    """
    guard = guard_from(settings)

    async def check(
        context: RunContextWrapper[Any], agent: Agent[Any], output: Any
    ) -> GuardrailFunctionOutput:
        asked = responses.as_conversation({"input": context.turn_input})
        plain = output if isinstance(output, str) else to_jsonable_python(output)
        try:
            decision = await guard.acheck(asked, plain)
        except WithheldError as held:
            decision = held.decision
        return GuardrailFunctionOutput(decision.summary(), not decision.passed)

    return OutputGuardrail(check, name=name)


# ---- responses ----


class _Delivery(responses.ResponseDelivery):
    """Outputs that are responses of the SDK, which hold items of the Responses API."""

    def __init__(self, wanted: dict[str, Any], *, strict: bool) -> None:
        # tools convert their arguments, and output types that are not strict the answer
        check = schema_check(wanted, lax=not strict, lax_calls=True)
        super().__init__(check, call_check(wanted))
        self._typed = "response_format" in wanted

    def refusal(self, text: str, output: ModelResponse) -> ModelResponse:
        """Make a response with the refusal as its only output."""
        part = (
            ResponseOutputRefusal(type="refusal", refusal=text)
            if self._typed
            else ResponseOutputText(type="output_text", text=text, annotations=[], logprobs=[])
        )
        message = ResponseOutputMessage(
            id="msg_srr_guard",
            type="message",
            role="assistant",
            status="completed",
            content=[part],
        )
        # without its id, by which the answer itself could be continued
        return replace(output, output=[message], response_id=None, raw_usage=None)

    def finish(self, output: ModelResponse, decision: Decision[Any]) -> ModelResponse:
        """Copy the response, with the decision and the usage of all candidates on it."""
        usage = Usage()
        for sampled in (candidate.output for candidate in decision.candidates):
            if sampled is not None:
                usage.add(sampled.usage)
        finished = replace(output, usage=usage, raw_usage=None)
        finished.srr_guard = decision.summary()  # type: ignore[attr-defined]
        return finished


def _wanted(
    settings: ModelSettings, tools: Iterable[Any], schema: AgentOutputSchemaBase | None
) -> dict[str, Any]:
    """What answers must fit, in the form of `schema_check`."""
    wanted: dict[str, Any] = {"tool_choice": settings.tool_choice, "tools": list(_tools(tools))}
    if schema is not None and not schema.is_plain_text():
        wanted["response_format"] = {"schema": schema.json_schema()}
    return wanted


def _tools(tools: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for tool in tools:
        if (schema := getattr(tool, "params_json_schema", None)) is not None:
            yield {"type": "function", "name": tool.name, "parameters": schema}
        elif isinstance(tool, Handoff):
            yield {
                "type": "function",
                "name": tool.tool_name,
                "parameters": tool.input_json_schema or {},
            }
        else:
            yield {"type": type(tool).__name__}


def _whole(response: ModelResponse) -> Response:
    usage = response.usage
    return Response.model_construct(
        id=response.response_id or "resp_srr_guard",
        created_at=time.time(),
        model="",
        object="response",
        status="completed",
        output=response.output,
        usage=ResponseUsage(
            input_tokens=usage.input_tokens,
            input_tokens_details=usage.input_tokens_details,
            output_tokens=usage.output_tokens,
            output_tokens_details=usage.output_tokens_details,
            total_tokens=usage.total_tokens,
        ),
        srr_guard=getattr(response, "srr_guard", None),
    )
