"""Iterators are read once and reused."""

from __future__ import annotations

import asyncio
import io
import itertools
import threading

import pytest

from srr_guard import SafetyRanker, SamplingPolicy, srr_guard
from srr_guard.replay import Replay, fresh, listed, replayable
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


def test_files_stay_as_they_are():
    file = io.StringIO("text")
    assert replayable(file) is file
    assert listed({"file": file})["file"] is file


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
