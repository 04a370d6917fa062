"""`SafetyRanker`: wraps a chat model, chain or function; passes the safest answer on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    CallbackManagerForChainRun,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import BasePromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableSequence,
    RunnableSerializable,
)
from langchain_core.utils.pydantic import TypeBaseModel
from pydantic import ConfigDict, PrivateAttr
from typing_extensions import override

from srr_guard.conversation import Conversation
from srr_guard.core.delivery import MessageDelivery, as_chunk
from srr_guard.core.guard import Guard
from srr_guard.decision import Decision
from srr_guard.errors import ConfigurationError
from srr_guard.formats.schemas import call_check, schema_check, structured_check
from srr_guard.policy import DecisionPolicy, GatePolicy, SamplingPolicy
from srr_guard.protocols import PromptGate, ResponseScorer
from srr_guard.replay import fresh, listed, replayable
from srr_guard.runnables.tracing import RunManager, TraceCandidates
from srr_guard.runnables.tree import unbind
from srr_guard.settings import require_function
from srr_guard.sources.models import ModelRequest, ModelSource
from srr_guard.sources.several import Models, as_runnable, describe
from srr_guard.threads import require_asyncio
from srr_guard.wrappers.settings import SETTINGS, guard_of
from srr_guard.wrappers.shell import ModelShell

_OWN = ("prompt", "trace_candidates")


class SafetyRanker(ModelShell, RunnableSerializable[Any, Any]):
    """A runnable that samples several answers and passes the best safe one on.

    It stands wherever the wrapped model, chain or function stood: it takes the same input and
    gives the same kind of output. On an AIMessage, `response_metadata["srr_guard"]` holds the
    decision, `usage_metadata` the sum over all candidates that came back, and
    `response_metadata["srr_guard"]["chosen_usage"]` the chosen one's own.

    What may be passed on: a candidate whose `p_safe` reaches the threshold, by default the
    first in ranking order (`DecisionPolicy.prefer`). If there is none,
    `DecisionPolicy.below_threshold` decides. A refusal takes the form of the answers, a str or
    an AIMessage; answers of another form (a dict, a pydantic object) have no refusal, and
    BelowThresholdError is raised instead.

    Streaming means: select, then emit one chunk. Candidates run outside your callbacks, so
    rejected text never shows up in a stream, event or trace, and past the LLM cache, which
    would make all of them the same. The cache of a model that a function or a LangGraph agent
    calls by itself is out of reach: switch it off there (`cache=False`).

    Args:
        model: A chat model, any runnable, or a function; or a list of them, which make the
            candidates in turn.
        scorer: Ranks the candidates; None: the shipped scorer, loaded on first use.
        sampling: How candidates are sampled.
        decision: What may be passed on.
        gating: What is decided from the prompt alone (see `Guard`).
        gate: Assesses prompts (see `Guard`).
        prompt: Finds the prompt in the input: a function from the input to anything
            `Conversation.of` reads. None: the input as the chain's own prompt template prints
            it, or all of it where there is no such template (see `Conversation.of`).
        trace_candidates: True makes each candidate a child run tagged `srr:candidate:<i>`:
            traces and event streams then hold the text of rejected candidates, and streams show
            their tokens. `"redacted"` makes the same child runs without any text, which never
            show in a message stream. Each traced candidate is a call of its own, even where the
            model could sample all of them in one.
        on_decision: Called with each Decision before it takes effect (see `Guard`).
        n: Short for `sampling=SamplingPolicy(n=...)`.
        threshold: Short for `decision=DecisionPolicy(threshold=...)`.
        guard: A guard to share, in place of `scorer`, the policies, `gate` and `on_decision`.
        name: Name of the runnable in traces.

    Raises:
        ConfigurationError: An argument is of the wrong kind.

    Example:
        >>> from srr_guard.testing import FakeScorer, ScriptedChatModel
        >>> ranker = SafetyRanker(
        ...     ScriptedChatModel(answers=["a bad answer", "a good answer"]),
        ...     scorer=FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1),
        ... )
        >>> ranker.invoke("a question").content
        'a good answer'
        >>> ranker
        SafetyRanker(ScriptedChatModel, n=4, threshold=0.5)
        >>> two = SafetyRanker(
        ...     [ScriptedChatModel(answers=["bad"]), ScriptedChatModel(answers=["good"])],
        ...     scorer=ranker.scorer,
        ...     sampling=SamplingPolicy(n=2, accept_at=0.8),
        ... )
        >>> decision = two.decide("a question")
        >>> decision.output.content, decision.sampled
        ('good', 2)
    """

    model: Runnable[Any, Any]
    scorer: ResponseScorer | None = None
    sampling: SamplingPolicy = SamplingPolicy()
    decision: DecisionPolicy = DecisionPolicy()
    gating: GatePolicy | None = None
    gate: PromptGate | None = None
    on_decision: Callable[[Decision], object] | None = None
    prompt: Callable[[Any], Any] | None = None
    trace_candidates: TraceCandidates = False

    _guard: Guard = PrivateAttr()
    _source: ModelSource = PrivateAttr()
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
        prompt: Callable[[Any], Any] | None = None,
        trace_candidates: TraceCandidates = False,
        on_decision: Callable[[Decision], object] | None = None,
        n: int | None = None,
        threshold: float | None = None,
        guard: Guard | None = None,
        name: str | None = None,
    ) -> None:
        require_function("prompt", prompt, "a function from the input to the prompt")
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
        fields: dict[str, Any] = {
            "model": as_runnable(model),
            "prompt": prompt,
            "trace_candidates": trace_candidates,
            "name": name,
            **{setting: getattr(given, setting) for setting in SETTINGS},
        }
        super().__init__(**fields)
        self._guard = given
        self._source = self._make_source()

    def decide(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Decision:
        """Sample, score and decide; return the whole Decision in place of its output.

        Args:
            input: What the wrapped model or chain takes.
            config: Config of this run; candidates get it without its callbacks.
            **kwargs: Passed on to the wrapped model or chain.

        Raises:
            InvalidInputError: No prompt is found in the input, or it is empty.
            SamplingError: Too few candidates came back, or none may be passed on.
            ScorerError: The candidates could not be scored and the policy says to raise.
        """
        decisions: list[Decision] = []

        def run(value: Any, run_manager: CallbackManagerForChainRun, config: RunnableConfig) -> Any:
            decisions.append(self._decide(value, run_manager, config, kwargs))
            return decisions[0].output  # all that callbacks see: no rejected text

        self._call_with_config(run, input, config)
        return decisions[0]

    async def adecide(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Decision:
        """Like `decide`, without blocking the event loop.

        Raises:
            ConfigurationError: The loop is not asyncio's.
        """
        require_asyncio()
        decisions: list[Decision] = []

        async def run(
            value: Any, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig
        ) -> Any:
            decisions.append(await self._adecide(value, run_manager, config, kwargs))
            return decisions[0].output

        await self._acall_with_config(run, input, config)
        return decisions[0]

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Answer with the best safe candidate; see `decide`."""
        return self.decide(input, config, **kwargs).output

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Like `invoke`, without blocking the event loop."""
        return (await self.adecide(input, config, **kwargs)).output

    def stream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any | None
    ) -> Iterator[Any]:
        """Select, then emit: one chunk with the whole answer."""

        def run(
            values: Iterator[Any], run_manager: CallbackManagerForChainRun, config: RunnableConfig
        ) -> Iterator[Any]:
            for value in values:
                yield as_chunk(self._decide(value, run_manager, config, kwargs).output)

        yield from self._transform_stream_with_config(iter([input]), run, config)

    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any | None
    ) -> AsyncIterator[Any]:
        """Like `stream`, without blocking the event loop."""
        require_asyncio()

        async def once() -> AsyncIterator[Any]:
            yield input

        async def run(
            values: AsyncIterator[Any],
            run_manager: AsyncCallbackManagerForChainRun,
            config: RunnableConfig,
        ) -> AsyncIterator[Any]:
            async for value in values:
                decision = await self._adecide(value, run_manager, config, kwargs)
                yield as_chunk(decision.output)

        async for chunk in self._atransform_stream_with_config(once(), run, config):
            yield chunk

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, Any]:
        """Guard the model with these tools bound.

        Raises:
            ConfigurationError: What is wrapped has no `bind_tools`.
        """
        return self._around("bind_tools", tools, **kwargs)

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Runnable[Any, Any]:
        """Guard the model with this output schema.

        Raises:
            ConfigurationError: What is wrapped has no `with_structured_output`.
        """
        guarded = self._around("with_structured_output", schema, **kwargs)
        guarded._schema = schema
        return guarded

    def _around(self, name: str, argument: Any, /, **kwargs: Any) -> SafetyRanker:
        bind = getattr(self.model, name, None)
        if bind is None:
            raise ConfigurationError(
                f"{self!r} has no {name!r} because what it wraps has none: call it on the chat "
                "model inside, then wrap the result"
            )
        return self.model_copy(update={"model": bind(argument, **kwargs)})

    def _decide(
        self,
        value: Any,
        run_manager: RunManager | None,
        config: RunnableConfig,
        kwargs: dict[str, Any],
    ) -> Decision:
        value = replayable(listed(value))  # each candidate reads it
        asked = self._conversation(value, config)
        source = self._of(asked, value, run_manager, config, kwargs)
        return self._guard.decide(asked, source, delivery=self._form(kwargs))

    async def _adecide(
        self,
        value: Any,
        run_manager: RunManager | None,
        config: RunnableConfig,
        kwargs: dict[str, Any],
    ) -> Decision:
        value = replayable(listed(value))
        asked = self._conversation(value, config)
        source = self._of(asked, value, run_manager, config, kwargs)
        return await self._guard.adecide(asked, source, delivery=self._form(kwargs))

    def _form(self, kwargs: dict[str, Any]) -> MessageDelivery:
        """The form of the answers to one call, with the schema that it asks for."""
        options = {**unbind(self.model)[1], **kwargs}
        fits = schema_check(options, lax_calls=True)  # LangChain's tools convert
        asked = fits, call_check(options), structured_check(self._schema)
        checks = [check for check in asked if check is not None]
        return MessageDelivery(checks=checks, form=_form_of(self.model))

    def _conversation(self, value: Any, config: RunnableConfig) -> Conversation:
        if self.prompt is not None:
            return Conversation.of(self.prompt(fresh(value)))
        return self._source.asked(value, config)

    def _of(
        self,
        asked: Conversation,
        value: Any,
        run_manager: RunManager | None,
        config: RunnableConfig,
        kwargs: dict[str, Any],
    ) -> ModelRequest:
        return self._source.of(
            value,
            config=config,
            run_manager=run_manager,
            options=kwargs,
            watch=partial(self._guard.watch, asked),
            early_cut=partial(self._guard.early_cut, asked),
        )

    # ---- what a wrapper passes on ----

    @property
    @override
    def InputType(self) -> Any:
        """Input type of what is wrapped."""
        return self.model.InputType

    @property
    @override
    def OutputType(self) -> Any:
        """Output type of what is wrapped."""
        return self.model.OutputType

    def get_input_schema(self, config: RunnableConfig | None = None) -> TypeBaseModel:
        """Input schema of what is wrapped."""
        return self.model.get_input_schema(config)

    def get_output_schema(self, config: RunnableConfig | None = None) -> TypeBaseModel:
        """Output schema of what is wrapped."""
        return self.model.get_output_schema(config)

    def get_prompts(self, config: RunnableConfig | None = None) -> list[BasePromptTemplate[Any]]:
        """Prompt templates of what is wrapped."""
        return self.model.get_prompts(config)

    def __reduce__(self) -> Any:
        """Pickle what it was made of, so that is what must pickle: no lambda, no live client.

        The default scorer is loaded anew on first use, and the totals begin at 0.
        """
        options = {name: getattr(self, name) for name in (*SETTINGS, *_OWN, "name")}
        return SafetyRanker._rebuilt, (self.model, options, self._schema)

    @classmethod
    def _rebuilt(cls, model: Any, options: dict[str, Any], schema: Any) -> SafetyRanker:
        ranker = cls(model, **options)
        ranker._schema = schema
        return ranker

    def __repr__(self) -> str:
        kind = describe(self.model)
        return f"SafetyRanker({kind}, n={self.sampling.n}, threshold={self.decision.threshold})"

    __str__ = __repr__


def _form_of(model: Runnable[Any, Any]) -> type[AIMessage] | type[str] | None:
    """The form of what is answered, where the type of the wrapped thing says so."""
    models = model.models if isinstance(model, Models) else (model,)
    if all(isinstance(unbind(m)[0], BaseChatModel) for m in models):
        return AIMessage
    steps = [m.last if isinstance(m, RunnableSequence) else None for m in models]
    if all(isinstance(unbind(step)[0], BaseChatModel) for step in steps if step) and all(steps):
        return AIMessage
    return str if all(isinstance(step, StrOutputParser) for step in steps) else None
