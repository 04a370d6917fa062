"""`SafetyRanker`: wraps a chat model, chain or function; passes the safest answer on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    CallbackManagerForChainRun,
)
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable
from langchain_core.runnables.utils import ConfigurableFieldSpec
from langchain_core.utils.pydantic import TypeBaseModel
from pydantic import ConfigDict, PrivateAttr
from typing_extensions import override

from srr_guard._lineup import Lineup, as_runnable, describe
from srr_guard._runnables import as_chunk, find_prompt, is_sync_only, unbind
from srr_guard._streamed import acollect, collect
from srr_guard._tracing import RunManager, TraceCandidates, candidate_config, enter, isolated
from srr_guard.conversation import Conversation
from srr_guard.decision import Decision, Totals
from srr_guard.errors import ConfigurationError
from srr_guard.policy import DecisionPolicy, SamplingPolicy
from srr_guard.scoring import ResponseScorer
from srr_guard.selection import Selector, blocking_calls

_SAMPLING = SamplingPolicy()
_DECISION = DecisionPolicy()


class SafetyRanker(RunnableSerializable[Any, Any]):
    """A runnable that samples several answers and passes the best safe one on.

    It stands wherever the wrapped model, chain or function stood: it takes the same input and
    gives the same kind of output. On an AIMessage, `response_metadata["srr_guard"]` says what
    was decided, and `usage_metadata` is the sum over all candidates that came back, with the
    chosen one's own beside it as `response_metadata["srr_guard"]["chosen_usage"]`.

    What may be passed on: a candidate whose `p_safe` reaches the threshold, by default the
    first in ranking order (`DecisionPolicy.prefer`). If there is none,
    `DecisionPolicy.below_threshold` decides. A refusal takes the
    form of the answers, a str or an AIMessage; where they have another form (a dict, a
    pydantic object) no refusal is possible and BelowThresholdError is raised in its place.

    Streaming means: select, then emit one chunk. Candidates run apart from the caller's
    callbacks, so that no token of them reaches a stream, an event or a trace, and past the
    LLM cache, which would make all of them the same.

    Args:
        model: A chat model, any runnable, or a function; or a list of them, which sample the
            candidates in turn.
        scorer: What ranks the candidates; None: the scorer shipped with srr_guard, loaded on
            first use.
        sampling: How candidates are sampled.
        decision: What may be passed on.
        prompt: Finds the prompt in the input: a function from the input to anything
            `Conversation.of` reads. None: the input itself, or the first of its keys
            `messages`, `question`, `input`, `prompt`, `query`, or its only str value.
        trace_candidates: True makes each candidate a child run tagged `srr:candidate:<i>`:
            traces and event streams then hold the text of rejected candidates too, and
            streams show their tokens. `"redacted"` makes the same child runs without any
            text, which never show in a message stream. Each traced candidate is a call of its
            own, also where the model could sample all of them in one.
        on_decision: Called with each Decision before it takes effect, also with those that
            end in an error; what it raises reaches the caller. It must be quick: under async
            callers it runs on the event loop.

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
    scorer: Any = None
    sampling: Any = _SAMPLING
    decision: Any = _DECISION
    prompt: Callable[[Any], Any] | None = None
    trace_candidates: TraceCandidates = False
    on_decision: Any = None

    _selector: Selector = PrivateAttr()
    _lineup: Lineup = PrivateAttr()

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    def __init__(
        self,
        model: Any,
        *,
        scorer: ResponseScorer | None = None,
        sampling: SamplingPolicy = _SAMPLING,
        decision: DecisionPolicy = _DECISION,
        prompt: Callable[[Any], Any] | None = None,
        trace_candidates: TraceCandidates = False,
        on_decision: Callable[[Decision], object] | None = None,
    ) -> None:
        runnable = as_runnable(model)
        if prompt is not None and not callable(prompt):
            raise ConfigurationError(
                f"prompt={prompt!r} cannot be used: give a function from the input to the prompt"
            )
        fields: dict[str, Any] = {
            "model": runnable,
            "scorer": scorer,
            "sampling": sampling,
            "decision": decision,
            "prompt": prompt,
            "trace_candidates": trace_candidates,
            "on_decision": on_decision,
        }
        super().__init__(**fields)
        self._selector = Selector(
            scorer=scorer,
            sampling=sampling,
            decision=decision,
            on_decision=on_decision,
            tunable="each_call",
        )
        self._lineup = Lineup(runnable, sampling)

    @property
    def bypasses(self) -> int:
        """How many answers were passed on unscored or below the threshold so far."""
        return self.totals.bypasses

    @property
    def totals(self) -> Totals:
        """Requests, candidates and bypasses so far.

        Rankers made from this one (`bind_tools`, `with_structured_output`) count together.
        """
        return self._selector.totals

    def decide(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Decision:
        """Sample, score and decide; `invoke` with the whole Decision in place of its output.

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
        """Like `decide`, without blocking the event loop."""
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
        """A SafetyRanker around the model with these tools bound.

        Raises:
            ConfigurationError: What is wrapped has no `bind_tools`.
        """
        return self._around("bind_tools", tools, **kwargs)

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Runnable[Any, Any]:
        """A SafetyRanker around the model with this output schema.

        Raises:
            ConfigurationError: What is wrapped has no `with_structured_output`.
        """
        return self._around("with_structured_output", schema, **kwargs)

    def _around(self, method: str, argument: Any, **kwargs: Any) -> SafetyRanker:
        bind = getattr(self.model, method, None)
        if bind is None:
            raise ConfigurationError(
                f"{self!r} has no {method!r} because what it wraps has none: call it on the chat "
                "model inside, then wrap the result"
            )
        model = bind(argument, **kwargs)
        ranker = self.model_copy(update={"model": model})
        ranker._lineup = Lineup(model, self.sampling)
        return ranker

    def _decide(
        self,
        value: Any,
        run_manager: RunManager | None,
        config: RunnableConfig,
        kwargs: dict[str, Any],
    ) -> Decision:
        conversation = self._conversation(value)

        def call(index: int) -> Any:
            model = self._lineup[index]
            child = self._enter(index, run_manager, config)
            asked = self._lineup.ask(index, value)
            if self.sampling.read_ahead:
                read = self._selector.reader(conversation)
                return collect(model.stream(asked, child, **kwargs), read)
            return model.invoke(asked, child, **kwargs)

        batch = self._batch(value, config, kwargs)
        return self._selector.decide(conversation, call, batched=batch.call if batch else None)

    async def _adecide(
        self,
        value: Any,
        run_manager: RunManager | None,
        config: RunnableConfig,
        kwargs: dict[str, Any],
    ) -> Decision:
        conversation = self._conversation(value)

        async def streamed(model: Runnable[Any, Any], asked: Any, child: RunnableConfig) -> Any:
            read = await self._selector.areader(conversation)
            if not self.trace_candidates and is_sync_only(model):
                chunks = model.stream(asked, child, **kwargs)
                return await blocking_calls.run(collect, chunks, read)
            return await acollect(model.astream(asked, child, **kwargs), read)

        def call(index: int) -> Awaitable[Any]:
            model = self._lineup[index]
            child = self._enter(index, run_manager, config)
            asked = self._lineup.ask(index, value)
            if self.sampling.read_ahead:
                return streamed(model, asked, child)
            if not self.trace_candidates and is_sync_only(model):
                return blocking_calls.run(model.invoke, asked, child, **kwargs)
            return model.ainvoke(asked, child, **kwargs)

        batch = self._batch(value, config, kwargs)
        return await self._selector.adecide(
            conversation, call, batched=batch.acall if batch else None
        )

    def _conversation(self, value: Any) -> Conversation:
        return Conversation.of(self.prompt(value)) if self.prompt else find_prompt(value)

    def _enter(
        self, index: int, run_manager: RunManager | None, config: RunnableConfig
    ) -> RunnableConfig:
        trace = self.trace_candidates
        return enter(candidate_config(config, run_manager, index, trace), traced=trace)

    def _batch(self, value: Any, config: RunnableConfig, kwargs: dict[str, Any]) -> _Batch | None:
        if not self._lineup.batches or self.trace_candidates or self.sampling.read_ahead:
            return None
        return _Batch(self._lineup, value, config, kwargs)

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

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """Configurable fields of what is wrapped."""
        return self.model.config_specs

    def __reduce__(self) -> Any:
        """Pickle what it was made of, so that is what must pickle: no lambda, no live client.

        The default scorer is loaded anew on first use, and the totals begin at 0.
        """
        names = ("scorer", "sampling", "decision", "prompt", "trace_candidates", "on_decision")
        options = {name: getattr(self, name) for name in names}
        return partial(SafetyRanker, **options), (self.model,)

    def __repr__(self) -> str:
        kind = describe(self.model)
        return f"SafetyRanker({kind}, n={self.sampling.n}, threshold={self.decision.threshold})"

    __str__ = __repr__


class _Batch(NamedTuple):
    """Several candidates of one request in one call of a model that can do so."""

    lineup: Lineup
    value: Any
    config: RunnableConfig
    kwargs: dict[str, Any]

    def call(self, indices: range) -> Sequence[Any]:
        model, bound_kwargs = unbind(self.lineup[indices[0]])
        options = {**bound_kwargs, **self.kwargs}
        outputs: Sequence[Any] = cast("Any", model).sample_candidates(
            self._messages(model), len(indices), **options
        )
        return outputs

    async def acall(self, indices: range) -> Sequence[Any]:
        model, bound_kwargs = unbind(self.lineup[indices[0]])
        native = getattr(model, "asample_candidates", None)
        if native is None:
            return await blocking_calls.run(self.call, indices)
        options = {**bound_kwargs, **self.kwargs}
        outputs: Sequence[Any] = await native(self._messages(model), len(indices), **options)
        return outputs

    def _messages(self, model: Any) -> list[Any]:
        enter(isolated(self.config))
        messages: list[Any] = model._convert_input(self.value).to_messages()
        return messages
