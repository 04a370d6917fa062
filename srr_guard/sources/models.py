"""Candidates from models: which model makes candidate i, with which settings, in which call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.language_models import BaseChatModel, BaseLanguageModel
from langchain_core.runnables import Runnable, RunnableConfig

from srr_guard.conversation import Conversation
from srr_guard.errors import ConfigurationError
from srr_guard.policy import SamplingPolicy
from srr_guard.protocols import ReadAhead, SupportsCandidateSampling
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
from srr_guard.runnables.tree import (
    is_sync_only,
    language_models,
    takes_messages,
    unbind,
    with_models,
)
from srr_guard.sources.several import Models, describe
from srr_guard.sources.streaming import acollect, collect
from srr_guard.sources.system_prompts import with_system_prompt
from srr_guard.threads import blocking_calls


class ModelSource:
    """Makes the candidates of all requests to one wrapped model.

    Candidates are sampled past the LLM cache of all language models that `with_models` reaches;
    n calls would give n copies of one answer otherwise.

    Args:
        model: What is wrapped; `Models` take turns.
        policy: How candidates differ: `n`, `temperatures`, `system_prompts`, `seed`; and how
            they are called: `batched`, `read_ahead`.
        trace: What the caller's callbacks see of candidates.

    Raises:
        ConfigurationError: A temperature, system prompt or seed is given and no model takes it.
        NotRepeatableError: The model keeps state or asks a human (see `require_repeatable`).
    """

    def __init__(
        self, model: Runnable[Any, Any], policy: SamplingPolicy, *, trace: TraceCandidates = False
    ) -> None:
        require_repeatable(model)
        models = model.models if isinstance(model, Models) else (model,)
        self.trace: TraceCandidates = trace
        self._template = entry_template(models)
        self.streams = policy.read_ahead
        self._system_prompts = policy.system_prompts or (None,)
        self._takes_messages = tuple(map(takes_messages, models))
        _require_reach(model, models, policy, any(self._takes_messages))
        tuned = policy.temperatures is not None or policy.seed is not None
        self._models = tuple(
            _with_fields(models[i % len(models)], _fields(policy, i), silent=trace is not True)
            for i in range(policy.n if tuned else len(models))
        )
        self._reaches_models = any(True for m in models for _ in language_models(m))
        alike = len(models) == 1 and policy.temperatures is None and policy.system_prompts is None
        one_call = policy.batched == "auto" and not trace and not policy.read_ahead
        self.batches = alike and one_call and _can_batch(models[0])
        """One call makes all candidates of a round."""

    def asked(self, value: Any) -> Conversation:
        """Read the conversation from an input (see `find_prompt`)."""
        return find_prompt(value, self._template)

    def model(self, index: int) -> Runnable[Any, Any]:
        """The model of one candidate, or of a batch whose first candidate it is."""
        return self._models[index % len(self._models)]

    def prompt(self, index: int, value: Any) -> Any:
        """A request as this candidate's model is given it."""
        system_prompt = self._system_prompts[index % len(self._system_prompts)]
        takes_it = self._takes_messages[index % len(self._takes_messages)]
        if system_prompt is None or not takes_it:
            return value
        return with_system_prompt(value, system_prompt)

    def of(
        self,
        value: Any,
        *,
        config: RunnableConfig,
        run_manager: RunManager | None,
        options: dict[str, Any],
        read_ahead: Callable[[], ReadAhead],
    ) -> ModelRequest:
        """Make the candidates of one request (see `CandidateSource`).

        Args:
            value: What the wrapped thing takes.
            config: The caller's config.
            run_manager: The caller's run, for candidates that are traced.
            options: Keyword arguments of each call.
            read_ahead: Starts pre-encoding one answer, where the policy says `read_ahead`.
        """
        if not self._reaches_models:
            warn_of_cache()
        return ModelRequest(self, value, config, run_manager, options, read_ahead)


@dataclass(frozen=True)
class ModelRequest:
    """The candidates of one request to a model (see `CandidateSource`)."""

    source: ModelSource
    value: Any
    config: RunnableConfig
    run_manager: RunManager | None
    options: dict[str, Any]
    read_ahead: Callable[[], ReadAhead]

    @property
    def batches(self) -> bool:
        """One call makes all candidates of a round."""
        return self.source.batches

    def sample(self, indices: range) -> Sequence[Any]:
        """Make these candidates."""
        if self.batches:
            return self._sample_batch(indices)
        model, asked, config = self._call(indices[0])
        if self.source.streams:
            return [collect(model.stream(asked, config, **self.options), self.read_ahead())]
        return [model.invoke(asked, config, **self.options)]

    async def asample(self, indices: range) -> Sequence[Any]:
        """Like `sample`, without blocking the event loop."""
        if self.batches:
            return await self._asample_batch(indices)
        model, asked, config = self._call(indices[0])
        on_thread = not self.source.trace and is_sync_only(model)
        if self.source.streams:
            read = await blocking_calls.run(self.read_ahead)
            if on_thread:
                chunks = model.stream(asked, config, **self.options)
                return [await blocking_calls.run(collect, chunks, read)]
            return [await acollect(model.astream(asked, config, **self.options), read)]
        if on_thread:
            return [await blocking_calls.run(model.invoke, asked, config, **self.options)]
        return [await model.ainvoke(asked, config, **self.options)]

    def _call(self, index: int) -> tuple[Runnable[Any, Any], Any, RunnableConfig]:
        trace = self.source.trace
        config = candidate_config(self.config, self.run_manager, index, trace)
        enter(config, traced=trace)
        return self.source.model(index), self.source.prompt(index, self.value), config

    def _sample_batch(self, indices: range) -> Sequence[Any]:
        model, bound = unbind(self.source.model(indices[0]))
        sample = cast("SupportsCandidateSampling", model).sample_candidates
        return sample(self._messages(model), len(indices), **{**bound, **self.options})

    async def _asample_batch(self, indices: range) -> Sequence[Any]:
        model, bound = unbind(self.source.model(indices[0]))
        asample = getattr(model, "asample_candidates", None)
        if asample is None:
            return await blocking_calls.run(self._sample_batch, indices)
        options = {**bound, **self.options}
        outputs: Sequence[Any] = await asample(self._messages(model), len(indices), **options)
        return outputs

    def _messages(self, model: Any) -> list[Any]:
        enter(isolated(self.config))
        return messages_of(model, self.value)


def _require_reach(
    wrapped: Runnable[Any, Any],
    models: Sequence[Runnable[Any, Any]],
    policy: SamplingPolicy,
    takes_system_prompts: bool,
) -> None:
    for option, field in (("temperatures", "temperature"), ("seed", "seed")):
        value = getattr(policy, option)
        if value is not None and not any(_takes(m, field) for m in models):
            raise ConfigurationError(
                f"{option}={value!r} reaches no model: {describe(wrapped)} has no field "
                f"{field!r}; leave it out"
            )
    if policy.system_prompts is not None and not takes_system_prompts:
        raise ConfigurationError(
            f"system_prompts={policy.system_prompts!r} reach no model: {describe(wrapped)} is "
            "not a chat model; wrap the chat model inside, or leave them out"
        )


def _fields(policy: SamplingPolicy, index: int) -> dict[str, Any]:
    """Fields to set on the model of a candidate."""
    fields: dict[str, Any] = {"cache": False}
    if policy.temperatures is not None:
        fields["temperature"] = policy.temperatures[index % len(policy.temperatures)]
    if policy.seed is not None:
        fields["seed"] = policy.seed + index
    return fields


def _with_fields(
    runnable: Runnable[Any, Any], fields: dict[str, Any], *, silent: bool
) -> Runnable[Any, Any]:
    """A copy whose language models have these fields, as far as they know them."""

    def change(model: BaseLanguageModel[Any]) -> BaseLanguageModel[Any]:
        known = {k: v for k, v in fields.items() if k in type(model).model_fields}
        return model.model_copy(update=known)

    changed: Runnable[Any, Any] = with_models(runnable, change, silent=silent)
    return changed


def _takes(runnable: Runnable[Any, Any], field: str) -> bool:
    return any(field in type(model).model_fields for model in language_models(runnable))


def _can_batch(model: Runnable[Any, Any]) -> bool:
    inner = unbind(model)[0]
    return isinstance(inner, BaseChatModel) and isinstance(inner, SupportsCandidateSampling)
