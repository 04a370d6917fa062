"""Forked and spawned processes: a ranker made before works after."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from langchain_core.output_parsers import StrOutputParser

from srr_guard import (
    BelowThresholdError,
    DecisionPolicy,
    Guard,
    SafetyRankedChatModel,
    SafetyRanker,
    srr_guard,
)
from srr_guard.testing import FakeScorer, ScriptedChatModel


@srr_guard(scorer=FakeScorer(lambda prompt, text: 0.9), n=3)
def answer(question: str) -> str:
    return f"answer to {question}"


def answer_in_child(question: str) -> str:
    return answer(question)


def test_spawned_processes():
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(answer_in_child, ["a", "b"]) == ["answer to a", "answer to b"]


def by_word(prompt: str, answer: str) -> float:
    return 0.9 if "good" in answer else 0.1


def candidate(index: int) -> str:
    return ("bad", "good")[index % 2]


SCORER = FakeScorer(by_word)
MODEL = ScriptedChatModel(answers=["bad", "good"])


def ask_here(thing: Any) -> Any:
    """Use what came from another process, and send back what it gives."""
    if isinstance(thing, Guard):
        return thing.decide("q", candidate)
    if isinstance(thing, SafetyRanker):
        return thing.decide("q")
    if isinstance(thing, BaseException):
        raise thing
    return thing.invoke("q")


def test_what_travels_between_processes():
    guard = Guard(scorer=SCORER, n=2, decision=DecisionPolicy(below_threshold="raise"))
    with pytest.raises(BelowThresholdError) as held:
        guard.check("q", "bad")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:

        def there(thing: Any) -> Any:
            return pool.submit(ask_here, thing).result()

        assert there(guard).output == "good"
        assert there(SafetyRanker(MODEL, guard=guard)).output.text == "good"
        assert there(SafetyRankedChatModel(MODEL, guard=guard)).text == "good"
        assert there(SafetyRanker(MODEL | StrOutputParser(), guard=guard)).output == "good"
        with pytest.raises(BelowThresholdError) as come_back:
            there(held.value)
        assert come_back.value.decision == held.value.decision


def test_what_cannot_travel_is_named():
    guard = Guard(scorer=FakeScorer(lambda *_: 0.9))
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(guard)


FORKED = """
import asyncio, os, threading
from srr_guard import SafetyRanker, SamplingPolicy
from srr_guard.testing import FakeScorer

hang = threading.Event()
calls = []

def model(prompt):
    calls.append(prompt)
    if len(calls) == 1:
        hang.wait(300)  # a thread that is lost in the fork
    return f"answer to {prompt}"

guard = SafetyRanker(
    model,
    scorer=FakeScorer(lambda prompt, text: 0.9),
    # the request ends with the first good answer, whatever became of the other call
    sampling=SamplingPolicy(n=2, initial=2, accept_at=0.5, attempts=1),
)
assert guard.invoke("before") == "answer to before"
children = []
for i in range(4):
    pid = os.fork()
    if pid == 0:
        sync = guard.invoke(f"child {i}") == f"answer to child {i}"
        loop = asyncio.run(guard.ainvoke(f"task {i}")) == f"answer to task {i}"
        os._exit(0 if sync and loop else 1)
    children.append(pid)
assert guard.invoke("after") == "answer to after"
assert all(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 for pid in children)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_forked_processes():
    """In a process of its own: forking a test run with many threads would test that instead."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
