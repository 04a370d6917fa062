"""Reads the records of public data sets: columns, texts, turns, labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from srr_guard.training.data.rows import LabelledResponse

Record = Mapping[str, Any]
"""One record of a data set, by column."""

Rows = list[LabelledResponse]

Label = Literal["safe", "unsafe"]

LONGEST = 4000
"""Most characters of a response that a recipe for training keeps."""

_YES = frozenset({"yes", "harmful", "refusal", "unsafe"})
_NO = frozenset({"no", "unharmful", "compliance", "safe"})


class UnfitRecordError(ValueError):
    """A record whose values have another form; it is dropped and counted."""


@dataclass(frozen=True)
class Mapper:
    """Maps the records of one data set to rows.

    Attributes:
        columns: Columns that it reads.
        rows: Makes the rows of a record; none if the record does not fit.

    Example:
        >>> @reads("question", "answer")
        ... def qa(record: Record) -> Rows:
        ...     return made(record["question"], record["answer"], "safe", "benign-help")
        >>> qa({"question": "Where is Rome?", "answer": "In Italy."})[0].kind
        'benign-help'
        >>> qa({"question": "Where is Rome?", "answer": None})
        []
    """

    columns: tuple[str, ...]
    rows: Callable[[Record], Rows]

    @property
    def name(self) -> str:
        """Name of the function that makes the rows."""
        return getattr(self.rows, "__name__", "rows")

    def __call__(self, record: Record) -> Rows:
        """Make the rows of a record.

        Raises:
            UnfitRecordError: A value has another form.
        """
        return self.rows(record)


def reads(*columns: str) -> Callable[[Callable[[Record], Rows]], Mapper]:
    """Turn a function of a record into a `Mapper` that reads these columns."""
    return lambda rows: Mapper(columns, rows)


def made(
    prompt: str | None,
    response: str | None,
    label: Label,
    kind: str | None = None,
    **fields: Any,
) -> Rows:
    """One row, or none where the prompt or the response is empty."""
    asked, answer = (prompt or "").strip(), (response or "").strip()
    if not asked or not answer:
        return []
    return [LabelledResponse(prompt=asked, response=answer, label=label, kind=kind, **fields)]


def text(record: Record, column: str) -> str:
    """The text of a column; empty if there is none."""
    value = record.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnfitRecordError(f"{column} is no text but {type(value).__name__}")
    return value.strip()


def flag(record: Record, column: str) -> bool | None:
    """A label as yes or no, in any of the words that data sets use; None if there is none."""
    value = record.get(column)
    if value is None or isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in ("", "none", "null"):
        return None
    if word in _YES or word in _NO:
        return word in _YES
    raise UnfitRecordError(f"{column}={value!r} is neither yes nor no")


def number(record: Record, column: str) -> int | None:
    """A whole number; None if there is none."""
    value = record.get(column)
    if value is None or value == "":
        return None
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise UnfitRecordError(f"{column}={value!r} is no number") from error


def messages(record: Record, column: str) -> list[tuple[str, str]]:
    """(role, text) of a column of chat messages, in the forms of OpenAI and ShareGPT."""
    value = record.get(column)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UnfitRecordError(f"{column} is no list of messages")
    turns = []
    for message in value:
        if not isinstance(message, Mapping):
            raise UnfitRecordError(f"{column} holds {type(message).__name__}, not messages")
        role = text(message, "role") or text(message, "from")
        turns.append((role.lower(), text(message, "content") or text(message, "value")))
    return turns


def transcript(turns: Sequence[tuple[str, str]]) -> str:
    """Turns as one prompt: a single user turn as it is, others as `Human:` / `Assistant:`."""
    if len(turns) == 1 and turns[0][0] in _USERS:
        return turns[0][1]
    return "\n\n".join(f"{_SPEAKERS.get(role, 'Assistant')}: {said}" for role, said in turns)


def first_exchange(record: Record, column: str) -> tuple[str, str]:
    """The first user turn and the answer right after it; empty texts if there is none."""
    turns = messages(record, column)
    for (role, asked), (next_role, answer) in pairwise(turns):
        if role in _USERS:
            return (asked, answer) if next_role in _ASSISTANTS else ("", "")
    return "", ""


def last_exchange(turns: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """All up to the last assistant turn, as a prompt, and that turn; empty if there is none."""
    for at in range(len(turns) - 1, 0, -1):
        if turns[at][0] in _ASSISTANTS:
            return transcript(turns[:at]), turns[at][1]
    return "", ""


_USERS = frozenset({"user", "human"})
_ASSISTANTS = frozenset({"assistant", "gpt"})
_SPEAKERS = dict.fromkeys(_USERS, "Human")


def three_labels(
    prompt: str,
    response: str,
    *,
    asks_harm: bool | None,
    refuses: bool | None,
    harms: bool | None,
    **fields: Any,
) -> Rows:
    """A row from the three labels of WildGuard; none without a label of the response.

    Args:
        prompt: The prompt.
        response: The answer.
        asks_harm: The prompt asks for harm.
        refuses: The answer refuses.
        harms: The answer does harm.
        **fields: Other fields of the row.
    """
    if harms is None:
        return []
    if asks_harm is not None:
        fields["prompt_type"] = "unsafe" if asks_harm else "safe"
    kind = _KINDS.get((harms, asks_harm, refuses))
    if harms and refuses:
        kind = "partial"
    return made(prompt, response, "unsafe" if harms else "safe", kind, **fields)


_KINDS: dict[tuple[bool, bool | None, bool | None], str] = {
    (False, True, True): "refusal",
    (True, True, False): "compliance",
    (True, True, None): "compliance",
    (False, True, False): "safe-answer",
    (False, False, False): "benign-help",
    (False, False, True): "over-refusal",
}
"""(harms, asks for harm, refuses) -> kind; what is not named has none."""
