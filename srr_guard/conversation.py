"""Reads any input as a `Conversation`, any output as the text that is scored."""

from __future__ import annotations

import json
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


def candidate_text(output: Any) -> str:
    """Render a model's or chain's output to the text that is scored.

    Text stays as it is, reasoning stands before it, a refusal after it. Tool calls follow, one
    line each, with sorted arguments. Other content blocks are named in brackets. A message that
    holds reasoning only has no text. Objects and dicts become JSON with sorted keys. A dict with
    `messages` (an agent's state) gives its last message.

    Args:
        output: str, message, pydantic object, dict, list, number or bool.

    Returns:
        Valid Unicode: lone surrogates are replaced. May be empty.

    Raises:
        InvalidInputError: The output is None, bytes, or an object without a text or JSON form.
    """
    if isinstance(output, str):
        return valid_unicode(output)
    if isinstance(output, BaseMessage):
        return _message_text(output, reasoning=True)
    if isinstance(output, Mapping) and _is_message_list(output.get("messages")):
        return candidate_text(output["messages"][-1])
    if isinstance(output, (BaseModel, Mapping, list, tuple, int, float)):
        try:
            return valid_unicode(_stable_json(output))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInputError(
                f"an answer of type {type(output).__name__!r} has no JSON form ({error}): return "
                "str keys and JSON-like values, or a str"
            ) from error
    raise InvalidInputError(
        f"an answer of type {type(output).__name__!r} has no text to score: return a str, a "
        "message, a pydantic object or a dict"
    )


def valid_unicode(text: str) -> str:
    """Replace lone surrogates, which no tokenizer can encode, by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


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
    return Turn(role=role_of(message), text=_message_text(message))


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


EXTRA_TEXTS = ("refusal", "reasoning_content", "reasoning")
"""Fields beside the content in which providers put text: a refusal, and two of reasoning."""


def _message_text(message: BaseMessage, *, reasoning: bool = False) -> str:
    """Text, refusal and tool calls; reasoning before them where it is asked for.

    Reasoning alone is no answer: a message without anything else has no text.
    """
    content = [message.content] if isinstance(message.content, str) else message.content
    beside = {name: _texts_in(message.additional_kwargs.get(name)) for name in EXTRA_TEXTS}
    parts = ["".join(map(_block_text, content)), *beside.pop("refusal")]
    if isinstance(message, AIMessage):
        parts += [f"[tool call] {c['name']}({_stable_json(c['args'])})" for c in message.tool_calls]
        parts += [
            f"[invalid tool call] {c['name']}({c['args']})" for c in message.invalid_tool_calls
        ]
    if reasoning and any(part.strip() for part in parts):
        thoughts = [
            *map(_reasoning_text, content),
            *(t for texts in beside.values() for t in texts),
        ]
        parts = [*dict.fromkeys(thoughts), *parts]
    return valid_unicode("\n".join(part for part in parts if part))


# The blocks that only repeat what `AIMessage.tool_calls` holds.
_TOOL_CALL_BLOCKS = frozenset(
    {"tool_use", "tool_call", "function_call", "tool_call_chunk", "input_json_delta"}
)
_REASONING_BLOCKS = frozenset({"thinking", "reasoning", "reasoning_content", "redacted_thinking"})
_REASONING_KEYS = ("thinking", "reasoning", "reasoning_content", "text", "summary", "content")


def _block_text(block: str | dict[Any, Any]) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type", "block")
    if kind in _TOOL_CALL_BLOCKS | _REASONING_BLOCKS:
        return ""
    for key in ("text", "refusal"):
        if isinstance(block.get(key), str):
            return str(block[key])
    return f"[{kind}]"


def _reasoning_text(block: str | dict[Any, Any]) -> str:
    """All text of a reasoning block, or its kind where the provider hides the text."""
    if isinstance(block, str) or block.get("type") not in _REASONING_BLOCKS:
        return ""
    return "\n".join(_texts_in(block)) or f"[{block['type']}]"


def _texts_in(value: Any) -> list[str]:
    """Texts of reasoning, in whichever of the providers' forms."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for key in _REASONING_KEYS for text in _texts_in(value.get(key))]
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in _texts_in(item)]
    return []


def _is_message_list(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and isinstance(value[-1], BaseMessage)


def _stable_json(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=_json_default)


def _json_default(value: Any) -> Any:
    if isinstance(value, BaseMessage):
        return _message_text(value, reasoning=True)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return str(value)


def _short(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "…"
