"""Several models that stand for one, and whatever else can be wrapped, as a runnable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable
from langchain_core.runnables.base import coerce_to_runnable
from langchain_core.utils.pydantic import TypeBaseModel
from pydantic import ConfigDict
from typing_extensions import override

from srr_guard.errors import ConfigurationError
from srr_guard.runnables.tree import unbind


class Models(RunnableSerializable[Any, Any]):
    """Several models that stand for one. What is bound to it is bound to each of them.

    `SafetyRanker` spreads its candidates over them. Called directly, the first one answers.
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

    def _each(self, name: str, /, *args: Any, **kwargs: Any) -> Models:
        changes = [getattr(model, name, None) for model in self.models]
        for model, change in zip(self.models, changes, strict=True):
            if change is None:
                raise ConfigurationError(
                    f"{describe(model)} has no {name!r}: take it out of {self}"
                )
        return Models(models=tuple(change(*args, **kwargs) for change in changes if change))

    def __repr__(self) -> str:
        return f"[{', '.join(describe(model) for model in self.models)}]"


def as_runnable(model: Any) -> Runnable[Any, Any]:
    """Turn a model, chain or function into a runnable, a list of them into `Models`.

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
    """Name the class of what is wrapped."""
    inner = unbind(model)[0]
    return repr(inner) if isinstance(inner, Models) else type(inner).__name__
