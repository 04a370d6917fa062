"""`SafetyRankedLLM`: the guard for LLMs of LlamaIndex.

The LLM is a subclass of a class of LlamaIndex's, so importing this adapter imports it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Unpack

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from srr_guard import Conversation, Decision, Guard
from srr_guard.core.calls import FunctionSource
from srr_guard.errors import ConfigurationError, MissingExtraError
from srr_guard.formats.converted import ConvertedDelivery, usage_of
from srr_guard.formats.schemas import call_check, every, schema_check
from srr_guard.formats.shapes import add_call, count_of, field_of, plain, replaced
from srr_guard.wrappers.settings import GuardSettings, guard_from
from srr_guard_integrations.bypass import hand_out

try:
    from llama_index.core.base.llms.types import (
        ChatMessage,
        ChatResponse,
        ChatResponseAsyncGen,
        ChatResponseGen,
        CompletionResponse,
        CompletionResponseAsyncGen,
        CompletionResponseGen,
        LLMMetadata,
    )
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
    from llama_index.core.llms.function_calling import FunctionCallingLLM
    from llama_index.core.llms.llm import LLM, ToolSelection
except ImportError as error:
    raise MissingExtraError(
        package="llama-index-core", extra="llama-index", purpose="SafetyRankedLLM of LlamaIndex"
    ) from error

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


class SafetyRankedLLM(FunctionCallingLLM):
    """An LLM of LlamaIndex each of whose answers is the best safe one of several.

    Chat and completion call the LLM inside n times, sync and async; engines, agents and
    structured prediction go through them. Tools run once, with the calls of the chosen answer.
    `additional_kwargs["srr_guard"]` of a response is the decision as a dict, and its token counts
    there are sums over all candidates; `raw` is the chosen candidate's own.

    Streaming selects first, then emits the chosen answer in one piece.

    A refusal is a text. Where a tool must be called or a schema is asked for, it has no form:
    BelowThresholdError is raised. An answer that does not fit there is a failed candidate.

    Tools need a function-calling LLM inside. Handlers of LlamaIndex's events see each candidate,
    for the LLM inside reports its own calls.

    Args:
        llm: The LLM to guard.
        settings: Those of `Guard`, or `guard=`, a guard to share (see `GuardSettings`).

    Raises:
        ConfigurationError: It is no LLM, or a setting is of the wrong kind.

    Example:
        >>> from llama_index.core.llms import CustomLLM
        >>> from srr_guard.testing import FakeScorer
        >>> answers = iter(["a bad answer", "a good answer"])
        >>> class Model(CustomLLM):
        ...     @property
        ...     def metadata(self):
        ...         return LLMMetadata()
        ...     def complete(self, prompt, formatted=False, **kwargs):
        ...         return CompletionResponse(text=next(answers))
        ...     def stream_complete(self, prompt, formatted=False, **kwargs):
        ...         yield self.complete(prompt)
        >>> scorer = FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1)
        >>> SafetyRankedLLM(Model(), n=2, scorer=scorer).complete("a question").text
        'a good answer'
    """

    _llm: LLM = PrivateAttr()
    _guard: Guard = PrivateAttr()

    def __init__(self, llm: LLM, **settings: Unpack[GuardSettings]) -> None:
        if not isinstance(llm, LLM):
            raise ConfigurationError(f"llm={llm!r} cannot be guarded: give an LLM of LlamaIndex")
        super().__init__(callback_manager=llm.callback_manager)
        self._llm = llm
        self._guard = guard_from(settings)

    @classmethod
    def class_name(cls) -> str:
        """Name the class, as LlamaIndex stores it."""
        return "SafetyRankedLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """The metadata of the LLM inside."""
        return self._llm.metadata

    @property
    def guard(self) -> Guard:
        """The guard, with its totals."""
        return self._guard

    def unguarded(self) -> LLM:
        """Hand out the LLM inside: a bypass, logged and counted."""
        return hand_out(self._llm, self._llm.class_name(), guard=self._guard, of="LLM")

    # ---- chat ----

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Chat, guarded."""
        source = FunctionSource(lambda _: self._llm.chat(messages, **kwargs), isolated=False)
        return self._guard.decide(_conversation(messages), source, delivery=_chats(kwargs)).output  # type: ignore[return-value]

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Chat, guarded, without blocking the event loop."""

        async def call(_: int) -> ChatResponse:
            return await self._llm.achat(messages, **kwargs)

        decision = await self._guard.adecide(
            _conversation(messages), FunctionSource(call, isolated=False), delivery=_chats(kwargs)
        )
        output: ChatResponse | None = decision.output
        assert output is not None
        return output

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Select as `chat` does, then emit the chosen answer."""

        def emit() -> ChatResponseGen:
            response = self.chat(messages, **kwargs)
            yield response.model_copy(update={"delta": response.message.content or ""})

        return emit()

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Select as `achat` does, then emit the chosen answer."""

        async def emit() -> ChatResponseAsyncGen:
            response = await self.achat(messages, **kwargs)
            yield response.model_copy(update={"delta": response.message.content or ""})

        return emit()

    # ---- completion ----

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Complete a prompt, guarded."""
        source = FunctionSource(
            lambda _: self._llm.complete(prompt, formatted, **kwargs), isolated=False
        )
        return self._guard.decide(prompt, source, delivery=_completions(kwargs)).output  # type: ignore[return-value]

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Complete a prompt, guarded, without blocking the event loop."""

        async def call(_: int) -> CompletionResponse:
            return await self._llm.acomplete(prompt, formatted, **kwargs)

        decision = await self._guard.adecide(
            prompt, FunctionSource(call, isolated=False), delivery=_completions(kwargs)
        )
        output: CompletionResponse | None = decision.output
        assert output is not None
        return output

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Select as `complete` does, then emit the chosen answer."""

        def emit() -> CompletionResponseGen:
            response = self.complete(prompt, formatted, **kwargs)
            yield response.model_copy(update={"delta": response.text})

        return emit()

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Select as `acomplete` does, then emit the chosen answer."""

        async def emit() -> CompletionResponseAsyncGen:
            response = await self.acomplete(prompt, formatted, **kwargs)
            yield response.model_copy(update={"delta": response.text})

        return emit()

    # ---- tools ----

    def _prepare_chat_with_tools(self, tools: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self._with_tools()._prepare_chat_with_tools(tools, *args, **kwargs)

    def _prepare_chat_with_tools_compat(
        self, tools: Any, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        return self._with_tools()._prepare_chat_with_tools_compat(tools, *args, **kwargs)

    def _validate_chat_with_tools_response(
        self, response: ChatResponse, tools: Any, *args: Any, **kwargs: Any
    ) -> ChatResponse:
        llm = self._with_tools()
        return llm._validate_chat_with_tools_response(response, tools, *args, **kwargs)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Read the tool calls of a response, as the LLM inside does."""
        return self._with_tools().get_tool_calls_from_response(
            response, error_on_no_tool_call=error_on_no_tool_call, **kwargs
        )

    def _with_tools(self) -> FunctionCallingLLM:
        if not isinstance(self._llm, FunctionCallingLLM):
            raise ConfigurationError(
                f"{self._llm.class_name()} calls no functions: give SafetyRankedLLM a "
                "FunctionCallingLLM, or use no tools"
            )
        return self._llm


# ---- answers ----


def _chats(options: dict[str, Any]) -> ConvertedDelivery[Any]:
    check = schema_check(options, lax=True)  # its output classes convert
    return ConvertedDelivery(
        message=_chat_message,
        refuse=_refused_chat if check is None else None,
        attach=_attach,
        check=every(check, call_check(options)),
    )


def _completions(options: dict[str, Any]) -> ConvertedDelivery[Any]:
    check = schema_check(options, lax=True)  # its output classes convert
    return ConvertedDelivery(
        message=lambda output: _counted(AIMessage(output.text), output),
        refuse=_refused_completion if check is None else None,
        attach=_attach,
        check=every(check, call_check(options)),
    )


def _chat_message(output: ChatResponse) -> AIMessage:
    return _counted(_assistant(output.message), output)


def _counted(message: AIMessage, output: Any) -> AIMessage:
    counts = output.additional_kwargs
    if "prompt_tokens" not in counts:
        counts = field_of(output.raw, "usage") or {}
    given, written = (count_of(counts, name) for name in _COUNTS[:2])
    message.usage_metadata = usage_of(given, written) if given or written else None
    return message


def _refused_chat(text: str, output: ChatResponse) -> ChatResponse:
    message = ChatMessage(role="assistant", content=text)
    return ChatResponse(message=message, additional_kwargs=_numbers(output))


def _refused_completion(text: str, output: CompletionResponse) -> CompletionResponse:
    return CompletionResponse(text=text, additional_kwargs=_numbers(output))


def _numbers(output: Any) -> dict[str, Any]:
    """What stands beside the answer and is none of its text."""
    return {n: v for n, v in output.additional_kwargs.items() if n in _COUNTS}


def _attach(output: Any, decision: Decision[Any]) -> Any:
    outputs: list[Any] = [c.output for c in decision.candidates if c.output is not None]
    total: dict[str, int] = {
        name: sum(count_of(one.additional_kwargs, name) for one in outputs)
        for name in output.additional_kwargs.keys() & _COUNTS
    }
    told = {**output.additional_kwargs, **total, "srr_guard": decision.summary()}
    return replaced(output, additional_kwargs=told)


# ---- messages ----


def _conversation(messages: Sequence[ChatMessage]) -> Conversation:
    return Conversation.of([_turn(message) for message in messages])


def _turn(message: ChatMessage) -> BaseMessage:
    match message.role.value:
        case "assistant" | "chatbot" | "model":
            return _assistant(message)
        case "system" | "developer":
            return SystemMessage(_blocks(message))
        case "tool" | "function":
            call_id = str(message.additional_kwargs.get("tool_call_id", ""))
            return ToolMessage(_blocks(message), tool_call_id=call_id)
    return HumanMessage(_blocks(message))


def _assistant(message: ChatMessage) -> AIMessage:
    fields = plain(message.additional_kwargs)
    result = AIMessage(_blocks(message), additional_kwargs=fields)
    for block in message.blocks:
        if block.block_type == "tool_call":
            given = block.tool_kwargs
            arguments = given if isinstance(given, str) else json.dumps(given, default=str)
            add_call(result, block.tool_name, arguments=arguments, id=block.tool_call_id)
    return result


def _blocks(message: ChatMessage) -> list[Any]:
    made: list[Any] = []
    for block in message.blocks:
        match block.block_type:
            case "text":
                made.append(block.text)
            case "thinking":
                made.append({"type": "thinking", "thinking": block.content or ""})
            case "citable" | "citation":
                made.append({**plain(block), "type": "citation"})
            case "tool_call" | "cache":
                pass
            case kind:
                made.append({"type": kind, "value": None})
    return made
