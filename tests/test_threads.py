"""Workers: threads are reused, bounded, replaced when given up on, and never joined."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time

import pytest

from srr_guard import DecisionPolicy, Guard, SafetyRanker, srr_guard
from srr_guard.errors import ConfigurationError
from srr_guard.testing import FakeScorer, ScriptedChatModel
from srr_guard.threads import Workers


def test_results_and_errors_come_back():
    workers = Workers(max_threads=2)
    assert workers.submit(pow, 2, 5).result(1) == 32
    with pytest.raises(ZeroDivisionError):
        workers.submit(lambda: 1 // 0).result(1)


def test_idle_threads_are_reused():
    workers = Workers(max_threads=None)
    names = set()
    for _ in range(20):
        names.add(workers.submit(threading.get_ident).result(1))
        time.sleep(0.001)
    assert len(names) <= 2


def test_every_call_gets_a_thread_when_there_is_no_limit():
    workers = Workers(max_threads=None)
    barrier = threading.Barrier(12)
    for _ in range(20):
        futures = [workers.submit(barrier.wait, 2) for _ in range(12)]
        assert sorted(f.result(2) for f in futures) == list(range(12))


def test_limit_holds_and_the_line_moves():
    workers = Workers(max_threads=3)
    running, peak, lock = 0, 0, threading.Lock()

    def call():
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        time.sleep(0.002)
        with lock:
            running -= 1

    futures = [workers.submit(call) for _ in range(30)]
    for future in futures:
        future.result(2)
    assert peak == 3


def test_stuck_threads_are_replaced():
    workers = Workers(max_threads=1)
    release = threading.Event()
    stuck = workers.submit(release.wait, 5)
    waiting = workers.submit(lambda: "done")
    with pytest.raises(TimeoutError):
        waiting.result(0.05)
    workers.release(stuck)
    assert waiting.result(1) == "done"
    release.set()
    assert stuck.result(1)
    assert workers.submit(lambda: "still one").result(1) == "still one"


def test_threads_of_calls_given_up_on_end_with_them():
    workers = Workers(max_threads=1)
    begun, release = threading.Event(), threading.Event()

    def call():
        begun.set()
        release.wait(5)
        return threading.current_thread()

    stuck = workers.submit(call)
    assert begun.wait(5)
    workers.release(stuck)
    release.set()
    thread = stuck.result(5)
    thread.join(5)
    assert not thread.is_alive()


def test_call_in_line_that_is_released_never_starts():
    workers = Workers(max_threads=1)
    release = threading.Event()
    started = []
    first = workers.submit(release.wait, 5)
    second = workers.submit(started.append, 1)
    workers.release(second)
    release.set()
    first.result(1)
    workers.submit(lambda: None).result(1)
    assert started == []


async def test_run_does_not_block_and_gives_up_when_cancelled():
    workers = Workers(max_threads=1)
    release = threading.Event()
    task = asyncio.create_task(workers.run(release.wait, 5))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await workers.run(lambda: "free again") == "free again"
    release.set()


async def test_stop_iteration_is_translated():
    with pytest.raises(RuntimeError, match="StopIteration"):
        await Workers(max_threads=1).run(next, iter(()))


def run_without_asyncio(coroutine):
    """Run a coroutine as another kind of event loop would: without one of asyncio's."""
    try:
        coroutine.send(None)
    finally:
        coroutine.close()


async def pieces(stream):
    return [piece async for piece in stream]


async def aanswer(question):
    return "good"


async def astream(question):
    yield "good"


SCORER = FakeScorer(lambda prompt, answer: 0.9)
GUARD = Guard(scorer=SCORER, decision=DecisionPolicy(scorer_error="pass"))
RANKER = SafetyRanker(ScriptedChatModel(answers=["good"]), scorer=SCORER)
CALLS = {
    "adecide": lambda: GUARD.adecide("q", aanswer),
    "achoose": lambda: GUARD.achoose("q", ["good"]),
    "acheck": lambda: GUARD.acheck("q", "good"),
    "ainvoke": lambda: RANKER.ainvoke("q"),
    "ranker's adecide": lambda: RANKER.adecide("q"),
    "ranker's astream": lambda: pieces(RANKER.astream("q")),
    "function": lambda: srr_guard(scorer=SCORER)(aanswer)("q"),
    "sync function": lambda: srr_guard(scorer=SCORER)(lambda question: "good").adecide("q"),
    "generator": lambda: pieces(srr_guard(scorer=SCORER)(astream)("q")),
    "thread": lambda: Workers(max_threads=1).run(pow, 2, 5),
}


@pytest.mark.parametrize("name", CALLS)
def test_other_event_loops_are_refused_by_name(name):
    with pytest.raises(ConfigurationError, match="run on asyncio alone"):
        run_without_asyncio(CALLS[name]())
    assert GUARD.totals.bypasses == 0


@pytest.mark.parametrize("name", CALLS)
def test_of_trio_too(name):
    trio = pytest.importorskip("trio")
    with pytest.raises(ConfigurationError, match="trio"):
        trio.run(CALLS[name])


def test_sync_methods_run_on_threads_of_trio():
    trio = pytest.importorskip("trio")

    async def main():
        return await trio.to_thread.run_sync(RANKER.invoke, "q")

    assert trio.run(main).text == "good"


@pytest.mark.parametrize("name", CALLS)
def test_loops_that_stand_in_for_asyncio_s_do(name):
    uvloop = pytest.importorskip("uvloop")

    async def main():
        return await CALLS[name]()

    assert uvloop.run(main())


def test_hung_thread_does_not_hold_up_the_exit():
    code = (
        "import time\n"
        "from srr_guard.threads import Workers\n"
        "Workers(max_threads=1).submit(time.sleep, 60)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_works_after_a_fork():
    code = (
        "import os, sys\n"
        "from srr_guard.threads import Workers\n"
        "workers = Workers(max_threads=1)\n"
        "workers.submit(int).result(2)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os._exit(workers.submit(lambda: 7).result(2))\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == 7
