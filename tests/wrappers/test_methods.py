"""`@srr_guard` in classes of frameworks, and what code that inspects functions sees."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool
from pydantic import BaseModel

from srr_guard import SafetyRanker, srr_guard
from srr_guard.testing import FakeScorer
from srr_guard.wrappers.guarded import GuardedFunction

SCORER = FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1)
guarded = srr_guard(scorer=SCORER, n=2)


class Model(BaseModel):
    """A class whose base takes for a field what is no function."""

    name: str

    @guarded
    def answer(self, question: str) -> str:
        return f"good {self.name}"

    @guarded
    def _answer(self, question: str) -> str:
        return f"good {self.name}"

    @guarded
    async def aanswer(self, question: str) -> str:
        return f"good {self.name}"

    @guarded
    def stream(self, question: str) -> Any:
        yield f"good {self.name}"

    @guarded
    async def astream(self, question: str) -> Any:
        yield f"good {self.name}"

    @classmethod
    @guarded
    def of_class(cls, question: str) -> str:
        return f"good {cls.__name__}"


class Tool(BaseTool):
    name: str = "tool"
    description: str = "Answers."

    @guarded
    def _run(self, question: str) -> str:
        return f"good {self.name}"

    @guarded
    async def _arun(self, question: str) -> str:
        return f"good {self.name}"


async def pieces(stream):
    return [piece async for piece in stream]


def test_methods_of_pydantic_classes():
    model = Model(name="tea")
    assert model.answer("q") == model._answer("q") == "good tea"
    assert asyncio.run(model.aanswer("q")) == "good tea"
    assert list(model.stream("q")) == asyncio.run(pieces(model.astream("q"))) == ["good tea"]
    assert Model.of_class("q") == "good Model"
    assert list(Model.model_fields) == ["name"]


def test_methods_of_tools():
    tool = Tool()
    assert tool.invoke({"question": "q"}) == "good tool"
    assert asyncio.run(tool.ainvoke({"question": "q"})) == "good tool"
    assert list(tool.args) == ["question"]


@guarded
def sync(question: str) -> str:
    return "good"


@guarded
async def plain_async(question: str) -> str:
    return "good"


@guarded
def generator(question: str) -> Any:
    yield "good"


@guarded
async def async_generator(question: str) -> Any:
    yield "good"


def test_inspection_sees_the_kind_of_function():
    kinds = {
        inspect.iscoroutinefunction: [plain_async, Model(name="x").aanswer],
        asyncio.iscoroutinefunction: [plain_async, Model(name="x").aanswer],
        inspect.isgeneratorfunction: [generator, Model(name="x").stream],
        inspect.isasyncgenfunction: [async_generator, Model(name="x").astream],
        inspect.isfunction: [sync, plain_async, generator, async_generator],
    }
    every = [sync, plain_async, generator, async_generator]
    for asks, those in kinds.items():
        assert all(map(asks, those))
        if asks is not inspect.isfunction:
            assert [one for one in every if asks(one)] == those[:1]
    assert isinstance(sync, GuardedFunction)
    assert "return" in inspect.getsource(sync)
    assert inspect.getfullargspec(sync).args == ["question"]


class Callable:
    def __call__(self, question: str) -> str:
        return f"good {question}"


def said(start: str, question: str) -> str:
    return f"{start} {question}"


@pytest.mark.parametrize("one", [functools.partial(said, "good"), Callable()])
def test_what_is_no_function_is_not_taken_for_one(one):
    made = guarded(one)
    assert not inspect.isfunction(made)
    assert made("q") == "good q"


def test_bound_methods_are_equal_as_python_s_are():
    model, other = Model(name="tea"), Model(name="tea")
    assert model.answer == model.answer
    assert hash(model.answer) == hash(model.answer)
    assert model.answer != other.answer
    assert model.answer != model._answer
    assert sync != Model.answer
    assert {sync: 1, generator: 2}[sync] == 1


def test_runnables_take_it_for_a_function():
    assert RunnableLambda(sync).invoke("q") == "good"
    assert asyncio.run(RunnableLambda(plain_async).ainvoke("q")) == "good"
    assert SafetyRanker(sync, scorer=SCORER, n=1).invoke("q") == "good"
