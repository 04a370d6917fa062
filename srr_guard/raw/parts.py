"""Parts of one answer that come in pieces, and some of them more than once."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from pydantic import BaseModel

from srr_guard.blocks import METADATA_TEXTS, SILENT


class RawAnswer(ABC):
    """One answer of a provider's API, from its events, its chunks, or whole."""

    @classmethod
    @abstractmethod
    def takes(cls, value: Mapping[str, Any]) -> bool:
        """True for an event, a chunk or an answer of this API."""

    def begins_another(self, value: Mapping[str, Any]) -> bool:
        """True if an event belongs to the next answer."""
        return False

    @abstractmethod
    def add(self, value: Mapping[str, Any]) -> None:
        """Add what `takes` takes."""

    @abstractmethod
    def messages(self) -> Sequence[AIMessage]:
        """The answer so far; several messages where several choices were asked for."""


class Parts:
    """Blocks of a message that grow; what comes a second time, whole, counts once.

    Example:
        >>> parts = Parts()
        >>> parts.grow(0, "text", text="to ")
        >>> parts.grow(0, "text", text="be")
        >>> parts.again({"type": "text", "text": "to be"})
        >>> parts.message().content
        [{'type': 'text', 'text': 'to be'}]
    """

    def __init__(self) -> None:
        self._blocks: dict[Hashable, dict[str, Any]] = {}
        self._told: dict[Hashable, dict[str, Any]] = {}
        self._again: list[dict[str, Any]] = []
        self._beside: dict[str, list[Any]] = {}
        self._metadata: dict[str, Any] = {}

    def begin(self, key: Hashable, block: Mapping[str, Any]) -> None:
        """Begin a block that may grow."""
        if key in self._blocks:
            self.again(block)
        else:
            self._blocks[key] = dict(block)

    def grow(self, key: Hashable, kind: str, **fields: Any) -> None:
        """Add to the fields of a block; it is made, of this kind, where it has not begun."""
        _grow(self._blocks.setdefault(key, {"type": kind}), fields)

    def tell(self, key: Hashable, kind: str, **fields: Any) -> None:
        """The same of a block that most often repeats another one."""
        _grow(self._told.setdefault(key, {"type": kind}), fields)

    def block(self, key: Hashable) -> dict[str, Any]:
        """A block that has begun."""
        return self._blocks[key]

    def again(self, block: Any) -> None:
        """Add a whole block that most often repeats one that has grown."""
        self._again.append(dict(block) if isinstance(block, Mapping) else {"text": str(block)})

    def beside(self, fields: Mapping[str, Any], *, known: Sequence[str] | frozenset[str]) -> None:
        """Add what stands beside the blocks, but for fields of known names."""
        for name, value in fields.items():
            if name in METADATA_TEXTS and value:
                self.note(**{name: value})
            elif name not in known and value not in (None, [], {}, ""):
                self._beside.setdefault(name, []).append(value)

    def note(self, **metadata: Any) -> None:
        """Add to the message's metadata; what is None is left out."""
        for name, value in metadata.items():
            old = self._metadata.get(name)
            if name in METADATA_TEXTS and old is not None and value != old:
                value = [*old, value] if isinstance(old, list) else [old, value]
            if value is not None:
                self._metadata[name] = value

    def message(self) -> AIMessage:
        """All of it."""
        blocks = list(self._blocks.values())
        for block in [*self._told.values(), *self._again]:
            if not any(_holds(other, block) for other in blocks):
                blocks.append(block)
        content: list[Any] = [*blocks]
        return AIMessage(content, additional_kwargs=self._beside, response_metadata=self._metadata)


_MARKS = frozenset({"choices", "data", "type", "object", "candidates", "done"})
"""Some of them has each class of the clients that is an answer, an event or a chunk."""


def as_mapping(value: Any) -> Mapping[str, Any] | None:
    """A dict, or an object that a client may have made as a dict; None for anything else."""
    if isinstance(value, BaseModel) and not isinstance(value, BaseMessage):
        if _MARKS.isdisjoint(type(value).model_fields):
            return None
        try:  # no warnings: providers fill the fields as they like
            return value.model_dump(mode="json", exclude_none=True, warnings=False)
        except (ValueError, TypeError, RecursionError):  # it is an object of another kind
            return None
    return value if isinstance(value, Mapping) else None


def mappings(value: Any) -> Sequence[Mapping[str, Any]]:
    """The dicts in a list; none for None.

    Raises:
        TypeError: It is something else, or holds something else.
    """
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{value!r:.60} is no list")
    return [mapping(item) for item in value]


def mapping(value: Any) -> Mapping[str, Any]:
    """A dict.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r:.60} is no object")
    return value


def _grow(block: dict[str, Any], fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        old: Any = block.get(name)
        joins = type(old) is type(value) and type(value) in (str, list)
        block[name] = old + value if joins else value


_CALLED_WITH = ("partial_json", "arguments", "input")


def _said(block: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say something, the arguments of calls under one name."""
    said: dict[str, Any] = {}
    for name, value in block.items():
        if name in _CALLED_WITH:
            name, value = "input", _parsed(value)
        if name not in SILENT and value not in (None, "", [], {}):
            said[name] = value
    return said


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value, strict=False) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _holds(block: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    mine, others = _said(block), _said(other)
    if not others:
        return bool(block.get("type") == other.get("type"))
    return all(_within(value, mine.get(name)) for name, value in others.items())


def _within(value: Any, whole: Any) -> bool:
    if isinstance(value, str) and isinstance(whole, str):
        return value in whole
    if isinstance(value, list) and isinstance(whole, list):
        return all(item in whole for item in value)
    return bool(value == whole)
