"""One reading of an answer: its text, its reasoning, and the parts that cannot be read as text."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
)
from pydantic import BaseModel

from srr_guard.blocks import (
    DATA_KEYS,
    DOCUMENTS,
    LOCAL_CALLS,
    MEDIA,
    METADATA_TEXTS,
    REASONING,
    REASONING_FIELDS,
    SERVER_TOOLS,
    SILENT,
    TEXT_KEYS,
    TEXTS,
)
from srr_guard.characters import is_blank
from srr_guard.errors import InvalidInputError
from srr_guard.raw import joined, opened_frames, raw_message, unread
from srr_guard.values import OPAQUE, opened


@dataclass(frozen=True)
class Reading:
    """An answer as it is scored.

    Attributes:
        text: All of its text but reasoning, valid Unicode; may be empty.
        unreadable: Kinds of the parts that have no text, such as `image`, each once.
        trace: The reasoning before it; may be empty.
    """

    text: str
    unreadable: tuple[str, ...] = ()
    trace: str = ""

    @property
    def whole(self) -> str:
        """Reasoning, then the answer."""
        return "\n".join(part for part in (self.trace, self.text) if part)


def read(output: Any) -> Reading:
    """Read a model's or chain's output.

    Text stays as it is, a refusal stands after it. Tool calls follow, one line each, with sorted
    arguments, then what the provider's own tools were asked and gave back, and citations.
    Reasoning is read apart: blocks and fields of that kind, and `<think>...</think>` at the
    beginning of the text (see `split_trace`). Objects and dicts become JSON with sorted keys. Of
    a dict with `messages` (an agent's state) all messages after the latest human one are read,
    and the other keys. Completions of OpenAI's client are read as their message.

    Args:
        output: str, message, pydantic object, dict, list, number or bool.

    Raises:
        InvalidInputError: The output is None, bytes, or an object without a text or JSON form.
    """
    found = _Found()
    try:
        text = _text_of(output, found)
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(
            f"an answer of type {type(output).__name__!r} has no JSON form ({error}): return "
            "str keys and JSON-like values, or a str"
        ) from error
    return found.reading(text)


def read_fact(value: Any) -> str:
    """Read a part of what was asked: reasoning first, parts like images named in brackets.

    Raises:
        InvalidInputError: It has no text or JSON form, or holds an object that has none.
    """
    reading = read(value)
    if opaque := _opaque_in(value):
        raise InvalidInputError(f"it holds an object of type {opaque!r}, which has no text")
    return "\n".join([reading.whole, *(f"[{kind}]" for kind in reading.unreadable)])


def read_pieces(pieces: Sequence[Any]) -> Reading:
    """Read the pieces of one answer, in their order; tags may begin in one and end in another.

    Chunks of one message, and a provider's events, are added up first: what one begins, the next
    may end.
    """
    opened = opened_frames(pieces)
    readings = [_read_piece(piece) for piece in _added_up(opened)]
    text, tagged = split_trace("".join(reading.text for reading in readings))
    trace = "".join(reading.trace for reading in readings)
    if beside := unread(opened, f"{text}\n{trace}\n{tagged}"):
        text = "\n".join([text, *beside])
    unreadable = dict.fromkeys(kind for reading in readings for kind in reading.unreadable)
    return Reading(text, tuple(unreadable), "\n".join(filter(None, [trace, tagged])))


def _added_up(pieces: Sequence[Any]) -> list[Any]:
    added: list[Any] = []
    for piece in joined(pieces):
        last = added[-1] if added else None
        if isinstance(piece, AIMessageChunk) and isinstance(last, AIMessageChunk):
            of_one = piece.id == last.id or None in (piece.id, last.id)
            with suppress(TypeError, ValueError):  # their fields do not fit
                added[-1:] = [last + piece] if of_one else [last, piece]
                continue
        added.append(piece)
    return added


def _read_piece(piece: Any) -> Reading:
    if isinstance(piece, str):
        return Reading(valid_unicode(piece))
    if isinstance(piece, BaseMessage):
        parts = _Parts(piece)
        trace = "\n".join(parts.thoughts)
        return Reading(valid_unicode(parts.answer), tuple(parts.unreadable), valid_unicode(trace))
    return read(piece)


_TAGGED = re.compile(r"\s*<(think|thinking)>(.*?)(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_UNOPENED = re.compile(r"(.*?)</(?:think|thinking)>", re.DOTALL | re.IGNORECASE)


def split_trace(text: str) -> tuple[str, str]:
    """Split a text into the answer and the reasoning before it.

    Reasoning stands between `<think>` and `</think>`, or `<thinking>` and `</thinking>`, at the
    beginning; many templates put the first tag into the prompt, so that only the second is left.
    A tag that is never closed leaves no answer. Tags later in the text, and those of other
    formats, are part of the answer.

    Example:
        >>> split_trace("<think>Is it safe? Yes.</think>Boil it first.")
        ('Boil it first.', 'Is it safe? Yes.')
    """
    traces = []
    lowered = text.lower()
    if "<think" not in lowered:
        unopened = _UNOPENED.match(text) if "</think" in lowered else None
        if unopened is not None:
            traces.append(unopened[1])
            text = text[unopened.end() :]
    while (tagged := _TAGGED.match(text)) is not None:
        traces.append(tagged[2])
        text = text[tagged.end() :]
    if not traces:
        return text, ""
    return text.lstrip(), "\n".join(t for t in (trace.strip() for trace in traces) if t)


class _Found:
    """What is found beside the text of an output."""

    def __init__(self) -> None:
        self.unreadable: list[str] = []
        self.thoughts: list[str] = []
        self.holds_messages = False

    def reading(self, text: str) -> Reading:
        """All of it, with this text."""
        trace = "\n".join(thought for thought in dict.fromkeys(self.thoughts) if thought)
        unreadable = tuple(dict.fromkeys(self.unreadable))
        return Reading(valid_unicode(text), unreadable, valid_unicode(trace))


def candidate_text(output: Any) -> str:
    """The text of an output without its reasoning (see `read`)."""
    return read(output).text


def turn_text(message: BaseMessage) -> str:
    """A message as a turn of a prompt: without reasoning, unreadable parts named in brackets."""
    parts = _Parts(message)
    named = [f"[{kind}]" for kind in dict.fromkeys(parts.unreadable)]
    return valid_unicode("\n".join(part for part in (parts.answer, *named) if part))


def valid_unicode(text: str) -> str:
    """Replace lone surrogates, which no tokenizer can encode, by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _text_of(output: Any, found: _Found, *, inside: bool = False) -> str:
    """The text of an output; inside of another one its reasoning is part of it."""
    if isinstance(output, str):
        return output if inside else _without_trace(output, found)
    if (message := raw_message(output)) is not None:
        text = _text_of(message, found, inside=inside)
        return "\n".join([text, *unread([output], "\n".join([text, *found.thoughts]))])
    if isinstance(output, BaseMessage):
        parts = _Parts(output)
        found.unreadable += parts.unreadable
        if inside:
            return "\n".join([*parts.thoughts, parts.answer])
        found.thoughts += parts.thoughts
        if isinstance(output, AIMessage):
            return parts.answer_after(lambda text: _without_trace(text, found))
        return parts.answer
    if isinstance(output, Mapping) and _is_message_list(output.get("messages")):
        return _state_text(output, found)
    if isinstance(output, (BaseModel, Mapping, list, tuple, int, float)):
        text = _stable_json(output, found)
        return "" if found.holds_messages and _is_blank(output) else text
    mend = "return a str, a message, a pydantic object or a dict"
    if isinstance(output, (Iterator, AsyncIterator)):
        mend = "yield its pieces, so that the function is a generator"
    raise InvalidInputError(
        f"an answer of type {type(output).__name__!r} has no text to score: {mend}"
    )


def _without_trace(text: str, found: _Found) -> str:
    text, trace = split_trace(text)
    found.thoughts.append(trace)
    return text


def _state_text(state: Mapping[str, Any], found: _Found) -> str:
    """All that may be new in an agent's state; nothing where it did not get to an answer."""
    messages = state["messages"]
    human = [i for i, message in enumerate(messages[:-1]) if isinstance(message, HumanMessage)]
    texts = [_text_of(m, found) for m in messages[human[-1] + 1 if human else 0 :]]
    if not is_blank(texts[-1]):
        rest = (v for k, v in state.items() if k != "messages")
        texts += [_fact(value, found) for value in rest]
        return "\n".join(text for text in texts if text)
    return ""


def _fact(value: Any, found: _Found) -> str:
    """A value beside the messages; nothing for numbers and for what is empty."""
    if isinstance(value, (str, BaseMessage)):
        return _text_of(value, found, inside=True)
    if value is None or isinstance(value, (int, float)):
        return ""
    text = _stable_json(value, found)
    return "" if text in ("null", "{}", "[]") else text


def _is_message_list(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and isinstance(value[-1], BaseMessage)


def _stable_json(value: Any, found: _Found) -> str:
    def default(inner: Any) -> Any:
        if isinstance(inner, BaseMessage):
            found.holds_messages = True
            return _text_of(inner, found, inside=True)
        if (plain := opened(inner)) is OPAQUE:
            found.unreadable.append(type(inner).__name__)
            return None
        return plain

    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=default)


def _opaque_in(value: Any) -> str | None:
    """The type of an object without text inside a value; None if there is none."""
    if isinstance(value, (str, int, float, type(None), BaseMessage)):
        return None
    if not isinstance(value, (Mapping, list, tuple)):
        plain = opened(value)
        return type(value).__name__ if plain is OPAQUE else _opaque_in(plain)
    inside = value.values() if isinstance(value, Mapping) else value
    return next(filter(None, map(_opaque_in, inside)), None)


def _is_blank(value: Any) -> bool:
    """True for messages that say nothing, and what holds nothing beside them."""
    if isinstance(value, BaseMessage):
        parts = _Parts(value)
        return not (parts.answer.strip() or parts.unreadable)
    if isinstance(value, BaseModel):
        value = opened(value)
    if isinstance(value, (Mapping, list, tuple)):
        return all(map(_is_blank, value.values() if isinstance(value, Mapping) else value))
    return value is None or (isinstance(value, str) and not value.strip())


class _Parts:
    """The parts of one message.

    Attributes:
        unreadable: Kinds of the parts without text.
    """

    def __init__(self, message: BaseMessage) -> None:
        self.unreadable: list[str] = []
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._beside: list[str] = []
        self._repeated: list[Mapping[Any, Any]] = []
        content = message.content
        for block in [content] if isinstance(content, str) else content:
            self._add(block, self._texts)
        self._add_fields(message.additional_kwargs)
        self._add_fields(message.model_extra or {})
        self._add_calls(message)
        for name in METADATA_TEXTS:
            self._add(message.response_metadata.get(name), self._beside, field=name)
        if isinstance(message, ToolMessage):
            self._add(message.artifact, self._beside, field="artifact")

    @property
    def answer(self) -> str:
        """Everything but reasoning in parts of its own."""
        return self.answer_after(str)

    def answer_after(self, change: Callable[[str], str]) -> str:
        """The answer, with its text changed."""
        parts = [change("".join(self._texts)), *dict.fromkeys(self._beside)]
        return "\n".join(part for part in parts if part)

    @property
    def thoughts(self) -> list[str]:
        """The reasoning in parts of its own."""
        return [thought for thought in dict.fromkeys(self._thoughts) if thought]

    def _add_fields(self, fields: Mapping[str, Any]) -> None:
        """Read what stands beside the content."""
        for name, value in fields.items():
            if name in REASONING_FIELDS:
                self._add(value, self._thoughts, field=name)
            elif name == "audio" and isinstance(value, Mapping):
                self._add({**value, "type": "audio"}, self._beside)
            elif name in ("tool_calls", "function_call"):
                calls = value if isinstance(value, list) else [value]
                self._repeated += [call for call in calls if isinstance(call, Mapping)]
            elif name == "parsed" and not is_blank("".join(self._texts)):
                pass  # the text, as the provider's client has read it
            elif name not in SILENT and not name.startswith("__"):
                self._add(value, self._beside, field=name)

    def _add_calls(self, message: BaseMessage) -> None:
        """Read the tool calls, and of the blocks that repeat them those that differ."""
        calls: list[Any] = []
        if isinstance(message, AIMessage):
            calls = [*message.tool_calls, *message.invalid_tool_calls]
        for call in calls:
            self._add_call(call["name"], call["args"])
            self._add_block(_beside_call(call), self._beside, inside=True)
        for block in self._repeated:
            name, args = _name_and_args(block)
            self._add_block(_beside_call(block), self._beside, inside=True)
            call_id = block.get("call_id") or block.get("id")
            if not any(
                name in (None, call["name"])
                and (args == call["args"] or (not args and call_id in (None, call["id"])))
                for call in calls
            ):
                self._add_call(name, args)

    def _add_call(self, name: Any, args: Any) -> None:
        found = _Found()
        if isinstance(args, Mapping):
            self._beside.append(f"[tool call] {name}({_stable_json(args, found)})")
        else:
            self._beside.append(f"[invalid tool call] {name}({args})")
        self.unreadable += found.unreadable

    def _add(self, value: Any, into: list[str], *, field: str | None = None) -> None:
        """Read a value: a block of the content, or what stands in a field."""
        if not isinstance(value, (*_PLAIN, bytes, bytearray, memoryview)):
            value = opened(value)
        if isinstance(value, str):
            if field and value.startswith("data:") and ";base64," in value[:100]:
                self.unreadable.append(field)
            else:
                into.append(value)
        elif isinstance(value, Mapping):
            self._add_block(value, into, inside=field is not None)
        elif isinstance(value, (list, tuple)):
            for item in value:
                self._add(item, into, field=field or "list")
        elif not isinstance(value, _PLAIN):
            self.unreadable.append(field or type(value).__name__)

    def _add_block(self, block: Mapping[Any, Any], into: list[str], *, inside: bool) -> None:
        kind = block.get("type")
        if not isinstance(kind, str | None):
            kind = repr(kind)  # a kind that nobody knows
        silent, beside = SILENT, into if into is self._thoughts else self._beside
        if kind == "non_standard" and isinstance(block.get("value"), Mapping):
            self._add_block(block["value"], into, inside=inside)
            return
        if kind in LOCAL_CALLS and not inside:
            self._repeated.append(block)
            return
        if kind in REASONING:
            into = beside = self._thoughts
            silent = SILENT | {"data"}
        elif kind in SERVER_TOOLS:
            into = beside
        elif kind in MEDIA:
            if not _has_text(block):
                self.unreadable.append(str(kind))
            silent = SILENT if _is_plain_document(block) else SILENT | DATA_KEYS
        elif not (inside or kind in TEXTS or _is_plain_text(block)):
            self.unreadable.append(str(kind or f"block with the keys {sorted(map(str, block))}"))
        for key, value in block.items():
            if key not in silent:
                self._add(value, into if key in TEXT_KEYS else beside, field=str(key))


_PLAIN = (str, Mapping, list, tuple, int, float, type(None))


def _is_plain_text(block: Mapping[Any, Any]) -> bool:
    """True if a block of an unknown kind holds nothing but text."""
    said = [(key, value) for key, value in block.items() if key not in SILENT]
    return all(key in ("text", "refusal") and isinstance(value, str) for key, value in said)


def _is_plain_document(block: Mapping[Any, Any]) -> bool:
    """True if a document's source is text."""
    source = block.get("source")
    nested = isinstance(source, Mapping) and source.get("type") in ("text", "content")
    return nested or block.get("source_type") == "text"


def _has_text(block: Mapping[Any, Any]) -> bool:
    """True if media hold text in place of their data."""
    names = ("transcript", "text") if block["type"] in DOCUMENTS else ("transcript",)
    said = (block.get(name) for name in names)
    return _is_plain_document(block) or any(isinstance(s, str) and not is_blank(s) for s in said)


_ARGUMENTS = ("args", "arguments", "partial_json", "input")


def _beside_call(call: Mapping[Any, Any]) -> dict[Any, Any]:
    """What a call holds beside its name and arguments; errors tell of the arguments."""
    for key in ("function", "custom"):
        if isinstance(call.get(key), Mapping):
            call = {k: v for k, v in {**call, **call[key]}.items() if k != key}
    return {k: v for k, v in call.items() if k not in ("type", "name", "error", *_ARGUMENTS)}


def _name_and_args(call: Mapping[Any, Any]) -> tuple[Any, Any]:
    """Name and arguments of a call, in whichever of the providers' forms; `{}` for none yet."""
    for key in ("function", "custom"):
        if isinstance(call.get(key), Mapping):
            call = {**call, **call[key]}
    args: Any = next((call[key] for key in _ARGUMENTS if call.get(key)), {})
    if isinstance(args, str):
        with suppress(ValueError, RecursionError):
            args = json.loads(args, strict=False)
    return call.get("name"), args
