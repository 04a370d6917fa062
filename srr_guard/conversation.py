"""Reads any input as a `Conversation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

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
from pydantic import BaseModel, ConfigDict

from srr_guard.errors import InvalidInputError
from srr_guard.reading import turn_text

Role = Literal["system", "user", "assistant", "tool"]


class Turn(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    text: str


class Conversation(BaseModel):
    """A prompt, turn by turn, in plain text.

    Attributes:
        turns: At least one turn, at least one of them with visible text.

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
                tuples, OpenAI dicts, strings); a PromptValue; a dict with `messages`; or a
                Conversation.

        Raises:
            InvalidInputError: The value is of another kind, empty or blank.
        """
        if isinstance(value, Conversation):
            return value
        turns = tuple(_turn(message) for message in _messages(value))
        if not any(turn.text.strip() for turn in turns):
            raise InvalidInputError(
                f"the prompt is empty: got {_short(value)}; give it at least one turn with text"
            )
        return cls(turns=turns)

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
        if "messages" not in value:
            raise InvalidInputError(
                f"no prompt found in a dict with the keys {sorted(map(str, value))!r}: give it "
                "the key 'messages', or say where the prompt is with `prompt=`"
            )
        return _messages(value["messages"])
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


def _turn(message: BaseMessage) -> Turn:
    return Turn(role=role_of(message), text=turn_text(message))


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
