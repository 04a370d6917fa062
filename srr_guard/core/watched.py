"""One candidate in the making: what a model in it declined to say is told from what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from srr_guard.core.outcomes import must_propagate
from srr_guard.protocols import Declined

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig


class WatchedAnswer:
    """Listens to the models of LangChain that a candidate calls.

    A context manager: an error of what stands behind a model that declined ends there.

    Args:
        config: The candidate's own; None: there are no such models.

    Attributes:
        output: Of the candidate; None before.
    """

    def __init__(self, config: RunnableConfig | None) -> None:
        self.output: Any = None
        self._seen = None
        if config is not None:
            from srr_guard.runnables.last_answer import LastAnswer

            self._seen = LastAnswer.within(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        declined = self._seen is not None and self._seen.declined
        return error is not None and declined and not must_propagate(error)

    @property
    def result(self) -> Any:
        """The output, or that it was declined."""
        hidden = self._seen is not None and self._seen.hidden_by(self.output)
        return Declined(self.output) if hidden else self.output
