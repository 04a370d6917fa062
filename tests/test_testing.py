"""The stand-ins behave like what they stand for."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from srr_guard import InvalidInputError, ResponseScorer
from srr_guard.errors import ConfigurationError
from srr_guard.testing import FakeScorer, ScriptedChatModel


class TestFakeScorer:
    def test_is_a_scorer(self):
        assert isinstance(FakeScorer(lambda p, c: 1.0), ResponseScorer)

    async def test_sync_and_async_agree(self):
        scorer = FakeScorer(lambda prompt, text: len(text) / 10)
        ranking = scorer.score([("user", "q")], ["a", "abc", "ab"])
        assert ranking.order == (1, 2, 0)
        assert ranking.scores == ranking.p_safe == (0.1, 0.3, 0.2)
        assert await scorer.ascore("q", ["a", "abc", "ab"]) == ranking
        assert scorer.calls == [("a", "abc", "ab")] * 2

    async def test_delay_and_error(self):
        scorer = FakeScorer(lambda p, c: 1.0, delay=0.05, error=RuntimeError("down"))
        started = time.perf_counter()
        with pytest.raises(RuntimeError, match="down"):
            await scorer.ascore("q", ["a"])
        assert time.perf_counter() - started >= 0.045

    def test_bad_input(self):
        scorer = FakeScorer(lambda p, c: 1.0)
        with pytest.raises(InvalidInputError, match="empty"):
            scorer.score("q", [])
        with pytest.raises(InvalidInputError, match="empty"):
            scorer.score("", ["a"])


class TestScriptedChatModel:
    async def test_cycles_over_all_ways_to_call(self):
        model = ScriptedChatModel(answers=["one two", "three"])
        assert model.invoke("q").content == "one two"
        assert (await model.ainvoke("q")).content == "three"
        assert [c.content for c in model.stream("q")] == ["one", " ", "two"]
        assert [c.content async for c in model.astream("q")] == ["three"]
        assert model.calls == 4
        assert [m.content for m in model.seen[0]] == ["q"]

    async def test_raises_exceptions(self):
        model = ScriptedChatModel(answers=[ValueError("boom"), "fine"])
        with pytest.raises(ValueError, match="boom"):
            model.invoke("q")
        assert model.invoke("q").content == "fine"
        with pytest.raises(ValueError, match="boom"):
            await model.ainvoke("q")

    def test_messages_keep_tool_calls_and_usage(self):
        usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
        calls = [{"name": "f", "args": {"x": 1}, "id": "1", "type": "tool_call"}]
        message = AIMessage("to be", tool_calls=calls, usage_metadata=usage)
        model = ScriptedChatModel(answers=[message])
        *_, last = model.stream("q")
        whole = model.invoke("q")
        for answer in (whole, last):
            assert answer.tool_calls == calls
            assert answer.usage_metadata == usage
        assert message.id is None

    def test_copies_share_one_place(self):
        @tool
        def search(query: str) -> str:
            """Search."""
            return query

        model = ScriptedChatModel(answers=["one", "two", "three"])
        others = [model.model_copy(update={"cache": False}), model.bind_tools([search])]
        assert [m.invoke("q").content for m in (model, *others)] == ["one", "two", "three"]
        assert model.calls == 3

    def test_threads_get_each_answer_once(self):
        model = ScriptedChatModel(answers=[str(i) for i in range(64)])
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: model.invoke("q").content, range(64)))
        assert sorted(answers, key=int) == [str(i) for i in range(64)]

    async def test_delays(self):
        model = ScriptedChatModel(answers=["slow", "quick"], delay=[0.5, 0.0])
        ended = []

        async def ask():
            ended.append((await model.ainvoke("q")).text)

        await asyncio.gather(*(ask() for _ in range(8)))
        assert ended == ["quick"] * 4 + ["slow"] * 4

    @pytest.mark.parametrize("kwargs", [{"answers": []}, {"answers": ["a"], "delay": []}])
    def test_empty_scripts(self, kwargs):
        with pytest.raises(ConfigurationError):
            ScriptedChatModel(**kwargs)
