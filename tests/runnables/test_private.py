"""The private names of langchain-core and langsmith, held against the versions in use."""

from __future__ import annotations

from contextvars import ContextVar, copy_context
from importlib.metadata import version

import pytest
from langchain_core.language_models import BaseChatModel, FakeListLLM
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda, ensure_config
from langchain_core.tracers.context import collect_runs
from langsmith.run_helpers import get_tracing_context, tracing_context

from srr_guard.runnables import _private
from srr_guard.testing import ScriptedChatModel

MODEL = ScriptedChatModel(answers=["a"])


def test_versions_these_names_were_written_for():
    assert (1, 7) <= tuple(map(int, version("langchain-core").split(".")[:2])) < (2, 0)
    assert tuple(map(int, version("langsmith").split(".")[:1])) < (1,)


def test_is_own_async():
    class Sync(BaseChatModel):
        @property
        def _llm_type(self):
            return "sync"

        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            raise AssertionError

    class Streams(Sync):
        async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
            yield None

    assert _private.is_own_async(MODEL)
    assert _private.is_own_async(Streams())
    assert not _private.is_own_async(Sync())
    assert _private.is_own_async(FakeListLLM(responses=["a"]))


@pytest.mark.parametrize("value", ["q", [HumanMessage("q")], [("user", "q")]])
def test_messages_of(value):
    assert [m.content for m in _private.messages_of(MODEL, value)] == ["q"]


def global_name(question):
    return MODEL


def test_returned_by():
    nonlocal_model = ScriptedChatModel(answers=["b"])

    def either(question):
        return MODEL if question else nonlocal_model

    async def later(question):
        return nonlocal_model

    def found(function):
        return {id(model) for model in _private.returned_by(RunnableLambda(function))}

    assert found(global_name) == {id(MODEL)}
    assert found(lambda q: nonlocal_model) == {id(nonlocal_model)}
    assert found(either) == {id(MODEL), id(nonlocal_model)}
    assert found(later) == {id(nonlocal_model)}
    for other in (lambda q: MODEL.invoke(q), lambda q: str(MODEL), lambda q: [MODEL], str):
        assert found(other) == set()


def test_enter_config():
    def inside():
        _private.enter_config(ensure_config({"tags": ["entered"]}))
        return ensure_config()["tags"]

    assert copy_context().run(inside) == ["entered"]
    assert ensure_config()["tags"] == []


def test_close_context():
    other: ContextVar[str] = ContextVar("other")

    def inside():
        other.set("stays")
        with collect_runs() as collected, tracing_context(enabled=True):
            _private.close_context()
            RunnableLambda(str).invoke("q")
            assert get_tracing_context()["enabled"] is False
            return collected.traced_runs, other.get()

    assert copy_context().run(inside) == ([], "stays")
