"""Forked and spawned processes: a ranker made before works after."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import pytest

from srr_guard import srr_guard
from srr_guard.testing import FakeScorer


@srr_guard(scorer=FakeScorer(lambda prompt, text: 0.9), n=3)
def answer(question: str) -> str:
    return f"answer to {question}"


def answer_in_child(question: str) -> str:
    return answer(question)


def test_spawned_processes():
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(answer_in_child, ["a", "b"]) == ["answer to a", "answer to b"]


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
