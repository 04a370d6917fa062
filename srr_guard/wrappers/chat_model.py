"""`SafetyRankedChatModel`: the guard where a chat model is demanded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import (
    BaseChatModel,
    BaseLanguageModel,
    LanguageModelInput,
)
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableConfig,
    RunnableLambda,
    RunnablePassthrough,
    ensure_config,
)
from pydantic import ConfigDict, Field, PrivateAttr

from srr_guard.conversation import Conversation
from srr_guard.core.delivery import MessageDelivery, as_chunk, misfit, require_parsed
from srr_guard.core.guard import Guard
from srr_guard.decision import Decision
from srr_guard.errors import ConfigurationError, SamplingError
from srr_guard.formats.schemas import Check, call_check, schema_check, structured_check
from srr_guard.policy import DecisionPolicy, GatePolicy, SamplingPolicy
from srr_guard.protocols import PromptGate, ResponseScorer
from srr_guard.runnables.tracing import RunManager, TraceCandidates, isolated
from srr_guard.runnables.tree import language_models, unbind, with_entries
from srr_guard.sources.models import ModelRequest, ModelSource
from srr_guard.sources.several import Models, as_runnable, describe
from srr_guard.threads import require_asyncio
from srr_guard.wrappers.settings import SETTINGS, guard_of
from srr_guard.wrappers.shell import ModelShell

# Fields that are those of the model inside, unless they are given.
_INHERITED = ("profile", "tags", "metadata")
_OWN = ("model", *SETTINGS, "trace_candidates")


class SafetyRankedChatModel(ModelShell, BaseChatModel):
    """A chat model that samples several answers of another one and passes the best safe one on.

    Use it where a `BaseChatModel` is demanded: agents, evaluators, other libraries. Callbacks
    see one chat model run. `response_metadata["srr_guard"]` holds the decision,
    `usage_metadata` the sum over all candidates. Streaming means: select, then emit one chunk.

    `with_structured_output` raises BelowThresholdError in place of a refusal, which has no
    structured form. An answer that does not fit the schema is a failed candidate.

    Args:
        model: A chat model, or a runnable from messages to a message around one; a list of
            them spreads the candidates over several models.
        scorer: Ranks the candidates; None: the shipped scorer, loaded on first use.
        sampling: How candidates are sampled.
        decision: What may be passed on.
        gating: What is decided from the prompt alone (see `Guard`).
        gate: Assesses prompts (see `Guard`).
        trace_candidates: What callbacks and traces see of candidates (see `SafetyRanker`). With
            `stream` and `astream` they see nothing: LangChain does not tell a chat model which
            run it streams for.
        on_decision: Called with each Decision before it takes effect (see `Guard`).
        n: Short for `sampling=SamplingPolicy(n=...)`.
        threshold: Short for `decision=DecisionPolicy(threshold=...)`.
        guard: A guard to share, in place of `scorer`, the policies, `gate` and `on_decision`.
        stop: Texts that end an answer, for calls that name none.
        temperature: Given to each call of the model; None: its own.
        max_tokens: Given to each call of the model; None: its own.
        streaming: `invoke` too reports its answer to callbacks as a chunk.
        **options: Fields that every chat model has (`name`, `tags`, `metadata`, `callbacks`,
            `output_version`, `cache`, ...). The cache is off unless one is given: it would
            hand out answers that were chosen under another policy.

    Raises:
        ConfigurationError: An argument is of the wrong kind or unknown.

    Example:
        >>> from srr_guard.testing import FakeScorer, ScriptedChatModel
        >>> model = SafetyRankedChatModel(
        ...     ScriptedChatModel(answers=["a bad answer", "a good answer"]),
        ...     scorer=FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1),
        ... )
        >>> model.invoke("a question").text
        'a good answer'
        >>> model
        SafetyRankedChatModel(ScriptedChatModel, n=4, threshold=0.5)
    """

    model: Runnable[Any, Any] = Field(exclude=True)
    scorer: ResponseScorer | None = Field(default=None, exclude=True)
    sampling: SamplingPolicy = SamplingPolicy()
    decision: DecisionPolicy = DecisionPolicy()
    gating: GatePolicy | None = None
    gate: PromptGate | None = Field(default=None, exclude=True)
    on_decision: Callable[[Decision], object] | None = Field(default=None, exclude=True)
    trace_candidates: TraceCandidates = False
    stop: list[str] | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    streaming: bool = False
    cache: BaseCache | bool | None = Field(default=False, exclude=True)

    _guard: Guard = PrivateAttr()
    _source: ModelSource = PrivateAttr()
    _parser: Runnable[Any, Any] | None = PrivateAttr(default=None)
    _schema: Any = PrivateAttr(default=None)

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    def __init__(
        self,
        model: Any,
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
        **options: Any,
    ) -> None:
        unknown = sorted(set(options) - set(type(self).model_fields))
        if unknown:
            raise ConfigurationError(
                f"SafetyRankedChatModel has no option {unknown[0]!r}: give it to the chat model "
                "inside"
            )
        given = guard_of(
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
        runnable = as_runnable(model)
        inner = unbind(runnable)[0]
        if isinstance(inner, RunnableLambda):
            raise ConfigurationError(
                f"{model!r} is a function, not a chat model: wrap it in SafetyRanker"
            )
        fields: dict[str, Any] = {
            "model": runnable,
            "trace_candidates": trace_candidates,
            **{name: getattr(inner, name, None) for name in _INHERITED},
            **{setting: getattr(given, setting) for setting in SETTINGS},
            **options,
        }
        super().__init__(**fields)
        self._guard = given
        self._source = self._make_source()

    @property
    def model_name(self) -> str:
        """Name of the model inside, which frameworks look up; else the name of its class."""
        inner = unbind(self.model)[0]
        names = (getattr(inner, field, None) for field in ("model_name", "model", "model_id"))
        return next((n for n in names if n and isinstance(n, str)), describe(self.model))

    def around(self, model: Any) -> SafetyRankedChatModel:
        """Put the same guard around another model.

        Raises:
            ConfigurationError: It cannot be wrapped.
        """
        runnable = as_runnable(model)
        profile = getattr(unbind(runnable)[0], "profile", None)
        return self.model_copy(update={"model": runnable, "profile": profile})

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools by way of the model inside.

        Raises:
            ConfigurationError: It has no `bind_tools`.
        """
        choice = {} if tool_choice is None else {"tool_choice": tool_choice}
        bound: Runnable[LanguageModelInput, AIMessage] = self._rebound(
            self._inner("bind_tools")(tools, **choice, **kwargs)
        )
        return bound

    def with_structured_output(
        self, schema: Any, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Give answers of this schema, by way of the model inside.

        Raises:
            ConfigurationError: It has no `with_structured_output`.
        """
        options = {"include_raw": include_raw, **kwargs}
        structured = self._inner("with_structured_output")(schema, **options)
        copy = self.model_copy()
        copy._schema = schema
        several = isinstance(structured, Models)  # each has its own parser; one does for all
        if several:
            structured = super(SafetyRankedChatModel, copy).with_structured_output(
                schema, **options
            )
        copy._parser = with_entries(structured, lambda _: RunnablePassthrough())
        if several:  # once more, so that the model which is bound in there has the parser too
            return super(SafetyRankedChatModel, copy).with_structured_output(schema, **options)
        guarded: Runnable[LanguageModelInput, Any] = with_entries(structured, copy._rebound)
        return guarded

    def __reduce__(self) -> Any:
        names = (*_OWN, *(name for name in self.model_fields_set if name not in _OWN))
        return SafetyRankedChatModel._rebuilt, (
            {name: getattr(self, name) for name in names},
            self._parser,
            self._schema,
        )

    @classmethod
    def _rebuilt(cls, options: dict[str, Any], parser: Any, schema: Any) -> SafetyRankedChatModel:
        """Unpickle; the scorer is loaded anew and the totals begin at 0."""
        model = cls(**options)
        model._parser, model._schema = parser, schema
        return model

    def _inner(self, method: str) -> Callable[..., Any]:
        found: Callable[..., Any] | None = getattr(self.model, method, None)
        if found is None:
            raise ConfigurationError(
                f"{self!r} has no {method!r} because what it wraps has none: call it on the chat "
                "model inside, then wrap the result"
            )
        return found

    def _rebound(self, bound: Any) -> Any:
        """Put this model in the place of the one inside."""
        if isinstance(bound, RunnableBinding) and bound.bound is self.model:
            return bound.model_copy(update={"bound": self})
        return self.around(bound).bind()

    # ---- what a chat model does ----

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Answer with the best safe candidate."""
        with _calling(config):
            return super().invoke(input, config, stop=stop, **kwargs)

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Like `invoke`, without blocking the event loop.

        Raises:
            ConfigurationError: The loop is not asyncio's.
        """
        require_asyncio()
        with _calling(config):
            return await super().ainvoke(input, config, stop=stop, **kwargs)

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Select, then emit: one chunk with the whole answer."""
        chunks = super().stream(input, config, stop=stop, **kwargs)
        while True:
            with _calling(config):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Like `stream`, without blocking the event loop."""
        require_asyncio()
        chunks: Any = super().astream(input, config, stop=stop, **kwargs)
        async with aclosing(chunks):
            while True:
                with _calling(config):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(self._choose(messages, stop, run_manager, kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(await self._achoose(messages, stop, run_manager, kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        chunk = _as_generation_chunk(self._choose(messages, stop, run_manager, kwargs))
        if run_manager is not None:
            run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        chunk = _as_generation_chunk(await self._achoose(messages, stop, run_manager, kwargs))
        if run_manager is not None:
            await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
        yield chunk

    def _choose(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: RunManager | None,
        kwargs: dict[str, Any],
    ) -> AIMessage:
        asked = Conversation.of(messages)
        source = self._of(asked, messages, stop, run_manager, kwargs)
        return self._message(self._guard.decide(asked, source, delivery=self._form(kwargs)))

    async def _achoose(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: RunManager | None,
        kwargs: dict[str, Any],
    ) -> AIMessage:
        asked = Conversation.of(messages)
        source = self._of(asked, messages, stop, run_manager, kwargs)
        form = self._form(kwargs)
        return self._message(await self._guard.adecide(asked, source, delivery=form))

    def _of(
        self,
        asked: Conversation,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: RunManager | None,
        kwargs: dict[str, Any],
    ) -> ModelRequest:
        return self._source.of(
            messages,
            config=ensure_config(_config.get()),
            run_manager=run_manager,
            options=self._call_options(stop, kwargs),
            watch=partial(self._guard.watch, asked),
            early_cut=partial(self._guard.early_cut, asked),
        )

    def _message(self, decision: Decision) -> AIMessage:
        if not isinstance(decision.output, AIMessage):
            raise SamplingError(
                f"{self!r} was answered with {type(decision.output).__name__!r}, and a chat "
                "model must answer with a message: use SafetyRanker"
            )
        return decision.output

    def _form(self, kwargs: dict[str, Any]) -> MessageDelivery:
        """The form of the answers to one call, with the schema that it asks for."""
        options = {**unbind(self.model)[1], **kwargs}
        asked = self._fits(options) if self._parser is None else self._parse
        checks = [check for check in (asked, call_check(options)) if check is not None]
        return MessageDelivery(checks=checks, may_refuse=self._parser is None, form=AIMessage)

    def _fits(self, options: dict[str, Any]) -> Check | None:
        """The check of what a call with these options asks for; LangChain's tools convert."""
        return schema_check(options, lax_calls=True)

    def _parse(self, message: Any) -> None:
        """Parse an answer as the caller will.

        Raises:
            SamplingError: It does not fit the schema.
        """
        assert self._parser is not None
        try:
            parsed = self._parser.invoke(message, isolated({}))
        except Exception as error:
            raise misfit(message) from error
        if parsed is None:
            raise misfit(message)
        require_parsed(parsed)
        if (check := structured_check(self._schema)) is not None:
            check(parsed)

    def _call_options(self, stop: list[str] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        own = {
            "stop": stop or self.stop,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        return {**{k: v for k, v in own.items() if v not in (None, [])}, **kwargs}

    # ---- what code may ask a chat model ----

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids, by the model inside."""
        return self._language_model().get_token_ids(text)

    def get_num_tokens(self, text: str) -> int:
        """Number of tokens, by the model inside."""
        return self._language_model().get_num_tokens(text)

    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Number of tokens of messages, by the model inside."""
        return self._language_model().get_num_tokens_from_messages(list(messages), tools)

    def _language_model(self) -> BaseLanguageModel[Any]:
        """The (first) language model inside.

        Raises:
            ConfigurationError: There is none that can be found.
        """
        found = next(language_models(self.model), None)
        if found is None:
            raise ConfigurationError(
                f"{self!r} cannot count tokens: no language model is found in what it wraps"
            )
        return found

    @property
    def _llm_type(self) -> str:
        inner = next(language_models(self.model), None)
        return getattr(inner, "_llm_type", "srr-guard-ranked")

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Parameters for traces; of the model inside only its kind, for it may hold keys."""
        return {
            "model": describe(self.model),
            "sampling": self.sampling.model_dump(mode="json"),
            "decision": self.decision.model_dump(mode="json"),
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        inner, bound = unbind(self.model)
        options = self._call_options(stop, {**bound, **kwargs})
        if isinstance(inner, BaseChatModel):
            params = inner._get_ls_params(**options)
        else:
            params = super()._get_ls_params(**options)
        params.setdefault("ls_model_name", describe(self.model))
        return params

    def __repr__(self) -> str:
        kind, n, threshold = describe(self.model), self.sampling.n, self.decision.threshold
        return f"SafetyRankedChatModel({kind}, n={n}, threshold={threshold})"

    __str__ = __repr__


_config: ContextVar[RunnableConfig | None] = ContextVar("srr_guard_config", default=None)
"""The config of the call: LangChain tells a chat model nothing of it, and candidates need it."""


@contextmanager
def _calling(config: RunnableConfig | None) -> Iterator[None]:
    token = _config.set(config)
    try:
        yield
    finally:
        _config.reset(token)


def _result(message: AIMessage) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=message)])


def _as_generation_chunk(message: AIMessage) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=as_chunk(message))
