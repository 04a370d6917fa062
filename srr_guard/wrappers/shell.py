"""The part that `SafetyRanker` and `SafetyRankedChatModel` share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables.utils import ConfigurableFieldSpec

from srr_guard.core.guard import Guard
from srr_guard.decision import Totals
from srr_guard.runnables.tree import unbind
from srr_guard.sources.models import ModelSource
from srr_guard.wrappers.settings import SETTINGS

ASKED = frozenset(
    {
        "get_num_tokens",
        "get_num_tokens_from_messages",
        "get_token_ids",
        "_llm_type",
        "_get_ls_params",
    }
)
"""What frameworks ask a model, beside its data."""

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable

    from srr_guard.policy import GatePolicy, SamplingPolicy
    from srr_guard.runnables.tracing import TraceCandidates


class ModelShell:
    """Base of the wrappers around a model: a guard, its counts, copies that act on changes."""

    if TYPE_CHECKING:
        model: Runnable[Any, Any]
        sampling: SamplingPolicy
        gating: GatePolicy | None
        trace_candidates: TraceCandidates
        _guard: Guard
        _source: ModelSource

    @property
    def guard(self) -> Guard:
        """The guard behind it; give it to other wrappers as `guard=` to share it."""
        return self._guard

    @property
    def bypasses(self) -> int:
        """Answers passed on unscored or below the threshold so far."""
        return self.totals.bypasses

    @property
    def totals(self) -> Totals:
        """Requests, candidates and bypasses so far.

        Wrappers made from this one (`bind_tools`, `with_structured_output`) count together.
        """
        return self._guard.totals

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """Configurable fields of what is wrapped."""
        specs: list[ConfigurableFieldSpec] = self.model.config_specs
        return specs

    if not TYPE_CHECKING:  # an unknown name stays an error in an editor

        def __getattr__(self, name: str) -> Any:
            """Answer for the language model inside what code may ask of one.

            Its data and its counts of tokens are passed on; no method that answers a prompt is.
            """
            try:
                return super().__getattr__(name)
            except AttributeError:
                if name.startswith("_") and name not in ASKED:
                    raise
                inner = unbind(vars(self).get("model"))[0]
                if not isinstance(inner, BaseLanguageModel) or not hasattr(inner, name):
                    raise
                value = getattr(inner, name)
                if callable(value) and name not in ASKED:
                    raise
                return value

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy the wrapper; a copy with the same scorer and policies shares the guard."""
        copy: Self = super().model_copy(update=update, deep=deep)  # type: ignore[misc]
        if update:
            if not update.keys().isdisjoint(SETTINGS):
                copy._guard = Guard(**{setting: getattr(copy, setting) for setting in SETTINGS})
            copy._source = copy._make_source()
        return copy

    def _make_source(self) -> ModelSource:
        trace = self.trace_candidates
        return ModelSource(self.model, self._guard.sampling, gating=self._guard.gating, trace=trace)
