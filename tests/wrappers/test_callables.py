"""Callables of every kind, and what frameworks see of them once they are guarded."""

from __future__ import annotations

import asyncio
import functools
import inspect

import pytest
from langchain_core.runnables import RunnableGenerator, RunnableLambda, chain

from srr_guard import SamplingPolicy, srr_guard
from srr_guard.testing import FakeScorer

guarded = srr_guard(
    scorer=FakeScorer(lambda prompt, text: 0.9), sampling=SamplingPolicy(n=2, attempts=1)
)


def words(question):
    yield "fine "
    yield question


async def awords(question):
    yield "fine "
    yield question


class Words:
    def __call__(self, question):
        yield "fine "
        yield question


class AsyncWords:
    async def __call__(self, question):
        yield "fine "
        yield question


SYNC = [words, functools.partial(words), Words(), Words().__call__]
ASYNC = [awords, functools.partial(awords), AsyncWords(), AsyncWords().__call__]


async def all_of(pieces):
    return [piece async for piece in pieces]


@pytest.mark.parametrize("fn", SYNC)
def test_generators_of_every_kind(fn):
    assert list(guarded(fn)("q")) == ["fine ", "q"]
    assert inspect.isgeneratorfunction(guarded(fn))
    assert not inspect.isasyncgenfunction(guarded(fn))


@pytest.mark.parametrize("fn", ASYNC)
def test_async_generators_of_every_kind(fn):
    assert asyncio.run(all_of(guarded(fn)("q"))) == ["fine ", "q"]
    assert inspect.isasyncgenfunction(guarded(fn))
    assert not inspect.isgeneratorfunction(guarded(fn))


def test_a_guarded_generator_in_a_chain_is_run():
    """LangChain asks whether it is one, and would hand on the generator itself."""
    for runnable in (RunnableLambda(guarded(words)), chain(guarded(words))):
        assert runnable.invoke("q") == "fine q"
        assert "".join(runnable.stream("q")) == "fine q"
    piped = RunnableLambda(str) | guarded(words)
    assert isinstance(piped.last, RunnableGenerator)
    assert asyncio.run(RunnableLambda(guarded(awords)).ainvoke("q")) == "fine q"


def test_signatures_stay():
    assert str(inspect.signature(guarded(words))) == "(question)"


def turns_of(fn, *args, **kwargs):
    seen = []

    class Spy(FakeScorer):
        def _rank(self, conversation, candidates):
            seen.append([turn.text for turn in conversation.turns])
            return super()._rank(conversation, candidates)

    spy = Spy(lambda prompt, text: 0.9)
    srr_guard(scorer=spy, sampling=SamplingPolicy(n=1))(fn)(*args, **kwargs)
    return seen[0]


OLD = [{"role": "user", "content": "old"}]


@pytest.mark.parametrize(
    ("fn", "args", "kwargs"),
    [
        (lambda q, history: "fine", ("q", OLD), {}),
        (lambda q, *more: "fine", ("q", OLD), {}),
        (lambda q, **more: "fine", ("q",), {"history": OLD}),
        (lambda q, *, history=(): "fine", ("q",), {"history": iter(OLD)}),
    ],
)
def test_earlier_turns_are_read_wherever_they_are_given(fn, args, kwargs):
    assert turns_of(fn, *args, **kwargs) == ["old", "q"]


class Service:
    @guarded
    def answer(this, question):  # noqa: N805 (some call it so)
        return f"fine {question}"

    @guarded
    @classmethod
    def of_class(klass, question):  # noqa: N804
        return f"fine {question}"


def test_whatever_self_is_called_is_not_the_prompt():
    for answer in (Service().answer, Service.of_class, Service().of_class):
        assert answer("q") == "fine q"
