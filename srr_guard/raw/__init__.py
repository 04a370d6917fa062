"""What providers' clients and frameworks give, as LangChain's messages.

Whole answers, events and chunks of OpenAI, Anthropic, Bedrock, Google and Ollama, as objects or
dicts. The pieces of one answer are joined: what one begins, the next may end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk

from srr_guard.errors import InvalidInputError
from srr_guard.raw.anthropic import AnthropicMessage
from srr_guard.raw.completions import Completion
from srr_guard.raw.frames import leftover, unframed
from srr_guard.raw.google import GenerateContentResponse
from srr_guard.raw.ollama import OllamaAnswer
from srr_guard.raw.parts import RawAnswer, as_mapping
from srr_guard.raw.responses import Response

__all__ = ["joined", "opened_frames", "raw_message", "unread"]

_KINDS: tuple[type[RawAnswer], ...] = (
    Completion,
    AnthropicMessage,
    Response,
    GenerateContentResponse,
    OllamaAnswer,
)


def raw_message(value: Any) -> AIMessage | None:
    """The message of a provider's answer, event or chunk; None for anything else.

    Args:
        value: An object or a dict. Of several choices none is the answer.

    Raises:
        InvalidInputError: It is such a thing, and cannot be read.

    Example:
        >>> raw_message({"choices": [{"message": {"role": "assistant", "content": "hi"}}]}).content
        'hi'
    """
    if (fields := as_mapping(value)) is None or (kind := _kind_of(fields)) is None:
        return None
    answer = kind()
    _add(answer, fields)
    messages = answer.messages()
    return messages[0] if len(messages) == 1 else None


def joined(pieces: Sequence[Any]) -> list[Any]:
    """The pieces of a stream, with each provider's answer as a message where it began.

    Events and chunks may be objects, dicts, or JSON in texts, lines or server-sent events. Chunks
    of LangChain's messages stay as they are, without what frameworks put around them.
    """
    found: list[Any] = []
    latest: dict[type[RawAnswer], RawAnswer] = {}
    for piece in map(_unwrapped, opened_frames(pieces)):
        fields = as_mapping(piece)
        kind = _kind_of(fields) if fields is not None else None
        if fields is None or kind is None:
            found.append(piece)
            continue
        answer = latest.get(kind)
        if answer is None or answer.begins_another(fields):
            answer = latest[kind] = kind()
            found.append(answer)
        _add(answer, fields)
    return [m for one in found for m in (one.messages() if isinstance(one, RawAnswer) else [one])]


def unread(pieces: Sequence[Any], text: str) -> list[str]:
    """What dicts say beside the text that was read of them as a provider's answer.

    A client's own objects have words only where its API has them. A dict may be a model's: it may
    have put words where the API has an id or a signature.
    """
    dicts = [p for p in pieces if isinstance(p, Mapping) and _kind_of(p) is not None]
    return leftover(dicts, text)


def _add(answer: RawAnswer, fields: Mapping[str, Any]) -> None:
    try:
        answer.add(fields)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{fields!r:.100} looks like a part of a provider's answer and cannot be read "
            f"({error}): say by `text=` what is scored"
        ) from error


def opened_frames(pieces: Sequence[Any]) -> Sequence[Any]:
    """The pieces, with the JSON of a provider's API in texts as dicts; themselves without such."""
    if not all(isinstance(piece, str) for piece in pieces):
        return pieces
    return unframed(pieces, lambda value: _kind_of(value) is not None)


def _kind_of(fields: Any) -> type[RawAnswer] | None:
    return next((kind for kind in _KINDS if kind.takes(fields)), None)


def _unwrapped(piece: Any) -> Any:
    """The chunk of a message that LangGraph or LangChain's events give with its metadata."""
    match piece:
        case (AIMessageChunk() as chunk, dict()):
            return chunk
        case ("messages", (AIMessageChunk() as chunk, dict())):
            return chunk
        case (tuple(), "messages", (AIMessageChunk() as chunk, dict())):
            return chunk
        case {"type": "messages", "data": (AIMessageChunk() as chunk, dict())}:
            return chunk
        case {"event": "on_chat_model_stream", "data": {"chunk": AIMessageChunk() as chunk}}:
            return chunk
    return piece
