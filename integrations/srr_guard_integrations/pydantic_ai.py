"""`SafetyRankedModel`: the guard for models of Pydantic AI.

The model is a subclass of a class of Pydantic AI, so importing this adapter imports it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any, Unpack

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from srr_guard import Conversation, Decision, Guard
from srr_guard.core.calls import FunctionSource
from srr_guard.errors import ConfigurationError, MissingExtraError, SamplingError
from srr_guard.formats.converted import ConvertedDelivery, usage_of
from srr_guard.formats.schemas import Check, call_check, every, schema_check
from srr_guard.formats.shapes import add_call, plain
from srr_guard.wrappers.settings import GuardSettings, guard_from
from srr_guard_integrations.bypass import hand_out, refuse_unguarded

try:
    from pydantic_ai import RunContext
    from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart
    from pydantic_ai.models import (
        CompletedStreamedResponse,
        KnownModelName,
        Model,
        ModelRequestParameters,
        StreamedResponse,
    )
    from pydantic_ai.models.wrapper import WrapperModel
    from pydantic_ai.settings import ModelSettings
except ImportError as error:
    raise MissingExtraError(
        package="pydantic-ai-slim", extra="pydantic-ai", purpose="SafetyRankedModel of Pydantic AI"
    ) from error


class SafetyRankedModel(WrapperModel):
    """A Pydantic AI model each of whose responses is the best safe one of several.

    Each request of an agent calls the wrapped model n times. Tools run once, with the calls of
    the chosen response. Its `usage` is the sum over all candidates, so an agent's usage and limits
    count them all (as one request); `metadata["srr_guard"]` is the decision as a dict, with the
    chosen candidate's own usage.

    Streaming selects first, then emits the chosen response as events.

    A refusal is a response with one text part. Where the agent asks for structured output and
    takes no text, a refusal has no form: BelowThresholdError is raised. A candidate that does not
    fit the output's schema counts as failed.

    Batches and the compaction of histories raise UnguardedError: what they return is not scored.
    A candidate that the provider suspends is cancelled and counts as failed. The model works in
    Pydantic AI's asyncio runs, `run_sync` included, not under trio.

    Args:
        wrapped: The model, or its name.
        settings: Those of `Guard`, or `guard=`, a guard to share (see `GuardSettings`).

    Raises:
        ConfigurationError: A setting is of the wrong kind.

    Example:
        >>> from pydantic_ai import Agent
        >>> from pydantic_ai.models.function import FunctionModel
        >>> from srr_guard.testing import FakeScorer
        >>> answers = iter(["a bad answer", "a good answer"])
        >>> model = FunctionModel(lambda messages, info: ModelResponse([TextPart(next(answers))]))
        >>> scorer = FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1)
        >>> guarded = SafetyRankedModel(model, n=2, scorer=scorer)
        >>> Agent(guarded).run_sync("a question").output
        'a good answer'
    """

    def __init__(
        self, wrapped: Model | KnownModelName | str, **settings: Unpack[GuardSettings]
    ) -> None:
        super().__init__(wrapped)
        self.guard: Guard = guard_from(settings)

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Answer with the best safe response of n.

        Raises:
            SamplingError: Too few candidates came back, or none may be passed on.
            ScorerError: The candidates could not be scored and the policy says to raise.
        """

        async def call(_: int) -> ModelResponse:
            response = await self.wrapped.request(
                messages, model_settings, model_request_parameters
            )
            if response.state == "suspended":
                await self.wrapped.cancel_suspended_response(response)
                raise SamplingError("the response is suspended, so there is nothing to score yet")
            return response

        _, prepared = self.wrapped.prepare_request(model_settings, model_request_parameters)
        asked = replace(  # the schemas stay as Pydantic AI itself will check them
            model_request_parameters,
            output_mode=prepared.output_mode,
            allow_text_output=prepared.allow_text_output,
        )
        decision = await self.guard.adecide(
            _conversation(messages, model_request_parameters),
            FunctionSource(call, isolated=False),
            delivery=_delivery(asked),
        )
        assert decision.output is not None
        return decision.output

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Select as `request` does, then emit the events of the chosen response."""
        response = await self.request(messages, model_settings, model_request_parameters)
        yield CompletedStreamedResponse(
            response, model_request_parameters=model_request_parameters, replay_events=True
        )

    def unguarded(self) -> Model:
        """Hand out the model inside: a bypass, logged and counted."""
        return hand_out(self.wrapped, repr(self.wrapped), guard=self.guard, of="model")

    def __getattr__(self, item: str) -> Any:
        if item in ("client", "models"):
            refuse_unguarded(item, of="model")
        return super().__getattr__(item)

    async def compact_messages(self, *_: Any, **__: Any) -> ModelResponse:
        """Refuse: the summary would not be scored.

        Raises:
            UnguardedError: Always.
        """
        refuse_unguarded("compact_messages", of="model")

    async def batch_create(self, *_: Any, **__: Any) -> Any:
        """Refuse: the answers of a batch would not be scored.

        Raises:
            UnguardedError: Always.
        """
        refuse_unguarded("batch_create", of="model")

    async def batch_results(self, *_: Any, **__: Any) -> Any:
        """Refuse, as `batch_create` does."""
        refuse_unguarded("batch_results", of="model")

    def batch_decode(self, *_: Any, **__: Any) -> Any:
        """Refuse, as `batch_create` does."""
        refuse_unguarded("batch_decode", of="model")


# ---- responses ----


def _delivery(asked: ModelRequestParameters) -> ConvertedDelivery[ModelResponse]:
    text_is_taken = asked.allow_text_output and asked.output_mode in ("text", "tool")
    return ConvertedDelivery(
        message=_response_message,
        refuse=_refusal if text_is_taken else None,
        attach=_attach,
        check=_check(asked),
    )


def _check(asked: ModelRequestParameters) -> Check | None:
    """The check of what answers must fit; None where they may be anything."""
    known = call_check({"tools": [{"name": name} for name in asked.tool_defs]})
    return every(known, _schema_check(asked))


def _schema_check(asked: ModelRequestParameters) -> Check | None:
    check = schema_check(_wanted(asked), lax=True)
    if check is None or asked.output_mode == "native":
        return check

    def checked(message: AIMessage) -> None:
        if asked.output_mode == "prompted":
            check(message.model_copy(update={"content": _unfenced(message.text)}))
        elif not asked.allow_text_output or message.tool_calls or message.invalid_tool_calls:
            check(message)

    return checked


def _unfenced(text: str) -> str:
    """The JSON in a text, out of its Markdown fence, as Pydantic AI reads it."""
    fenced = None if text.startswith("{") else _FENCED.search(text)
    return text if fenced is None else fenced[1]


_FENCED = re.compile(r"```(?:\w+)?\r?\n(\{.*?\})\s*(?:\r?\n?```|\Z)", re.DOTALL)


def _wanted(asked: ModelRequestParameters) -> dict[str, Any]:
    """The schema that answers must fit, in the form of `schema_check`."""
    if asked.output_mode in ("native", "prompted") and asked.output_object is not None:
        return {"response_format": {"schema": asked.output_object.json_schema}}
    if asked.output_mode in ("tool", "auto") and asked.output_tools:
        tools = [
            {"name": tool.name, "parameters": tool.parameters_json_schema}
            for tool in asked.output_tools
        ]
        return {"tools": tools, "tool_choice": "required"}
    return {}


def _response_message(response: ModelResponse) -> AIMessage:
    blocks: list[Any] = []
    message = AIMessage("", response_metadata={"finish_reason": response.finish_reason})
    for part in response.parts:
        match part.part_kind:
            case "text":
                blocks.append(
                    {"type": "text", "text": part.content, "citations": plain(part.citations)}
                )
            case "thinking":
                blocks.append({"type": "thinking", "thinking": part.content})
            case "tool-call":
                add_call(message, part.tool_name, arguments=_json(part), id=part.tool_call_id)
            case "builtin-tool-call":
                blocks.append(
                    {"type": "server_tool_use", "name": part.tool_name, "input": part.args}
                )
            case "builtin-tool-return":
                given = part.model_response_str()
                blocks.append({"type": "tool_result", "name": part.tool_name, "content": given})
            case "compaction" if part.content is not None:
                blocks.append({"type": "compaction", "content": part.content})
            case "speech":
                blocks.append({"type": "audio", "transcript": part.transcript})
            case kind:
                blocks.append({"type": kind, "value": None})  # unreadable, by kind
    message.content = blocks
    usage = response.usage
    if usage.input_tokens or usage.output_tokens:
        message.usage_metadata = usage_of(usage.input_tokens, usage.output_tokens)
    return message


def _json(part: Any) -> str:
    return part.args if isinstance(part.args, str) else part.args_as_json_str()


def _refusal(text: str, response: ModelResponse) -> ModelResponse:
    return replace(
        response,
        parts=[TextPart(text)],
        finish_reason="stop",
        provider_response_id=None,  # by which the answer itself could be continued
        provider_details=None,
    )


def _attach(response: ModelResponse, decision: Decision[ModelResponse]) -> ModelResponse:
    summary = decision.summary()
    if decision.passed:
        own = {"input_tokens": response.usage.input_tokens}
        summary["chosen_usage"] = own | {"output_tokens": response.usage.output_tokens}
    usages = [c.output.usage for c in decision.candidates if c.output is not None]
    metadata = {**(response.metadata or {}), "srr_guard": summary}
    return replace(response, usage=reduce(add, usages), metadata=metadata)


# ---- requests ----


def _conversation(messages: Sequence[ModelMessage], asked: ModelRequestParameters) -> Conversation:
    told = [part.content for part in asked.instruction_parts or ()]
    if not told:
        requests = [m for m in messages if isinstance(m, ModelRequest) and m.instructions]
        told = [requests[-1].instructions or ""] if requests else []
    turns: list[BaseMessage] = [SystemMessage("\n\n".join(told))] if told else []
    for message in messages:
        if isinstance(message, ModelResponse):
            turns.append(_response_message(message))
        else:
            turns += _turns(message.parts)
    return Conversation.of(turns)


def _turns(parts: Iterable[Any]) -> Iterator[BaseMessage]:
    for part in parts:
        content = getattr(part, "content", None)
        match part.part_kind:
            case "system-prompt" | "instruction-delta" if content:
                yield SystemMessage(content)
            case "user-prompt":
                yield HumanMessage([_user_block(c) for c in _several(content)])
            case "speech":
                yield HumanMessage([{"type": "audio", "transcript": part.transcript}])
            case "tool-return":
                yield ToolMessage(part.model_response_str(), tool_call_id=part.tool_call_id)
            case "retry-prompt" if part.tool_name is not None:
                yield ToolMessage(part.model_response(), tool_call_id=part.tool_call_id)
            case "retry-prompt" | "retry-feedback":
                yield HumanMessage(part.model_response())
            case "compaction":
                if content is None:
                    raise ConfigurationError(
                        "the history holds an encrypted compaction, which stands for turns that "
                        "only the provider knows, and the scorer must see what the model sees: "
                        "give the whole history, or one with a readable summary"
                    )
                yield SystemMessage(content)
            case _:  # changes of settings and of tools
                pass


def _several(content: Any) -> list[Any]:
    return [content] if isinstance(content, str) else list(content)


def _user_block(content: Any) -> str | dict[str, Any]:
    if isinstance(content, str):
        return content
    text = getattr(content, "content", None)
    if isinstance(text, str):
        return text
    kind = str(getattr(content, "kind", type(content).__name__))
    return {"type": kind, "value": None} if kind != "cache-point" else ""
