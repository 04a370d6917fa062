"""The part that `SafetyRanker` and `SafetyRankedChatModel` share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from srr_guard.core.guard import Guard
from srr_guard.decision import Totals
from srr_guard.sources.models import ModelSource
from srr_guard.wrappers.settings import SETTINGS

if TYPE_CHECKING:
    from srr_guard.policy import SamplingPolicy
    from srr_guard.runnables.tracing import TraceCandidates


class ModelShell:
    """Base of the wrappers around a model: a guard, its counts, copies that act on changes."""

    if TYPE_CHECKING:
        model: Any
        sampling: SamplingPolicy
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

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy the wrapper; a copy with the same scorer and policies shares the guard."""
        copy: Self = super().model_copy(update=update, deep=deep)  # type: ignore[misc]
        if update:
            if not update.keys().isdisjoint(SETTINGS):
                copy._guard = Guard(**{setting: getattr(copy, setting) for setting in SETTINGS})
            copy._source = copy._make_source()
        return copy

    def _make_source(self) -> ModelSource:
        return ModelSource(self.model, self.sampling, trace=self.trace_candidates)
