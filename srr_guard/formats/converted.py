"""Outputs of a framework's own kind, by the LangChain message that says the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from langchain_core.messages import AIMessage
from langchain_core.messages.ai import UsageMetadata

from srr_guard.core.delivery import MessageDelivery
from srr_guard.decision import Decision
from srr_guard.formats.schemas import Check
from srr_guard.reading import Reading

T = TypeVar("T")

_MESSAGES = MessageDelivery()


@dataclass(frozen=True, kw_only=True)
class ConvertedDelivery(Generic[T]):
    """A form of output that is read as a message (see `Delivery`).

    Attributes:
        message: Converts an output, with its usage and finish reason; raises SamplingError for
            one that cannot be used.
        refuse: Makes an output of a refusal and of the output it takes the place of; None: a
            refusal has no form that the caller can use.
        attach: Makes the output that the caller gets, with decision and total usage.
        check: Raises SamplingError for a message that cannot be used.

    Example:
        >>> form = ConvertedDelivery(
        ...     message=lambda output: AIMessage(output["said"]),
        ...     refuse=lambda text, output: {"said": text},
        ...     attach=lambda output, decision: {**output, "reason": decision.reason},
        ... )
        >>> form.read({"said": "hello"}).text
        'hello'
    """

    message: Callable[[T], AIMessage]
    refuse: Callable[[str, T], T] | None
    attach: Callable[[T, Decision[T]], T]
    check: Check | None = None

    def read(self, output: T) -> Reading:
        """Read the message of an output.

        Raises:
            SamplingError: It cannot be used.
        """
        checks = [self.check] if self.check is not None else []
        return MessageDelivery(checks=checks).read(self.message(output))

    def declined(self, output: T) -> bool:
        """True if the provider's filter ended the answer."""
        return _MESSAGES.declined(self.message(output))

    def refusal(self, text: str, output: T) -> T | None:
        """Give a refusal the form of this output."""
        return self.refuse(text, output) if self.refuse is not None else None

    def usage(self, outputs: Sequence[T]) -> UsageMetadata | None:
        """Sum the tokens of all messages that say how many they took."""
        return _MESSAGES.usage([self.message(output) for output in outputs])

    def finish(self, output: T, decision: Decision[T]) -> T:
        """Attach decision and total usage."""
        return self.attach(output, decision)


def usage_of(given: int | None, written: int | None) -> UsageMetadata | None:
    """Counts of tokens as a message has them; None where both are missing."""
    if given is None and written is None:
        return None
    given, written = given or 0, written or 0
    return UsageMetadata(input_tokens=given, output_tokens=written, total_tokens=given + written)
