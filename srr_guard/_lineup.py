"""What samples which candidate: several models, temperatures, system prompts, seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel, BaseLanguageModel
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableParallel,
    RunnableSequence,
    RunnableSerializable,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase, coerce_to_runnable
from langchain_core.runnables.configurable import DynamicRunnable, RunnableConfigurableAlternatives
from langchain_core.utils.pydantic import TypeBaseModel
from pydantic import ConfigDict
from typing_extensions import override

from srr_guard._runnables import unbind
from srr_guard._system_prompts import takes_messages, with_system_prompt
from srr_guard.errors import ConfigurationError
from srr_guard.policy import SamplingPolicy
from srr_guard.sampling import SupportsCandidateSampling


class Models(RunnableSerializable[Any, Any]):
    """Several models that stand for one: what is bound to it is bound to each of them.

    A `SafetyRanker` spreads its candidates over them; called directly, the first one answers.
    """

    models: tuple[Runnable[Any, Any], ...]

    model_config = ConfigDict(arbitrary_types_allowed=True)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Answer with the first model."""
        return self.models[0].invoke(input, config, **kwargs)

    @property
    @override
    def InputType(self) -> Any:
        """Input type of the first model."""
        return self.models[0].InputType

    @property
    @override
    def OutputType(self) -> Any:
        """Output type of the first model."""
        return self.models[0].OutputType

    def get_input_schema(self, config: RunnableConfig | None = None) -> TypeBaseModel:
        """Input schema of the first model."""
        return self.models[0].get_input_schema(config)

    def get_output_schema(self, config: RunnableConfig | None = None) -> TypeBaseModel:
        """Output schema of the first model."""
        return self.models[0].get_output_schema(config)

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Models:
        """Bind the tools to each model."""
        return self._each("bind_tools", tools, **kwargs)

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Models:
        """Have each model answer in this schema."""
        return self._each("with_structured_output", schema, **kwargs)

    def _each(self, method: str, *args: Any, **kwargs: Any) -> Models:
        changes = [getattr(model, method, None) for model in self.models]
        for model, change in zip(self.models, changes, strict=True):
            if change is None:
                raise ConfigurationError(
                    f"{describe(model)} has no {method!r}: take it out of {self}"
                )
        return Models(models=tuple(change(*args, **kwargs) for change in changes if change))

    def __repr__(self) -> str:
        return f"[{', '.join(describe(model) for model in self.models)}]"


class Lineup:
    """The models of n candidates, by index, and what each of them is asked.

    Args:
        model: What is wrapped; `Models` take turns.
        policy: Its `n`, `temperatures`, `system_prompts` and `seed` count here.

    Raises:
        ConfigurationError: A temperature, system prompt or seed is given and no model takes
            it.
    """

    def __init__(self, model: Runnable[Any, Any], policy: SamplingPolicy) -> None:
        models = model.models if isinstance(model, Models) else (model,)
        fields = {"temperatures": "temperature", "seed": "seed"}
        for option, field in fields.items():
            value = getattr(policy, option)
            if value is not None and not any(_takes(m, field) for m in models):
                raise ConfigurationError(
                    f"{option}={value!r} reaches no model: {describe(model)} has no field "
                    f"{field!r}; leave it out"
                )
        self._system_prompts = policy.system_prompts or (None,)
        self._takes_messages = tuple(takes_messages(m) for m in models)
        if policy.system_prompts is not None and not any(self._takes_messages):
            raise ConfigurationError(
                f"system_prompts={policy.system_prompts!r} reach no model: {describe(model)} is "
                "not a chat model; wrap the chat model inside, or leave them out"
            )
        tuned = policy.temperatures is not None or policy.seed is not None
        self._models = tuple(
            _with_fields(models[i % len(models)], _fields(policy, i))
            for i in range(policy.n if tuned else len(models))
        )
        alike = policy.temperatures is None and policy.system_prompts is None
        self.batches = len(models) == 1 and alike and _can_batch(models[0])
        """Whether one call can sample several candidates."""

    def __getitem__(self, index: int) -> Runnable[Any, Any]:
        """The model of one candidate, or of a batch whose first candidate it is."""
        return self._models[index % len(self._models)]

    def ask(self, index: int, value: Any) -> Any:
        """A request as this candidate's model gets it."""
        system_prompt = self._system_prompts[index % len(self._system_prompts)]
        takes_it = self._takes_messages[index % len(self._takes_messages)]
        if system_prompt is None or not takes_it:
            return value
        return with_system_prompt(value, system_prompt)


def as_runnable(model: Any) -> Runnable[Any, Any]:
    """A model, chain or function as a runnable; a list of them as `Models`.

    Raises:
        ConfigurationError: It is of another kind, or an empty list.
    """
    if isinstance(model, (list, tuple)):
        if not model:
            raise ConfigurationError(f"model={model!r} has no model in it: give at least one")
        return Models(models=tuple(as_runnable(m) for m in model))
    try:
        runnable: Runnable[Any, Any] = coerce_to_runnable(model)
    except TypeError as error:
        raise ConfigurationError(
            f"model of type {type(model).__name__!r} cannot be wrapped: give a chat model, "
            "a runnable, a function, or a list of them"
        ) from error
    return runnable


def describe(model: Runnable[Any, Any]) -> str:
    """What is wrapped, in a word: the name of its class."""
    inner = unbind(model)[0]
    return repr(inner) if isinstance(inner, Models) else type(inner).__name__


def _fields(policy: SamplingPolicy, index: int) -> dict[str, Any]:
    """What is set on the model of a candidate; past the LLM cache, n calls give n answers."""
    fields: dict[str, Any] = {"cache": False}
    if policy.temperatures is not None:
        fields["temperature"] = policy.temperatures[index % len(policy.temperatures)]
    if policy.seed is not None:
        fields["seed"] = policy.seed + index
    return fields


def _with_fields(runnable: Runnable[Any, Any], fields: Mapping[str, Any]) -> Runnable[Any, Any]:
    """A copy whose language models have these fields, as far as they know them."""
    match runnable:
        case BaseLanguageModel():
            known = {k: v for k, v in fields.items() if k in type(runnable).model_fields}
            return runnable.model_copy(update=known)
        case RunnableBindingBase():  # bindings, retries, each
            return runnable.model_copy(update={"bound": _with_fields(runnable.bound, fields)})
        case RunnableParallel():
            steps = {name: _with_fields(r, fields) for name, r in runnable.steps__.items()}
            return runnable.model_copy(update={"steps__": steps})
        case RunnableConfigurableAlternatives():
            others = {
                name: _alternative_with_fields(other, fields)
                for name, other in runnable.alternatives.items()
            }
            default = _with_fields(runnable.default, fields)
            return runnable.model_copy(update={"default": default, "alternatives": others})
        case DynamicRunnable():
            return runnable.model_copy(update={"default": _with_fields(runnable.default, fields)})
        case RunnableWithFallbacks():
            fallbacks = [_with_fields(r, fields) for r in runnable.fallbacks]
            return runnable.model_copy(
                update={
                    "runnable": _with_fields(runnable.runnable, fields),
                    "fallbacks": fallbacks,
                }
            )
        case RunnableSequence():
            return runnable.model_copy(
                update={
                    "first": _with_fields(runnable.first, fields),
                    "middle": [_with_fields(r, fields) for r in runnable.middle],
                    "last": _with_fields(runnable.last, fields),
                }
            )
    return runnable


def _alternative_with_fields(other: Any, fields: Mapping[str, Any]) -> Any:
    """An alternative of a configurable runnable: the runnable itself, or what makes it."""
    if isinstance(other, Runnable):
        return _with_fields(other, fields)
    return lambda: _with_fields(other(), fields)


def _can_batch(model: Runnable[Any, Any]) -> bool:
    inner = unbind(model)[0]
    return isinstance(inner, BaseChatModel) and isinstance(inner, SupportsCandidateSampling)


def _takes(runnable: Runnable[Any, Any], field: str) -> bool:
    return any(field in type(model).model_fields for model in _language_models(runnable))


def _language_models(runnable: Any) -> Iterator[BaseLanguageModel[Any]]:
    match runnable:
        case BaseLanguageModel():
            yield runnable
        case RunnableBindingBase():
            yield from _language_models(runnable.bound)
        case RunnableParallel():
            for inner in runnable.steps__.values():
                yield from _language_models(inner)
        case DynamicRunnable():
            yield from _language_models(runnable.default)
        case RunnableWithFallbacks():
            for inner in runnable.runnables:
                yield from _language_models(inner)
        case RunnableSequence():
            for inner in runnable.steps:
                yield from _language_models(inner)
