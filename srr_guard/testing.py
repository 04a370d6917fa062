"""Stand-ins for tests: a scorer and a gate made of functions, a chat model with a script.

None needs a network, a key or torch, and all work in sync and async code:

    >>> from srr_guard import SafetyRanker
    >>> scorer = FakeScorer(lambda prompt, answer: 0.1 if "bomb" in answer else 0.9)
    >>> model = ScriptedChatModel(answers=["a bomb is made of", "I won't help with that."])
    >>> SafetyRanker(model, scorer=scorer).invoke("How?").content
    "I won't help with that."
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, PrivateAttr, SkipValidation

from srr_guard.conversation import Conversation
from srr_guard.decision import PromptAssessment, Ranking
from srr_guard.errors import ConfigurationError, InvalidInputError
from srr_guard.protocols import ReadAhead

__all__ = ["FakeGate", "FakeScorer", "ScriptedChatModel"]


class FakeScorer:
    """A scorer whose numbers come from a function.

    Args:
        fn: Called with the prompt's text and one candidate's text; returns `p_safe`, which
            is the listwise score as well.
        delay: Seconds each call of `score` or `ascore` takes.
        error: Raised by each call in place of a ranking.

    Attributes:
        calls: The lists of candidates that were scored, one per call.
        ahead: The partial texts it was given to pre-encode.

    Example:
        >>> scorer = FakeScorer(lambda prompt, answer: 0.9 if prompt in answer else 0.2)
        >>> scorer.score("tea", ["coffee", "tea, please"]).order
        (1, 0)
        >>> scorer.calls
        [('coffee', 'tea, please')]
    """

    def __init__(
        self,
        fn: Callable[[str, str], float],
        *,
        delay: float = 0.0,
        error: Exception | None = None,
    ) -> None:
        self._fn = fn
        self._delay = delay
        self._error = error
        self.calls: list[tuple[str, ...]] = []
        self.ahead: list[str] = []

    def score(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Rank candidates.

        Raises:
            InvalidInputError: The prompt is empty or there are no candidates.
        """
        if self._delay:
            time.sleep(self._delay)
        return self._rank(conversation, candidates)

    async def ascore(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Like `score`; the delay does not block the event loop."""
        if self._delay:
            await asyncio.sleep(self._delay)
        return self._rank(conversation, candidates)

    def read_ahead(self, conversation: Any) -> ReadAhead:
        """Record a streamed answer."""

        def read(text: str, *, done: bool = False) -> None:
            self.ahead.append(text)

        return read

    def _rank(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        self.calls.append(tuple(candidates))
        if self._error is not None:
            raise self._error
        if not candidates:
            raise InvalidInputError("the list of candidates is empty: give it at least one")
        prompt = Conversation.of(conversation).prompt
        p_safe = [float(self._fn(prompt, text)) for text in candidates]
        return Ranking.from_scores(scores=p_safe, p_safe=p_safe)


class FakeGate:
    """A prompt gate whose numbers come from a function.

    Args:
        fn: Called with the prompt's text; returns `p_harmful`.
        familiarity: Of every prompt; None: it cannot tell.
        delay: Seconds each call takes.
        error: Raised by each call in place of an assessment.

    Attributes:
        calls: The prompts that were assessed.

    Example:
        >>> gate = FakeGate(lambda prompt: 0.9 if "bomb" in prompt else 0.1)
        >>> gate.assess("How do I build a bomb?").p_harmful
        0.9
    """

    def __init__(
        self,
        fn: Callable[[str], float],
        *,
        familiarity: float | None = 1.0,
        delay: float = 0.0,
        error: Exception | None = None,
    ) -> None:
        self._fn = fn
        self._familiarity = familiarity
        self._delay = delay
        self._error = error
        self.calls: list[str] = []

    def assess(self, conversation: Any) -> PromptAssessment:
        """Assess a prompt.

        Raises:
            InvalidInputError: The prompt is empty.
        """
        if self._delay:
            time.sleep(self._delay)
        return self._assess(conversation)

    async def aassess(self, conversation: Any) -> PromptAssessment:
        """Like `assess`; the delay does not block the event loop."""
        if self._delay:
            await asyncio.sleep(self._delay)
        return self._assess(conversation)

    def _assess(self, conversation: Any) -> PromptAssessment:
        prompt = Conversation.of(conversation).prompt
        self.calls.append(prompt)
        if self._error is not None:
            raise self._error
        return PromptAssessment(p_harmful=float(self._fn(prompt)), familiarity=self._familiarity)


Answer = str | list[str | dict[str, Any]] | AIMessage | BaseException
"""A text, content blocks, a message, or an exception to raise."""


class ScriptedChatModel(BaseChatModel):
    """A chat model that gives the answers of a script, one per call, over and over.

    It is sync and async, streams word by word, and takes tools (and ignores them). Copies
    (`bind_tools`, `model_copy`) share one place in the script; calls from several threads
    each get the next answer.

    Attributes:
        answers: Texts, content blocks, messages, or exceptions to raise; a message keeps its
            tool calls and usage.
        delay: Seconds each call takes, or one figure per answer, in the same rotation.

    Raises:
        ConfigurationError: There are no answers, or the list of delays is empty.

    Example:
        >>> model = ScriptedChatModel(answers=["one", "two"])
        >>> [model.invoke("count").content for _ in range(3)]
        ['one', 'two', 'one']
        >>> model.calls
        3
        >>> [chunk.content for chunk in ScriptedChatModel(answers=["to be"]).stream("?")]
        ['to', ' ', 'be']
    """

    answers: list[SkipValidation[Answer]] = Field(repr=False)
    delay: float | list[float] = 0.0

    _place: Iterator[int] = PrivateAttr(default_factory=lambda: iter(range(sys.maxsize)))
    _seen: list[list[BaseMessage]] = PrivateAttr(default_factory=list)

    def __init__(
        self,
        *,
        answers: Sequence[Answer],
        delay: float | Sequence[float] = 0.0,
        **options: Any,
    ) -> None:
        fields: dict[str, Any] = {
            "answers": list(answers),
            "delay": list(delay) if isinstance(delay, Sequence) else delay,
            **options,
        }
        super().__init__(**fields)
        if not self.answers:
            raise ConfigurationError("answers=[] leaves nothing to say: give at least one answer")
        if self.delay == []:
            raise ConfigurationError("delay=[] has no figure: give a number or one per answer")

    @property
    def calls(self) -> int:
        """Calls made so far, over all copies."""
        return len(self._seen)

    @property
    def seen(self) -> list[list[BaseMessage]]:
        """The messages of each call."""
        return list(self._seen)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Bind tools; the script decides what is called."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _next(self, messages: list[BaseMessage]) -> tuple[Answer, float]:
        place = next(self._place)
        self._seen.append(messages)
        delay = self.delay[place % len(self.delay)] if isinstance(self.delay, list) else self.delay
        return self.answers[place % len(self.answers)], delay

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer, delay = self._next(messages)
        if delay:
            time.sleep(delay)
        return ChatResult(generations=[ChatGeneration(message=_message(answer))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer, delay = self._next(messages)
        if delay:
            await asyncio.sleep(delay)
        return ChatResult(generations=[ChatGeneration(message=_message(answer))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        answer, delay = self._next(messages)
        if delay:
            time.sleep(delay)
        for chunk in _chunks(_message(answer)):
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
        answer, delay = self._next(messages)
        if delay:
            await asyncio.sleep(delay)
        for chunk in _chunks(_message(answer)):
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


def _message(answer: Answer) -> AIMessage:
    if isinstance(answer, BaseException):
        raise answer
    # A copy: LangChain writes the run's id and metadata into the message it is given.
    return answer.model_copy(deep=True) if isinstance(answer, AIMessage) else AIMessage(answer)


def _chunks(message: AIMessage) -> list[ChatGenerationChunk]:
    """Word by word when the content is text; the last piece carries everything else."""
    words = re.findall(r"\s+|\S+", message.content) if isinstance(message.content, str) else []
    last = AIMessageChunk(
        content=words[-1] if words else message.content,
        additional_kwargs=message.additional_kwargs,
        tool_calls=message.tool_calls,
        invalid_tool_calls=message.invalid_tool_calls,
        usage_metadata=message.usage_metadata,
        response_metadata=message.response_metadata,
        chunk_position="last",
    )
    pieces = [AIMessageChunk(content=word) for word in words[:-1]] + [last]
    return [ChatGenerationChunk(message=piece) for piece in pieces]
