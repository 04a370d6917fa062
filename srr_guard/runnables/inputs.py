"""Finds what was asked in a runnable's input, as its own prompt template reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseLanguageModel
from langchain_core.prompts import BasePromptTemplate, ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableConfig,
    RunnableParallel,
    RunnableSequence,
)
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.configurable import DynamicRunnable
from langchain_core.runnables.passthrough import RunnableAssign, RunnablePassthrough

from srr_guard.conversation import Conversation
from srr_guard.runnables.tree import entries


@dataclass(frozen=True)
class EntryTemplate:
    """The prompt template that a runnable's input reaches.

    Attributes:
        template: The template.
        direct: Nothing stands before it, so that what it does not print reaches no model.
    """

    template: BasePromptTemplate[Any]
    direct: bool = True

    @property
    def variables(self) -> set[str]:
        """What it prints."""
        return {*self.template.input_variables, *self.template.optional_variables}

    def conversation(self, value: Any) -> Conversation | None:
        """The conversation that it makes of an input; None if it prints nothing of it.

        What it prints and the input lacks, because a step before it adds that, is left blank.
        """
        names = self.template.input_variables
        if not isinstance(value, Mapping):
            if not self.direct or len(names) != 1:
                return None
            value = {names[0]: value}
        given = {name: value[name] for name in self.variables if name in value}
        if not given:
            return None
        blank = {name: _blank(self.template, name) for name in self.variables}
        printed = Conversation.of(self.template.format_prompt(**{**blank, **given}))
        rest = {k: v for k, v in value.items() if k not in given and v is not None}
        if self.direct or not rest:
            return printed
        return Conversation(turns=(*Conversation.of(rest).turns, *printed.turns))


def entry_template(
    models: Sequence[Runnable[Any, Any]], config: RunnableConfig | None = None
) -> EntryTemplate | None:
    """The template that the input of all these runnables reaches; None if there is no such one.

    Args:
        models: The runnables.
        config: Of the call, which may choose among alternatives.
    """
    found = [_template_of(model, config) for model in models]
    return found[0] if all(template == found[0] for template in found) else None


def find_prompt(value: Any, template: EntryTemplate | None = None) -> Conversation:
    """Read the conversation from a runnable's input: as the template prints it, else all of it.

    Raises:
        InvalidInputError: There is nothing to read.
        ConfigurationError: A part of the input has no text.
    """
    printed = template.conversation(value) if template else None
    return printed or Conversation.of(value)


def _template_of(
    runnable: Runnable[Any, Any], config: RunnableConfig | None
) -> EntryTemplate | None:
    if isinstance(runnable, BasePromptTemplate):
        return EntryTemplate(runnable)
    if isinstance(runnable, RunnableBinding):
        config = merge_configs(config, runnable.config)
    if isinstance(runnable, DynamicRunnable):
        chosen, config = runnable.prepare(config)
        return _template_of(chosen, config)
    if not isinstance(runnable, RunnableSequence):
        return entry_template(entries(runnable), config) if entries(runnable) else None
    direct = True
    for step in runnable.steps:
        if isinstance(step, BaseLanguageModel):
            break
        makes_inputs = isinstance(step, (RunnableParallel, RunnableAssign))
        if not makes_inputs and (found := _template_of(step, config)) is not None:
            return EntryTemplate(found.template, direct and found.direct)
        direct = direct and type(step) is RunnablePassthrough
    return None


def _blank(template: BasePromptTemplate[Any], name: str) -> Any:
    """What an absent variable prints: no messages, or no text."""
    messages = template.messages if isinstance(template, ChatPromptTemplate) else []
    places = (m.variable_name for m in messages if isinstance(m, MessagesPlaceholder))
    return [] if name in places else ""
