"""Reads any input as a `Conversation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.prompt_values import PromptValue
from pydantic import AfterValidator, BaseModel, ConfigDict

from srr_guard.characters import is_blank
from srr_guard.errors import ConfigurationError, InvalidInputError
from srr_guard.reading import read_fact, turn_text, valid_unicode

PROMPT_KEYS = ("question", "input", "prompt", "query", "messages")
"""Keys under which a dict holds what was asked, the first of them first."""

_ROLE_NAMES = frozenset({"human", "user", "ai", "assistant", "system", "developer", "tool"})

Role = Literal["system", "user", "assistant", "tool"]


class Turn(BaseModel):
    """One turn of a conversation.

    Attributes:
        role: Who speaks.
        text: What is said; lone surrogates become U+FFFD.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    text: Annotated[str, AfterValidator(valid_unicode)]


class Conversation(BaseModel):
    """A prompt, turn by turn, in plain text. `of` makes one, with some visible text in it.

    Attributes:
        turns: What was said, in order.

    Example:
        >>> Conversation.of("How do magnets work?").prompt
        'How do magnets work?'
        >>> Conversation.of([("system", "Be brief."), ("user", "Hi")]).turns[0].role
        'system'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    turns: tuple[Turn, ...]

    @classmethod
    def of(cls, value: Any) -> Conversation:
        """Read a conversation from whatever a model or chain is called with.

        Args:
            value: A string; a message; a list of messages (LangChain objects, `(role, text)`
                tuples, OpenAI dicts, strings); a PromptValue; a Conversation; or a dict, of
                which everything is read: lists of messages first, then all else that is not
                None, one `key: value` a line, and last what was asked, by the first of the
                keys `question`, `input`, `prompt`, `query`, `messages`.

        Raises:
            InvalidInputError: The value is of another kind, empty or blank.
            ConfigurationError: A part of a dict has no text.
        """
        asked = value if isinstance(value, Conversation) else cls(turns=_turns(value))
        if all(is_blank(turn.text) for turn in asked.turns):
            raise InvalidInputError(
                f"the prompt is empty: got {_short(value)}; give it at least one turn with text"
            )
        return asked

    @property
    def prompt(self) -> str:
        """Text of the latest user turn, or of the latest turn when no user spoke."""
        spoken = [turn for turn in self.turns if turn.role == "user"] or list(self.turns)
        return spoken[-1].text


def _messages(value: Any) -> list[BaseMessage]:
    if isinstance(value, str):
        return [HumanMessage(value)]
    if isinstance(value, BaseMessage):
        return [value]
    if isinstance(value, PromptValue):
        return value.to_messages()
    if isinstance(value, Mapping):
        return _all_of(value)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        if not value:
            raise InvalidInputError("the prompt has no messages: give it at least one")
        try:
            return convert_to_messages(value)
        except (ValueError, NotImplementedError, TypeError, KeyError) as error:
            raise InvalidInputError(f"not a list of messages: {_short(value)} ({error})") from error
    raise InvalidInputError(
        f"a prompt of type {type(value).__name__!r} cannot be read: give a str, messages, a "
        "PromptValue or a dict with 'messages'"
    )


def _all_of(parts: Mapping[Any, Any]) -> list[BaseMessage]:
    """Read every part of a dict: earlier turns, then facts, then what was asked."""
    parts = {key: value for key, value in parts.items() if value is not None}
    asked_by = next((key for key in PROMPT_KEYS if key in parts), None)
    if asked_by is None and len(parts) == 1:
        asked_by = next(iter(parts))
    turns: list[BaseMessage] = []
    facts: list[str] = []
    for key, value in parts.items():
        if key != asked_by and are_messages(value):
            turns += _messages(value)
        elif key != asked_by:
            facts.append(f"{key}: {_fact(key, value)}")
    if facts:
        turns.append(HumanMessage("\n".join(facts)))
    return turns if asked_by is None else turns + _asked(asked_by, parts[asked_by])


def _asked(key: Any, value: Any) -> list[BaseMessage]:
    if key == "messages" or isinstance(value, str) or are_messages(value):
        return _messages(value)
    return [HumanMessage(_fact(key, value))]


def are_messages(value: Any) -> bool:
    """True for what can only be messages: objects, `(role, text)`, OpenAI dicts."""
    if isinstance(value, (BaseMessage, PromptValue)):
        return True
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_message, value))


def with_own_messages(value: Any) -> Any:
    """The value with copies of its lists of messages, also in dicts; itself if there are none.

    Functions add turns to such a list. Of one that candidates share, each would read what the
    others said, and the caller would keep it.
    """
    if type(value) is list and are_messages(value):
        return list(value)
    if type(value) is dict:
        own = {key: with_own_messages(inner) for key, inner in value.items()}
        return own if any(own[key] is not value[key] for key in own) else value
    return value


def _is_message(item: Any) -> bool:
    if isinstance(item, Mapping):
        return "role" in item and not item.keys().isdisjoint({"content", "tool_calls"})
    if isinstance(item, tuple) and len(item) == 2:
        return isinstance(item[0], str) and item[0] in _ROLE_NAMES
    return isinstance(item, BaseMessage)


def _fact(key: Any, value: Any) -> str:
    try:
        return read_fact(value)
    except InvalidInputError as error:
        raise ConfigurationError(
            f"the input's part {key!r} of type {type(value).__name__!r} cannot be read as part "
            "of what was asked: give `prompt=`, a function from the input to the prompt, or "
            "leave it out"
        ) from error


def _turns(value: Any) -> tuple[Turn, ...]:
    return tuple(Turn(role=role_of(m), text=turn_text(m)) for m in _messages(value))


def role_of(message: BaseMessage) -> Role:
    """Name the role of a message; an unknown one counts as the user."""
    match message:
        case SystemMessage():
            return "system"
        case AIMessage():
            return "assistant"
        case ToolMessage():
            return "tool"
        case ChatMessage(role="system" | "developer"):
            return "system"
        case ChatMessage(role="assistant"):
            return "assistant"
    return "user"


def _short(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "…"
