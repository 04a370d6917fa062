"""Candidates from models: which model makes candidate i, with which settings, in which call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.configurable import DynamicRunnable

from srr_guard.conversation import Conversation, with_own_messages
from srr_guard.core.watched import WatchedAnswer
from srr_guard.errors import ConfigurationError
from srr_guard.policy import GatePolicy, SamplingPolicy, recipes_of
from srr_guard.protocols import (
    AnswerWatch,
    CutOff,
    Declined,
    SupportsCandidateSampling,
    SupportsRecipes,
)
from srr_guard.recipes import Recipe, Stepwise
from srr_guard.replay import fresh
from srr_guard.runnables._private import messages_of
from srr_guard.runnables.cache import warn_of_cache
from srr_guard.runnables.inputs import entry_template, find_prompt
from srr_guard.runnables.state import require_repeatable
from srr_guard.runnables.tracing import (
    RunManager,
    TraceCandidates,
    candidate_config,
    enter,
    isolated,
)
from srr_guard.runnables.tree import is_sync_only, language_models, parts, unbind
from srr_guard.sources.plans import (
    NO_FORCED_START,
    CallMaker,
    CandidateCall,
    asks_for_form,
    binds_form,
    require_all_given,
    require_one_answer,
    require_turns,
    without_forced_starts,
)
from srr_guard.sources.refusal_start import begun, with_prefill
from srr_guard.sources.streaming import acollect, collect
from srr_guard.sources.system_prompts import with_system_prompt
from srr_guard.threads import blocking_calls


class ModelSource:
    """Makes the candidates of all requests to one wrapped model.

    Candidates are sampled past the LLM cache of all language models that `with_models` reaches;
    n calls would give n copies of one answer otherwise.

    Args:
        model: What is wrapped; `Models` take turns.
        policy: How candidates differ: `n`, `plan` or its short forms, `seed`; and how they are
            called: `batched`, `read_ahead`.
        gating: The gate's policy, for the plan of harmful prompts.
        trace: What the caller's callbacks see of candidates.

    Raises:
        ConfigurationError: A recipe cannot be served, or a temperature, system prompt or seed
            is given and no model takes it, or turns are left to the provider.
        NotRepeatableError: The model keeps state or asks a human (see `require_repeatable`).
    """

    def __init__(
        self,
        model: Runnable[Any, Any],
        policy: SamplingPolicy,
        *,
        gating: GatePolicy | None = None,
        trace: TraceCandidates = False,
    ) -> None:
        require_repeatable(model)
        require_all_given(model)
        self.trace: TraceCandidates = trace
        self.streams = policy.read_ahead
        self.cuts = policy.cut_below is not None and not policy.read_ahead
        maker = CallMaker(model, policy, silent=trace is not True)
        self.batch_model = maker.batch_model
        own_calls = bool(trace) or policy.read_ahead
        if self.cuts and (own_calls or not maker.cuts):
            raise ConfigurationError(
                f"cut_below={policy.cut_below} needs streamed answers, or a LocalChatModel that is "
                "called in batches, without trace_candidates: set read_ahead=True, or leave it out"
            )
        self.searches = any(isinstance(r, Stepwise) for r in recipes_of(policy, gating))
        self._plan = _Plan(
            maker,
            tuple(policy.recipe(i) for i in range(policy.n)),
            own_calls=own_calls,
            short=policy.temperatures is not None or policy.system_prompts is not None,
        )
        self._gate_plan = self._plan
        if gating is not None and gating.plan is not None:
            recipes = tuple(gating.recipe(i, policy) for i in range(policy.n))
            self._gate_plan = _Plan(maker, recipes, own_calls=own_calls)
        self._binds_form = any(map(binds_form, maker.models))
        self._models = maker.models
        self._template = entry_template(maker.models)
        self._is_configurable = any(
            isinstance(part, DynamicRunnable) for m in maker.models for part in parts(m)
        )
        inside = [lm for m in maker.models for lm in language_models(m)]
        self._reaches_models = bool(inside)
        self._are_models = all(isinstance(unbind(m)[0], BaseLanguageModel) for m in maker.models)
        self.local = any(isinstance(lm, SupportsRecipes) for lm in inside)
        """A model runs on this machine."""

    def asked(self, value: Any, config: RunnableConfig) -> Conversation:
        """Read the conversation from an input (see `find_prompt`)."""
        template = self._template
        if self._is_configurable:
            template = entry_template(self._models, config)
        return find_prompt(value, template)

    def of(
        self,
        value: Any,
        *,
        config: RunnableConfig,
        run_manager: RunManager | None,
        options: dict[str, Any],
        watch: Callable[..., AnswerWatch],
        early_cut: Callable[[], Any],
    ) -> ModelRequest:
        """Make the candidates of one request (see `CandidateSource`).

        Args:
            value: What the wrapped thing takes.
            config: The caller's config.
            run_manager: The caller's run, for candidates that are traced.
            options: Keyword arguments of each call.
            watch: Follows one streamed answer, or with `trace=True` its reasoning, where the
                policy says `read_ahead`.
            early_cut: Makes the floor for answers that the model cuts off itself.
        """
        if self._reaches_models:
            require_turns(options)
            if self._are_models:
                require_one_answer(options)
        else:
            warn_of_cache()
        in_form = self._binds_form or asks_for_form(options)
        return ModelRequest(
            source=self,
            plan=self._plan,
            gate_plan=self._gate_plan,
            in_form=in_form,
            value=value,
            config=config,
            run_manager=run_manager,
            options=options,
            watch=watch,
            early_cut=early_cut if self.cuts or self.searches else _nothing,
        )


class _Plan:
    """The calls of one plan: as it is, and for requests that ask for a form.

    Attributes:
        calls: One for each candidate.
        calls_in_form: The same without forced starts.
        skipped: Why those differ.
    """

    def __init__(
        self,
        maker: CallMaker,
        recipes: tuple[Recipe, ...],
        *,
        own_calls: bool,
        short: bool = False,
    ) -> None:
        self.calls = maker.calls(recipes, own_calls=own_calls, short=short)
        without = without_forced_starts(recipes)
        self.skipped: tuple[str, ...] = () if without == recipes else (NO_FORCED_START,)
        self.calls_in_form = (
            maker.calls(without, own_calls=own_calls) if self.skipped else self.calls
        )


@dataclass(frozen=True)
class ModelRequest:
    """The candidates of one request to a model (see `PlannedSource`)."""

    source: ModelSource
    plan: _Plan
    gate_plan: _Plan
    in_form: bool
    value: Any
    config: RunnableConfig
    run_manager: RunManager | None
    options: dict[str, Any]
    watch: Callable[..., AnswerWatch]
    early_cut: Callable[[], Any]

    @property
    def calls(self) -> tuple[CandidateCall, ...]:
        """One for each candidate."""
        return self.plan.calls_in_form if self.in_form else self.plan.calls

    @property
    def skipped(self) -> tuple[str, ...]:
        """Why recipes are not followed in this request."""
        return self.plan.skipped if self.in_form else ()

    def by_gate(self) -> ModelRequest:
        """The candidates of the same request, those after the first by the gate's plan."""
        return replace(self, plan=self.gate_plan)

    @property
    def local(self) -> bool:
        """A model runs on this machine."""
        return self.source.local

    @property
    def batches(self) -> bool:
        """Some call makes several candidates."""
        return any(call.batch is not None for call in self.calls)

    def jobs(self, indices: Sequence[int]) -> list[Sequence[int]]:
        """Divide candidates among calls: all that batch in one, each other in its own."""
        together = [i for i in indices if self._in_batch(i)]
        alone = [[i] for i in indices if not self._in_batch(i)]
        return [*([together] if together else []), *alone]

    def recipe(self, index: int) -> str:
        """Kind of the recipe that a candidate is made by."""
        return self._at(index).recipe.kind

    def sample(self, indices: Sequence[int]) -> Sequence[Any]:
        """Make these candidates."""
        if self._in_batch(indices[0]):
            return self._sample_batch(indices)
        call, asked, config = self._call(indices[0])
        with _Answer(call, config) as answer:
            if self.source.streams:
                chunks = call.model.stream(asked, config, **self.options)
                answer.output = collect(chunks, self.watch)
            else:
                answer.output = call.model.invoke(asked, config, **self.options)
        return [answer.whole()]

    async def asample(self, indices: Sequence[int]) -> Sequence[Any]:
        """Like `sample`, without blocking the event loop."""
        if self._in_batch(indices[0]):
            return await self._asample_batch(indices)
        call, asked, config = self._call(indices[0])
        model = call.model
        on_thread = not self.source.trace and is_sync_only(model)
        begin, run = self.watch, blocking_calls.run
        with _Answer(call, config) as answer:
            if self.source.streams and on_thread:
                chunks = model.stream(asked, config, **self.options)
                answer.output = await run(collect, chunks, begin)
            elif self.source.streams:
                await run(begin)  # loads the scorer, which blocks
                answer.output = await acollect(model.astream(asked, config, **self.options), begin)
            elif on_thread:
                answer.output = await run(model.invoke, asked, config, **self.options)
            else:
                answer.output = await model.ainvoke(asked, config, **self.options)
        return [answer.whole()]

    def _at(self, index: int) -> CandidateCall:
        return self.calls[index % len(self.calls)]

    def _in_batch(self, index: int) -> bool:
        return self._at(index).batch is not None

    def _call(self, index: int) -> tuple[CandidateCall, Any, RunnableConfig]:
        trace = self.source.trace
        config = candidate_config(self.config, self.run_manager, index, trace)
        enter(config, traced=trace)
        call, asked = self._at(index), with_own_messages(fresh(self.value))
        if call.system_prompt is not None:
            asked = with_system_prompt(asked, call.system_prompt)
        if call.prefill is not None:
            asked = with_prefill(asked, call.prefill)
        return call, asked, config

    def _sample_batch(self, indices: Sequence[int]) -> Sequence[Any]:
        model, options = self._batch(indices)
        sample = cast("SupportsCandidateSampling", model).sample_candidates
        if (cut := self.early_cut()) is not None:
            options["cut"] = cut
        return _with_cuts(sample(self._messages(model), len(indices), **options), cut)

    async def _asample_batch(self, indices: Sequence[int]) -> Sequence[Any]:
        model, options = self._batch(indices)
        asample = getattr(model, "asample_candidates", None)
        if asample is None:
            return await blocking_calls.run(self._sample_batch, indices)
        if (cut := await blocking_calls.run(self.early_cut)) is not None:
            options["cut"] = cut
        outputs = await asample(self._messages(model), len(indices), **options)
        return _with_cuts(outputs, cut)

    def _batch(self, indices: Sequence[int]) -> tuple[Any, dict[str, Any]]:
        """The model of a batched call and its options, with a recipe for each row if need be."""
        calls = [self._at(i) for i in indices]
        model, bound = unbind(self.source.batch_model(indices[0]))
        options = {**bound, **self.options}
        if any(call.batch == "recipes" for call in calls):
            options["recipes"] = tuple(call.recipe for call in calls)
        return model, options

    def _messages(self, model: Any) -> list[Any]:
        enter(isolated(self.config))
        return messages_of(model, self.value)


def _nothing() -> None:
    """No floor."""


def _with_cuts(outputs: Sequence[Any], cut: Any) -> Sequence[Any]:
    """The outputs of a batched call, those marked that the model cut off."""
    if cut is None:
        return outputs
    finished = [getattr(o, "response_metadata", {}).get("finish_reason") for o in outputs]
    return [CutOff(o) if why == "cut" else o for o, why in zip(outputs, finished, strict=True)]


class _Answer(WatchedAnswer):
    """One answer in the making, by a recipe."""

    def __init__(self, call: CandidateCall, config: RunnableConfig) -> None:
        super().__init__(config)
        self._prefill = call.prefill

    def whole(self) -> Any:
        """The result with the words that were put into the model's mouth."""
        result = self.result
        if self._prefill is None or isinstance(result, Declined):
            return result
        if isinstance(result, CutOff):
            return CutOff(begun(result.output, self._prefill))
        return begun(result, self._prefill)
