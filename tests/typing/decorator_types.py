"""Read by type checkers in test_decorator.py, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, assert_type

from langchain_core.messages import AIMessage

from srr_guard import Decision, srr_guard


@srr_guard
def plain(question: str, *, depth: int = 1) -> str:
    return question * depth


@srr_guard(n=2, prompt="question")
def with_arguments(context: int, question: str) -> AIMessage:
    return AIMessage(question * context)


@srr_guard
async def plain_async(question: str) -> str:
    return question


@srr_guard(n=2)
async def async_with_arguments(question: str) -> AIMessage:
    return AIMessage(question)


@srr_guard
def pieces(question: str) -> Iterator[str]:
    yield question


@srr_guard(n=2, text=lambda found: str(len(found)))
async def async_pieces(question: str) -> AsyncIterator[bytes]:
    yield question.encode()


class Bot:
    @srr_guard
    def pieces(self, question: str) -> Iterator[str]:
        yield question

    @srr_guard
    def answer(self, question: str) -> str:
        return question

    @srr_guard(n=2)
    async def aanswer(self, question: str, k: int) -> str:
        return question * k


assert_type(plain("q", depth=2), str)
assert_type(plain.decide("q"), Decision[str])
assert_type(with_arguments(1, "q"), AIMessage)
assert_type(Bot().answer("q"), str)
assert_type(Bot().answer.decide(question="q"), Decision[str])
assert_type(pieces("q"), Iterator[str])
assert_type(pieces.decide("q"), Decision[list[str]])
assert_type(Bot().pieces("q"), Iterator[str])

as_callable: Callable[[str], str] = plain
as_async_callable: Callable[[str], Coroutine[Any, Any, str]] = plain_async


async def main() -> None:
    assert_type(await plain_async("q"), str)
    assert_type(await plain.adecide("q", depth=2), Decision[str])
    assert_type(async_pieces("q"), AsyncIterator[bytes])
    assert_type(await plain_async.decide("q"), Decision[str])
    assert_type(await async_with_arguments("q"), AIMessage)
    assert_type(await Bot().aanswer("q", 2), str)
    assert_type(await Bot().aanswer.decide("q", k=2), Decision[str])


# Each of these must stay an error: an unused "ignore" is one itself.
plain(1)  # type: ignore[arg-type]
plain("q", nonsense=1)  # type: ignore[call-arg]
pieces(1)  # type: ignore[arg-type]
Bot().answer(7)  # type: ignore[arg-type]
