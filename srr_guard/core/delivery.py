"""Forms of output: messages, text and objects; or the pieces of a generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage

from srr_guard.decision import Decision
from srr_guard.errors import InvalidInputError, SamplingError
from srr_guard.filters import declines, is_filtered
from srr_guard.raw import joined, raw_message
from srr_guard.reading import Reading, read, read_pieces, valid_unicode


class MessageDelivery:
    """Outputs of models, chains and functions (see `Delivery`).

    Args:
        text: Renders an output to the text that is scored; None: see `read`.
        checks: Raise SamplingError for an output that cannot be used. What the provider took
            away is not checked.
        may_refuse: False where a refusal has no form that the caller can use.
        form: `AIMessage` or `str` where the outputs are known to be such; None: they are not.
    """

    def __init__(
        self,
        text: Callable[[Any], str] | None = None,
        *,
        checks: Sequence[Callable[[Any], None]] = (),
        may_refuse: bool = True,
        form: type[AIMessage] | type[str] | None = None,
    ) -> None:
        self._form = form
        self._text = text
        self._checks = checks
        self._may_refuse = may_refuse

    def read(self, output: Any) -> Reading:
        """Read an output.

        Raises:
            InvalidInputError: It has no text.
            SamplingError: It cannot be used.
        """
        require_parsed(output)
        if self._checks and not self.declined(output):
            for check in self._checks:
                check(output)
        return read(output) if self._text is None else self._read_by_function(output)

    def _read_by_function(self, output: Any) -> Reading:
        assert self._text is not None
        try:
            text = self._text(output)
        except (InvalidInputError, SamplingError):
            raise
        except Exception as error:
            raise InvalidInputError(
                f"text={self._text!r} failed with {type(error).__name__} on an answer of type "
                f"{type(output).__name__!r}: let it return a str for each"
            ) from error
        if not isinstance(text, str):
            raise InvalidInputError(
                f"text={self._text!r} returned {text!r:.60} for an answer of type "
                f"{type(output).__name__!r}: let it return a str for each"
            )
        return Reading(valid_unicode(text))

    def declined(self, output: Any) -> bool:
        """True for a message that the provider's filter has emptied."""
        message = output if isinstance(output, BaseMessage) else raw_message(output)
        return message is not None and is_filtered(message)

    def refusal(self, text: str, output: Any) -> Any:
        """Give a message for a message, text for text; None for anything else."""
        if not self._may_refuse:
            return None
        if isinstance(output, BaseMessage):
            return AIMessage(text)
        return text if isinstance(output, str) else None

    def refusal_unasked(self, text: str) -> Any:
        """Give a refusal in the form that the outputs are known to have."""
        return None if self._form is None or not self._may_refuse else self._form(text)

    def usage(self, outputs: Sequence[Any]) -> UsageMetadata | None:
        """Sum the tokens of all messages that say how many they took."""
        given = (m.usage_metadata for m in outputs if isinstance(m, AIMessage))
        usages = [usage for found in given if (usage := _plain_usage(found)) is not None]
        return reduce(add_usage, usages) if usages else None

    def finish(self, output: Any, decision: Decision[Any]) -> Any:
        """Attach decision and total usage to a message; return other outputs unchanged."""
        if not isinstance(output, AIMessage):
            return output
        summary = decision.summary()
        if decision.passed and output.usage_metadata is not None:
            summary["chosen_usage"] = output.usage_metadata
        metadata = {**output.response_metadata, "srr_guard": summary}
        return output.model_copy(
            update={"response_metadata": metadata, "usage_metadata": decision.usage}
        )


class PiecesDelivery(MessageDelivery):
    """Outputs that are lists of the pieces a generator yielded.

    Args:
        text: Renders the list to the text that is scored; default: the joined text of the
            pieces, which are str, messages or message chunks.
    """

    def __init__(self, text: Callable[[Any], str] | None = None) -> None:
        super().__init__(text)

    def read(self, output: Sequence[Any]) -> Reading:
        """Read the pieces as one answer."""
        if self._text is not None:
            return self._read_by_function(output)
        return read_pieces(output)

    def declined(self, output: Sequence[Any]) -> bool:
        """True if one of the pieces says that the provider's filter emptied the answer."""
        return any(isinstance(m, BaseMessage) and is_filtered(m) for m in joined(output))

    def refusal(self, text: str, output: Sequence[Any]) -> list[Any] | None:
        """Give the refusal as the only piece, in the form of the others; None if there are none."""
        if not output:
            return None
        if isinstance(output[0], AIMessageChunk):
            return [AIMessageChunk(content=text, chunk_position="last")]
        piece = super().refusal(text, output[0])
        return None if piece is None else [piece]


_COUNTS = ("input_tokens", "output_tokens", "total_tokens")
_DETAILS = ("input_token_details", "output_token_details")


def _plain_usage(usage: Any) -> UsageMetadata | None:
    """The counts that every usage has, without what caches and providers add.

    Returns:
        None if one of them is missing.
    """
    if not usage or not all(isinstance(usage.get(name), int) for name in _COUNTS):
        return None
    plain: Any = {name: usage[name] for name in _COUNTS}
    plain |= {name: usage[name] for name in _DETAILS if isinstance(usage.get(name), dict)}
    found: UsageMetadata = plain
    return found


def require_parsed(output: Any) -> None:
    """Refuse what `with_structured_output(include_raw=True)` gives for an answer it cannot parse.

    Raises:
        SamplingError: It is such an output.
    """
    if (
        isinstance(output, dict)
        and output.keys() == {"raw", "parsed", "parsing_error"}
        and (output["parsing_error"] is not None or output["parsed"] is None)
    ):
        raise misfit(output["raw"])


def misfit(message: Any) -> SamplingError:
    """The error for a message that cannot be parsed."""
    if isinstance(message, BaseMessage) and declines(message):
        return refused()
    return SamplingError("the candidate cannot be used: it does not fit the schema asked for")


def refused() -> SamplingError:
    """The error for a refusal where one has no form; it costs one call."""
    return _RefusedError(
        "the candidate cannot be used: the model or its provider's filter refused, and a refusal "
        "does not fit the schema asked for"
    )


class _RefusedError(SamplingError):
    is_retryable = False


def as_chunk(output: Any) -> Any:
    """Turn a message into the only chunk of a stream; return anything else unchanged."""
    if not isinstance(output, AIMessage) or isinstance(output, AIMessageChunk):
        return output
    return AIMessageChunk(**output.model_dump(exclude={"type"}), chunk_position="last")
