"""A cache that the guard cannot keep candidates out of is warned of."""

from __future__ import annotations

import logging
import threading

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache

from srr_guard import Guard, SafetyRanker, srr_guard
from srr_guard.runnables import cache
from srr_guard.testing import FakeScorer, ScriptedChatModel

SCORER = FakeScorer(lambda prompt, text: 0.9)
MODEL = ScriptedChatModel(answers=["one", "two"])
MESSAGES = {"messages": [("user", "q")]}
OPAQUE = {
    "function": lambda: SafetyRanker(lambda q: MODEL.invoke(q), scorer=SCORER).invoke("q"),
    "agent": lambda: SafetyRanker(create_agent(MODEL), scorer=SCORER).invoke(MESSAGES),
    "decorated": lambda: srr_guard(scorer=SCORER)(lambda q: MODEL.invoke(q))("q"),
    "guard": lambda: Guard(scorer=SCORER).decide("q", lambda _: MODEL.invoke("q")),
}


@pytest.fixture(autouse=True)
def never_warned(monkeypatch):
    monkeypatch.setattr(cache, "_first", threading.Lock())
    yield
    set_llm_cache(None)


@pytest.mark.parametrize("name", OPAQUE)
def test_models_out_of_reach(name, caplog):
    with caplog.at_level(logging.WARNING, logger="srr_guard"):
        OPAQUE[name]()
        assert "cache" not in caplog.text
        set_llm_cache(InMemoryCache())
        OPAQUE[name]()
        OPAQUE[name]()
    assert caplog.text.count("the global LLM cache is on") == 1


def test_models_within_reach(caplog):
    set_llm_cache(InMemoryCache())
    with caplog.at_level(logging.WARNING, logger="srr_guard"):
        assert SafetyRanker(MODEL, scorer=SCORER).decide("q").distinct == 2
    assert "cache" not in caplog.text
