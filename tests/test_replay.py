"""Iterators are read once and reused."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from srr_guard import InvalidInputError, SafetyRanker, SamplingPolicy, srr_guard
from srr_guard.replay import AsyncReplay, Replay, fresh, listed, replayable
from srr_guard.testing import FakeScorer

OPTIONS = {"scorer": FakeScorer(lambda prompt, text: 0.9), "sampling": SamplingPolicy(n=3)}


def test_readers_side_by_side_see_everything():
    replay = Replay(iter(range(1000)))
    seen: list[list[int]] = []
    threads = [threading.Thread(target=lambda: seen.append(list(replay))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [list(range(1000))] * 8


def test_one_without_an_end():
    replay = Replay(itertools.count())
    assert list(itertools.islice(replay, 3)) == list(itertools.islice(replay, 3)) == [0, 1, 2]


@pytest.mark.parametrize("value", ["text", [1], (1,), {"a": 1}, None, range(3)])
def test_what_can_be_read_again_stays_as_it_is(value):
    assert replayable(value) is value
    assert fresh(value) is value
    assert listed(value) == value


def test_files_that_are_written_stay_as_they_are(tmp_path):
    with (tmp_path / "log").open("w+") as on_disk:
        for file in (io.StringIO(), io.BytesIO(), on_disk):
            assert replayable(file) is file
            assert listed({"file": file})["file"] is file


def test_containers_that_hold_themselves():
    circle: list[Any] = []
    circle.append(circle)
    assert replayable(circle) is circle


@dataclass(frozen=True)
class Request:
    body: Any


async def letters():
    for letter in "abc":
        yield letter


def on_disk(tmp_path):
    (tmp_path / "text").write_text("abc")
    return (tmp_path / "text").open()


def in_memory(tmp_path):
    file = io.BytesIO(b"xabc")
    file.read(1)
    return file


ONCE = {
    "iterator": lambda _: iter("abc"),
    "generator": lambda _: (letter for letter in "abc"),
    "async generator": lambda _: letters(),
    "file": on_disk,
    "file in memory": in_memory,
}
PUT = {
    "itself": (lambda value: value, lambda given: given),
    "in a list": (lambda value: ["x", value], lambda given: given[1]),
    "in a tuple": (lambda value: (value,), lambda given: given[0]),
    "in a dict": (lambda value: {"a": {"b": value}}, lambda given: given["a"]["b"]),
    "in a dataclass": (Request, lambda given: given.body),
}


async def all_of(value):
    if hasattr(value, "__aiter__"):
        return "".join([part async for part in value])
    if hasattr(value, "read"):
        content = value.read()
        return content if isinstance(content, str) else content.decode()
    return "".join(value)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("where", PUT)
@pytest.mark.parametrize("kind", ONCE)
class TestEachCandidateReadsAll:
    def test_of_a_function(self, kind, where, tmp_path):
        put, get = PUT[where]

        @srr_guard(**OPTIONS)
        async def answer(question, given):
            return await all_of(get(given))

        async def ask():
            return await answer.decide("q", put(ONCE[kind](tmp_path)))

        assert [c.text for c in asyncio.run(ask()).candidates] == ["abc"] * 3

    def test_of_a_chain(self, kind, where, tmp_path):
        put, get = PUT[where]

        async def answer(given):
            return await all_of(get(given["given"]))

        guard = SafetyRanker(answer, prompt=lambda given: given["q"], **OPTIONS)

        async def ask():
            return await guard.adecide({"q": "q", "given": put(ONCE[kind](tmp_path))})

        assert [c.text for c in asyncio.run(ask()).candidates] == ["abc"] * 3


def test_each_candidate_gets_the_error_of_an_iterator():
    def broken():
        yield "a"
        raise OSError("gone")

    async def abroken():
        yield "a"
        raise OSError("gone")

    @srr_guard(**OPTIONS)
    async def answer(question, given):
        return await all_of(given)

    for iterator in (broken, abroken):

        async def ask(iterator=iterator):
            await answer("q", iterator())

        with pytest.raises(OSError, match="gone"):
            asyncio.run(ask())


def test_a_reader_that_gives_up_ends_no_other_s_reading():
    async def main():
        waits, go = asyncio.Event(), asyncio.Event()

        async def slow():
            yield "a"
            waits.set()
            await go.wait()
            yield "b"

        replay = AsyncReplay(slow())
        first, second = (asyncio.create_task(all_of(replay)) for _ in range(2))
        await waits.wait()
        first.cancel()
        await asyncio.wait([first])
        go.set()
        return await second

    assert asyncio.run(main()) == "ab"


def test_what_only_one_candidate_could_use_is_refused():
    @srr_guard(**OPTIONS)
    async def answer(question, given):
        return "fine"

    async def ask(given):
        await answer("q", given)

    with pytest.raises(InvalidInputError, match=r"coroutine 'all_of'.*await it"):
        asyncio.run(ask(all_of("x")))
    read, write = os.pipe()
    with os.fdopen(read) as pipe, pytest.raises(InvalidInputError, match="give its content"):
        asyncio.run(ask(pipe))
    os.close(write)


def test_iterators_anywhere_in_an_input():
    assert listed({"a": [iter("xy")], "b": (c for c in "z")}) == {"a": [["x", "y"]], "b": ["z"]}


def test_arguments_of_a_decorated_function():
    seen = []

    @srr_guard(**OPTIONS)
    def answer(question, pieces, *, more):
        seen.append((next(pieces), list(pieces), list(more)))
        return "fine"

    answer("q", (c for c in "abc"), more=map(str, range(2)))
    assert seen == [("a", ["b", "c"], ["0", "1"])] * 3


def test_arguments_of_other_kinds_of_function():
    seen = []

    @srr_guard(**OPTIONS)
    async def answer(question, pieces):
        seen.append(list(pieces))
        return "fine"

    @srr_guard(**OPTIONS)
    def words(question, pieces):
        seen.append(list(pieces))
        yield "fine"

    asyncio.run(answer("q", iter("ab")))
    assert list(words("q", iter("ab"))) == ["fine"]
    assert asyncio.run(words.adecide("q", iter("ab"))).passed
    assert seen == [["a", "b"]] * 9


def test_a_prompt_that_is_an_iterator():
    seen = []
    scorer = FakeScorer(lambda prompt, text: seen.append(prompt) or 0.9)

    @srr_guard(scorer=scorer, sampling=SamplingPolicy(n=2))
    def answer(messages):
        return f"{len(list(messages))} messages"

    assert answer(iter([("user", "one"), ("user", "two")])) == "2 messages"
    assert set(seen) == {"two"}


def test_inputs_of_a_chain():
    ranker = SafetyRanker(lambda value: "".join(value["pieces"]), **OPTIONS)
    assert ranker.decide({"question": "q", "pieces": iter("ab")}).distinct == 1
    assert ranker.invoke({"question": "q", "pieces": iter("ab")}) == "ab"
    assert asyncio.run(ranker.ainvoke({"question": "q", "pieces": iter("ab")})) == "ab"
