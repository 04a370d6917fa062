"""`LocalChatModel`: any causal LM on this machine as a LangChain chat model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, model_validator

from srr_guard.conversation import Conversation
from srr_guard.errors import ConfigurationError, InvalidInputError, SRRGuardError
from srr_guard.extras import require_local
from srr_guard.local.recipes.plan import unserved
from srr_guard.local.requests import Answer, Answers, GenerationOptions, GenerationRequest
from srr_guard.local.tool_text import ends_of_calls, forced_prefix, parse_answer, with_tool_text
from srr_guard.local.worker import GenerationJob, token_ids
from srr_guard.recipes import Plain, Recipe
from srr_guard.reference.hub import HubOptions
from srr_guard.reference.spec import Device, DType, ModelSpec

if TYPE_CHECKING:
    from srr_guard.scorer.running import EarlyCut

_log = logging.getLogger("srr_guard")

_OPTIONS = ("max_new_tokens", "temperature", "top_p", "seed")
# Hints for models with native tool calling; without it there is nothing they could change.
_IGNORED = frozenset({"strict", "parallel_tool_calls", "stream"})


class LocalChatModel(BaseChatModel):
    """A causal LM that transformers can load, as a chat model; no key, no network.

    The weights are loaded on first use and shared by all models and scorers of the process that
    use the same files, device and precision. One thread runs them, so async callers never block
    the event loop, and a cancelled request ends before its next token. Control tokens in the
    messages are plain text to the model.

    `sample_candidates` samples several answers in one batched call; `SafetyRanker` uses it.
    Tools work as far as the model follows the instructions written into its system turn;
    `tool_choice` with `any` or a name makes the answer begin as a call.

    Attributes:
        model: A folder, GGUF file or hub id; None takes the reference LLM of the scorer.
        file: Which GGUF file of a folder or repository.
        revision: Branch, tag or commit on the hub.
        token: Access token for the hub.
        cache_dir: The hub cache.
        local_files_only: Never ask the hub.
        device: `auto`, or what `torch.device` reads.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        max_new_tokens: Most tokens of one answer.
        temperature: 0 takes the likeliest token each time.
        top_p: Share of the probability that sampling is limited to, in (0, 1].
        seed: Equal seeds give equal answers to equal prompts, also across separate calls;
            None gives new ones each time.

    `max_new_tokens`, `temperature`, `top_p` and `seed` may be given for one call too.

    Raises:
        ReferenceNotFoundError: The model is nowhere to be found (on first use).
        ReferenceLoadError: It cannot be loaded (on first use).
        MissingExtraError: The extra `local` is not installed (on first use).

    Example:
        >>> from srr_guard import LocalChatModel
        >>> model = LocalChatModel(temperature=0, max_new_tokens=8)
        >>> model.invoke("What is the capital of France?").text
        'The capital of France is Paris.'
        >>> sampled = model.sample_candidates("Say hello.", 3, temperature=0.8)
        >>> [type(message).__name__ for message in sampled]
        ['AIMessage', 'AIMessage', 'AIMessage']
    """

    model: str | Path | None = None
    file: str | None = None
    revision: str | None = None
    token: str | None = Field(default=None, exclude=True, repr=False)
    cache_dir: str | None = None
    local_files_only: bool = False
    device: Device = "auto"
    dtype: DType = "auto"
    max_new_tokens: int = 256
    temperature: float = 0.8
    top_p: float = 0.95
    seed: int | None = None
    disable_streaming: bool | Literal["tool_calling"] = Field(default="tool_calling")
    """With tools an answer is known to be a call or a text only at its end."""

    @model_validator(mode="after")
    def _check(self) -> LocalChatModel:
        self._options(None, {})
        return self

    @property
    def _llm_type(self) -> str:
        return "srr-guard-local"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        named = ("model", "file", "revision", "dtype", *_OPTIONS)
        return {name: getattr(self, name) for name in named}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "srr_guard"
        params["ls_model_name"] = str(self.model or "reference")
        return params

    def get_token_ids(self, text: str) -> list[int]:
        """Encode text with the model's own tokenizer; loads the model."""
        return token_ids(self._spec(), text)

    def sample_candidates(
        self,
        messages: LanguageModelInput,
        n: int,
        *,
        recipes: Sequence[Recipe | None] | None = None,
        cut: EarlyCut | None = None,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Sample n answers in one batched call.

        No callback is called. The prompt is read once for all of them: its tokens are
        counted in the first message's usage only, so that the sum over the messages is what
        was used.

        Args:
            messages: What a chat model is called with.
            n: How many answers.
            recipes: How they are made, taken in turn; None in their place is an answer as the
                model gives it. Where tools are bound, all but `Plain` are left out.
            cut: A floor (see `SRRScorer.early_cut`): an answer that falls below it is cut off, and
                has the `finish_reason` "cut". Answers whose states are not those that the scorer
                would read (`ReversePrompt`, `Steered`, `SoftPrompt`, a system prompt of their
                own, a forced call of a tool) are not.
            stop: Texts that end an answer; they are not part of it.
            **kwargs: Options for this call; `tools` and `tool_choice` as `bind_tools` binds
                them.

        Raises:
            ConfigurationError: n is below 1, or an option is unknown or out of range, or
                `temperature` is 0 and n is not 1, or a recipe is not served (see `serves`).
            InvalidInputError: The prompt is empty.
        """
        request, tools = self._request(messages, n, stop, kwargs, recipes, cut)
        return _messages(_wait(GenerationJob(self._spec(), request)), tools)

    async def asample_candidates(
        self,
        messages: LanguageModelInput,
        n: int,
        *,
        recipes: Sequence[Recipe | None] | None = None,
        cut: EarlyCut | None = None,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Like `sample_candidates`, without blocking the event loop."""
        request, tools = self._request(messages, n, stop, kwargs, recipes, cut)
        return _messages(await _await(GenerationJob(self._spec(), request)), tools)

    def cuts_candidates(self) -> bool:
        """True: `sample_candidates` takes `cut`."""
        return True

    def serves(self, recipe: Recipe) -> str | None:
        """Say why a recipe cannot be served; None if it can.

        Finds the model's files and the recipe's, and loads neither.
        """
        try:
            source = self._spec().resolve()
        except SRRGuardError as error:
            return f"{type(recipe).__name__}: {error}"
        return unserved(recipe, source.digest, source.name)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Describe tools in the system turn, and read the calls in the answers.

        Args:
            tools: Tools, functions, pydantic classes or schemas.
            tool_choice: None or `auto` leaves the choice to the model; `any` or a tool's
                name makes the answer begin as a call; `none` describes no tool.
            **kwargs: Options for the calls.

        Raises:
            ConfigurationError: `tool_choice` names no bound tool.
        """
        schemas = [convert_to_openai_tool(tool) for tool in tools]
        forced_prefix(schemas, tool_choice)
        return self.bind(tools=schemas, tool_choice=tool_choice, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(self.sample_candidates(messages, 1, stop=stop, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(await self.asample_candidates(messages, 1, stop=stop, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        recipes: Sequence[Recipe | None] | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        request, _ = self._request(messages, 1, stop, kwargs, recipes)
        pieces: SimpleQueue[str | None] = SimpleQueue()
        job = GenerationJob(self._spec(), request, on_text=lambda _, piece: pieces.put(piece))
        job.future.add_done_callback(lambda _: pieces.put(None))
        try:
            while (piece := pieces.get()) is not None:
                chunk = _chunk(piece)
                if run_manager:
                    run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
            yield _last_chunk(job.future.result())
        finally:
            job.cancel()

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        recipes: Sequence[Recipe | None] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        request, _ = self._request(messages, 1, stop, kwargs, recipes)
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def send(piece: str | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        job = GenerationJob(self._spec(), request, on_text=lambda _, piece: send(piece))
        job.future.add_done_callback(lambda _: send(None))
        try:
            while (piece := await pieces.get()) is not None:
                chunk = _chunk(piece)
                if run_manager:
                    await run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
            yield _last_chunk(job.future.result())
        finally:
            job.cancel()

    def _spec(self) -> ModelSpec:
        require_local("LocalChatModel")
        return ModelSpec(
            reference=self.model,
            file=self.file,
            hub=HubOptions(
                revision=self.revision,
                token=self.token,
                cache_dir=self.cache_dir,
                local_files_only=self.local_files_only,
            ),
            device=self.device,
            dtype=self.dtype,
        )

    def _options(self, stop: list[str] | None, kwargs: dict[str, Any]) -> GenerationOptions:
        unknown = sorted(set(kwargs) - set(_OPTIONS) - _IGNORED)
        if unknown:
            raise ConfigurationError(
                f"LocalChatModel knows no option {unknown[0]!r}: it takes {', '.join(_OPTIONS)}, "
                "stop, tools and tool_choice"
            )
        chosen = {name: kwargs.get(name, getattr(self, name)) for name in _OPTIONS}
        return GenerationOptions(stop=tuple(stop or ()), **chosen)

    def _request(
        self,
        messages: LanguageModelInput,
        n: int,
        stop: list[str] | None,
        kwargs: dict[str, Any],
        recipes: Sequence[Recipe | None] | None = None,
        cut: EarlyCut | None = None,
    ) -> tuple[GenerationRequest, list[dict[str, Any]]]:
        tools: list[dict[str, Any]] = kwargs.pop("tools", None) or []
        choice = kwargs.pop("tool_choice", None)
        if choice == "none":
            tools = []
        prefix = forced_prefix(tools, choice) if tools else ""
        options = self._options([*(stop or ()), *ends_of_calls(tools, prefix)], kwargs)
        if n < 1:
            raise ConfigurationError(f"n={n!r} asks for no answer: give 1 or more")
        plan = tuple(recipes or ())
        if tools and any(not isinstance(recipe, (Plain, type(None))) for recipe in plan):
            _log.info("tools are bound: recipes other than Plain are left out of %d", len(plan))
            plan = tuple(r if isinstance(r, Plain) else None for r in plan)
        if n > 1 and options.temperature == 0.0 and not any(plan):
            raise ConfigurationError(
                f"temperature=0 gives n={n!r} equal answers: raise the temperature, or ask for one"
            )
        try:
            turns = self._convert_input(messages).to_messages()
        except ValueError as error:
            raise InvalidInputError(f"not a prompt for a chat model: {error}") from error
        request = GenerationRequest(
            conversation=Conversation.of(with_tool_text(turns, tools)),
            options=options,
            n=n,
            prefix=prefix,
            recipes=plan,
            cut=cut,
        )
        return request, tools


def _wait(job: GenerationJob) -> Answers:
    try:
        return job.future.result()
    finally:
        job.cancel()


async def _await(job: GenerationJob) -> Answers:
    try:
        return await asyncio.wrap_future(job.future)
    finally:
        job.cancel()


def _messages(result: Answers, tools: Sequence[dict[str, Any]]) -> list[AIMessage]:
    messages = []
    for i, answer in enumerate(result.answers):
        parsed = parse_answer(answer.text, tools)
        message = AIMessage(
            content=parsed.text,
            tool_calls=parsed.tool_calls,
            invalid_tool_calls=parsed.invalid_tool_calls,
            response_metadata=_metadata(result, answer),
            usage_metadata=_usage(result.prompt_tokens if i == 0 else 0, answer.tokens),
        )
        messages.append(message)
    return messages


def _result(messages: list[AIMessage]) -> ChatResult:
    (message,) = messages
    finish = {"finish_reason": message.response_metadata["finish_reason"]}
    return ChatResult(generations=[ChatGeneration(message=message, generation_info=finish)])


def _chunk(piece: str) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content=piece))


def _last_chunk(result: Answers) -> ChatGenerationChunk:
    (answer,) = result.answers
    message = AIMessageChunk(
        content="",
        chunk_position="last",
        response_metadata=_metadata(result, answer),
        usage_metadata=_usage(result.prompt_tokens, answer.tokens),
    )
    return ChatGenerationChunk(message=message)


def _metadata(result: Answers, answer: Answer) -> dict[str, Any]:
    return {"model_name": result.model_name, "finish_reason": answer.finish}


def _usage(input_tokens: int, output_tokens: int) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        total_tokens=input_tokens + output_tokens,
    )
