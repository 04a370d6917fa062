"""`SafetyRankedChatGenerator`: the guard as a component of Haystack.

Haystack reads the types of `run` when the class is made, so importing this adapter imports it.
"""

import inspect
import json
from typing import Any, Unpack

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from srr_guard import Conversation, Decision, DecisionPolicy, Guard, SamplingPolicy
from srr_guard.core.calls import FunctionSource
from srr_guard.errors import ConfigurationError, MissingExtraError, SamplingError
from srr_guard.formats.converted import ConvertedDelivery, usage_of
from srr_guard.formats.schemas import call_check, every, schema_check
from srr_guard.formats.shapes import add_call, total_usage
from srr_guard.wrappers.settings import GuardSettings, guard_from
from srr_guard_integrations.bypass import hand_out

try:
    from haystack import component, default_from_dict, default_to_dict
    from haystack.core.serialization import component_to_dict
    from haystack.dataclasses import ChatMessage, StreamingCallbackT, StreamingChunk
    from haystack.dataclasses.streaming_chunk import ToolCallDelta
    from haystack.tools import ToolsType, flatten_tools_or_toolsets
    from haystack.utils.deserialization import deserialize_component_inplace
except ImportError as error:
    raise MissingExtraError(
        package="haystack-ai", extra="haystack", purpose="SafetyRankedChatGenerator of Haystack"
    ) from error


@component
class SafetyRankedChatGenerator:
    """A chat generator whose reply is the best safe one of several.

    Stands wherever a chat generator does, in pipelines and agents. The generator inside runs n
    times. Tools run once, with the calls of the chosen reply. In the reply's `meta`, `usage` is
    the sum over all candidates, and `srr_guard` the decision as a dict.

    With a `streaming_callback` one is selected, then emitted in one chunk. A generator inside with
    a callback of its own would emit all candidates, and is refused.

    A refusal is a text. Where a `response_format` or a tool call is asked for, it has no form:
    BelowThresholdError is raised. A reply that does not fit there is a failed candidate.

    Pipelines store the component with its generator and policies; a scorer, a hook or a shared
    guard cannot be stored. Load one with `allowed_modules=["srr_guard_integrations.haystack"]`.

    Args:
        chat_generator: The generator to guard, with `run`, and `run_async` for async pipelines.
        settings: Those of `Guard`, or `guard=`, a guard to share (see `GuardSettings`).

    Raises:
        ConfigurationError: It is no chat generator, streams by itself, or a setting is of the
            wrong kind.

    Example:
        >>> from haystack.components.generators.chat import MockChatGenerator
        >>> from srr_guard.testing import FakeScorer
        >>> model = MockChatGenerator(["a bad answer", "a good answer"])
        >>> scorer = FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1)
        >>> generator = SafetyRankedChatGenerator(model, n=2, scorer=scorer)
        >>> generator.run([ChatMessage.from_user("a question")])["replies"][0].text
        'a good answer'
    """

    def __init__(self, chat_generator: Any, **settings: Unpack[GuardSettings]) -> None:
        if not callable(getattr(chat_generator, "run", None)):
            raise ConfigurationError(
                f"chat_generator={chat_generator!r} has no `run`: give a chat generator"
            )
        self.chat_generator = chat_generator
        self.guard: Guard = guard_from(settings)
        self._stored = settings
        self._require_silence()

    @component.output_types(replies=list[ChatMessage])
    def run(
        self,
        messages: list[ChatMessage] | str,
        generation_kwargs: dict[str, Any] | None = None,
        tools: ToolsType | None = None,
        streaming_callback: StreamingCallbackT | None = None,
    ) -> dict[str, Any]:
        """Answer, guarded.

        Args:
            messages: The conversation, or what the user asked.
            generation_kwargs: Passed on to the generator.
            tools: Passed on to the generator.
            streaming_callback: Called with the chosen reply.

        Raises:
            SamplingError: Too few candidates came back, or none may be passed on.
            ScorerError: The candidates could not be scored and the policy says to raise.
        """
        asked, given = self._read(messages, generation_kwargs, tools)
        self.warm_up()
        source = FunctionSource(lambda _: _first(self.chat_generator.run(**given)), isolated=False)
        decision = self.guard.decide(asked, source, delivery=_delivery(given))
        reply = decision.output
        assert reply is not None
        if streaming_callback is not None:
            streaming_callback(_chunk(reply))
        return {"replies": [reply]}

    @component.output_types(replies=list[ChatMessage])
    async def run_async(
        self,
        messages: list[ChatMessage] | str,
        generation_kwargs: dict[str, Any] | None = None,
        tools: ToolsType | None = None,
        streaming_callback: StreamingCallbackT | None = None,
    ) -> dict[str, Any]:
        """Like `run`, without blocking the event loop."""
        asked, given = self._read(messages, generation_kwargs, tools)
        self.warm_up()
        run_async = getattr(self.chat_generator, "run_async", None)

        async def call(_: int) -> ChatMessage:
            assert run_async is not None
            return _first(await run_async(**given))

        def sync_call(_: int) -> ChatMessage:
            return _first(self.chat_generator.run(**given))

        source = FunctionSource(sync_call if run_async is None else call, isolated=False)
        decision = await self.guard.adecide(asked, source, delivery=_delivery(given))
        reply = decision.output
        assert reply is not None
        if streaming_callback is not None:
            told = streaming_callback(_chunk(reply))
            if inspect.isawaitable(told):
                await told
        return {"replies": [reply]}

    def warm_up(self) -> None:
        """Warm up the generator inside."""
        if hasattr(self.chat_generator, "warm_up"):
            self.chat_generator.warm_up()

    def unguarded(self) -> Any:
        """Hand out the generator inside: a bypass, logged and counted."""
        name = type(self.chat_generator).__name__
        return hand_out(self.chat_generator, name, guard=self.guard, of="generator")

    def to_dict(self) -> dict[str, Any]:
        """Store the component.

        Raises:
            ConfigurationError: It has a scorer, a hook or a shared guard.
        """
        for name in ("scorer", "on_decision", "guard"):
            if self._stored.get(name) is not None:
                raise ConfigurationError(
                    f"{name}={self._stored.get(name)!r} cannot be stored: give policies only, or "
                    "make the pipeline in code"
                )
        policies: dict[str, Any] = {
            name: policy.model_dump(mode="json", exclude_defaults=True)
            for name, policy in (
                ("sampling", self.guard.sampling),
                ("decision", self.guard.decision),
            )
        }
        inside = component_to_dict(self.chat_generator, name="chat_generator")
        stored: dict[str, Any] = default_to_dict(self, chat_generator=inside, **policies)
        return stored

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "SafetyRankedChatGenerator":
        """Make a stored component."""
        given = data["init_parameters"]
        deserialize_component_inplace(given, key="chat_generator")
        given["sampling"] = SamplingPolicy(**given.get("sampling", {}))
        given["decision"] = DecisionPolicy(**given.get("decision", {}))
        made: SafetyRankedChatGenerator = default_from_dict(cls, data)
        return made

    def _require_silence(self) -> None:
        if getattr(self.chat_generator, "streaming_callback", None) is not None:
            raise ConfigurationError(
                "the generator inside has a streaming_callback, which would get the text of all "
                "candidates: give it to `run` of SafetyRankedChatGenerator"
            )

    def _read(
        self,
        messages: list[ChatMessage] | str,
        generation_kwargs: dict[str, Any] | None,
        tools: ToolsType | None,
    ) -> tuple[Conversation, dict[str, Any]]:
        self._require_silence()
        if (n := (generation_kwargs or {}).get("n", 1)) != 1:
            raise ConfigurationError(
                f"n={n!r} asks a guarded generator for several replies, and it gives the best one: "
                "leave n out, and set the candidates with `sampling=SamplingPolicy(n=...)`"
            )
        given = [ChatMessage.from_user(messages)] if isinstance(messages, str) else messages
        options = {"messages": given, "generation_kwargs": generation_kwargs, "tools": tools}
        asked = Conversation.of([turn for message in given for turn in _turns(message)])
        return asked, {name: value for name, value in options.items() if value is not None}


# ---- replies ----


def _first(result: dict[str, Any]) -> ChatMessage:
    replies = result.get("replies")
    if not replies:
        raise SamplingError("the generator gave no reply")
    reply: ChatMessage = replies[0]
    return reply


def _delivery(given: dict[str, Any]) -> ConvertedDelivery[Any]:
    options = dict(given.get("generation_kwargs") or {})
    tools = flatten_tools_or_toolsets(given.get("tools"))
    if tools:
        options["tools"] = [{"name": t.name, "parameters": t.parameters} for t in tools]
    check = schema_check(options)
    return ConvertedDelivery(
        message=_assistant,
        refuse=_refusal if check is None else None,
        attach=_attach,
        check=every(check, call_check(options)),
    )


def _assistant(reply: ChatMessage) -> AIMessage:
    thoughts = [{"type": "thinking", "thinking": r.reasoning_text} for r in reply.reasonings]
    message = AIMessage([*thoughts, *reply.texts, *_media(reply)])
    for call in reply.tool_calls:
        arguments = json.dumps(call.arguments, default=str)
        add_call(message, call.tool_name, arguments=arguments, id=call.id)
    usage = reply.meta.get("usage") or {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    message.usage_metadata = usage_of(*counts)
    message.response_metadata = {"finish_reason": reply.meta.get("finish_reason")}
    return message


def _media(message: ChatMessage) -> list[dict[str, Any]]:
    return [{"type": "image"} for _ in message.images] + [{"type": "file"} for _ in message.files]


def _refusal(text: str, reply: ChatMessage) -> ChatMessage:
    kept: dict[str, Any] = {n: reply.meta[n] for n in ("model", "usage") if n in reply.meta}
    return ChatMessage.from_assistant(text, meta={**kept, "finish_reason": "content_filter"})


def _attach(reply: ChatMessage, decision: Decision[Any]) -> ChatMessage:
    metas = [candidate.output.meta for candidate in decision.candidates if candidate.output]
    meta = {**reply.meta, "srr_guard": decision.summary()}
    if (total := total_usage(metas)) is not None:
        meta["usage"] = total
    stored = reply.to_dict()
    finished = ChatMessage.from_dict({**stored, "meta": {}})
    finished.meta.update(meta)
    return finished


def _chunk(reply: ChatMessage) -> StreamingChunk:
    deltas = [
        ToolCallDelta(i, call.tool_name, json.dumps(call.arguments), call.id)
        for i, call in enumerate(reply.tool_calls)
    ]
    if deltas:
        return StreamingChunk(content="", meta=reply.meta, index=0, tool_calls=deltas, start=True)
    return StreamingChunk(content=reply.text or "", meta=reply.meta, index=0, start=True)


# ---- messages ----


def _turns(message: ChatMessage) -> list[BaseMessage]:
    match message.role.value:
        case "assistant":
            return [_assistant(message)]
        case "system":
            return [SystemMessage("\n".join(message.texts))]
        case "tool":
            return [
                ToolMessage(str(result.result), tool_call_id=result.origin.id or "")
                for result in message.tool_call_results
            ]
    return [HumanMessage([*message.texts, *_media(message)])]
