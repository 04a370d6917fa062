"""Values are opened layer by layer, and nothing is left out of them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import BaseModel, Field, RootModel, SecretStr, computed_field

from srr_guard.reading import candidate_text, read
from srr_guard.values import OPAQUE, opened


class Twice(BaseModel):
    n: int

    @computed_field
    def twice(self) -> int:
        return 2 * self.n


class Loose(BaseModel, extra="allow"):
    pass


class Plain:
    pass


class Money:
    def __str__(self) -> str:
        return "5 EUR"


class Table:
    """Prints the ends of itself only, as data frames do."""

    def __len__(self) -> int:
        return 1000

    def __str__(self) -> str:
        return "first ... last"


@dataclass
class Pair:
    a: Any
    b: int = 1


@pytest.mark.parametrize(
    ("value", "layer"),
    [
        (Twice(n=2), {"n": 2, "twice": 4}),
        (Loose(x=1), {"x": 1}),
        (RootModel[list[int]]([1]), [1]),
        (Pair("x"), {"a": "x", "b": 1}),
        ({3, 1}, [1, 3]),
        (range(2), [0, 1]),
        (Decimal("1.50"), "1.50"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (timedelta(days=1), "1 day, 0:00:00"),
        (Money(), "5 EUR"),
        (memoryview(b"text"), "text"),
    ],
)
def test_opened(value, layer):
    assert opened(value) == layer


@pytest.mark.parametrize("value", [Plain(), Plain, Table(), print, iter("ab"), object()])
def test_opaque(value):
    assert opened(value) is OPAQUE


def test_attrs_classes():
    attrs = pytest.importorskip("attrs")
    made = attrs.make_class("Made", ["a"])
    assert opened(made(a="x")) == {"a": "x"}


def test_arrays():
    np = pytest.importorskip("numpy")
    long = np.array(["x"] * 2000 + ["the middle"] + ["x"] * 2000)
    assert "the middle" in candidate_text({"answer": long})
    assert candidate_text({"text": "a", "vector": np.zeros(3)}) == '{"text": "a", "vector": null}'
    assert candidate_text({"n": np.float32(1.5)}) == '{"n": 1.5}'


# ---- inside answers ----

HARM, SORRY = "how to do harm", "Sorry, no."


@dataclass
class Note:
    body: str


class Base(BaseModel):
    title: str = "x"


class Longer(Base):
    body: str = HARM


class Page(BaseModel):
    part: Base = Longer()


class Hidden(BaseModel):
    body: str = Field(default=HARM, exclude=True)


class State(BaseModel):
    messages: list[BaseMessage]


CALLS = AIMessage("", tool_calls=[{"name": "f", "args": {"x": HARM}, "id": "1"}])
INSIDE = {
    "dataclass": Note(HARM),
    "fields of a subclass": Page(),
    "excluded field": Hidden(),
    "message in a model": State(messages=[CALLS]),
    "generation": ChatResult(generations=[ChatGeneration(message=CALLS)]),
    "enum": Enum("Kind", {"BAD": HARM}).BAD,
    "bytes": HARM.encode(),
    "set": {HARM},
    "deque": deque([HARM]),
    "view": {"x": HARM}.values(),
    "namespace": SimpleNamespace(x=HARM),
    "read-only dict": MappingProxyType({"x": HARM}),
    "error": ValueError(HARM),
    "path": PurePath(HARM),
}


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize(
    "put",
    [
        lambda value: {"answer": value},
        lambda value: ["see", value],
        lambda value: {"messages": [AIMessage(SORRY)], "notes": value},
        lambda value: AIMessage(SORRY, additional_kwargs={"notes": {"of": [value]}}),
    ],
    ids=["dict", "list", "state", "message"],
)
def test_objects_inside_are_opened(name, put):
    reading = read(put(INSIDE[name]))
    assert HARM in reading.text or reading.unreadable == ("of",)


CLOSED = {
    "object": object(),
    "generator": (c for c in HARM),
    "iterator": iter([HARM]),
    "function": lambda: HARM,
    "secret": SecretStr(HARM),
    "class": Note,
}


@pytest.mark.parametrize("name", CLOSED)
def test_objects_without_text_are_unreadable(name):
    value = CLOSED[name]
    for output in ({"answer": value}, [value], {"messages": [AIMessage(SORRY)], "x": value}):
        assert read(output).unreadable == (type(value).__name__,)


def test_an_iterator_inside_is_not_used_up():
    answer = {"answer": iter([HARM])}
    read(answer)
    assert list(answer["answer"]) == [HARM]
