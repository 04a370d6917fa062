"""The best-of-N engine: every rule is tested through both shells, sync and async."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage

from srr_guard.core.best_of_n import BestOfN
from srr_guard.core.calls import AsyncCandidateCalls, CandidateCalls, FunctionSource
from srr_guard.core.delivery import MessageDelivery
from srr_guard.core.outcomes import CallPlan, Outcome, must_propagate, read_candidate
from srr_guard.errors import (
    AllCandidatesFailedError,
    InvalidInputError,
    NotEnoughCandidatesError,
    NotRepeatableError,
    SamplingError,
)
from srr_guard.policy import DecisionPolicy, SamplingPolicy

READ = partial(read_candidate, delivery=MessageDelivery(), refusal="no")


def quick(**kwargs) -> SamplingPolicy:
    return SamplingPolicy(**{"backoff": 0.0, **kwargs})


class Batches:
    """A source whose one call makes all candidates."""

    batches = True

    def __init__(self, sample) -> None:
        self.sample = self.asample = sample


def source(call, batched, policy):
    return Batches(batched) if batched and policy.batched == "auto" else FunctionSource(call)


def received(outcomes: dict[int, Outcome], policy: SamplingPolicy) -> BestOfN:
    state = BestOfN(policy, DecisionPolicy())
    state.receive(outcomes)
    if (shortage := state.shortage()) is not None:
        raise shortage
    return state


def options(policy: SamplingPolicy) -> dict:
    return {"read": READ, "deadline": policy.deadline}


def sample(call, policy, *, batched=None) -> BestOfN:
    made = source(call, batched, policy)
    with CandidateCalls(made, policy, range(policy.n), **options(policy)) as calls:
        return received(calls.wait(for_all=True), policy)


async def asample(call, policy, *, batched=None) -> BestOfN:
    made = source(call, batched, policy)
    async with AsyncCandidateCalls(made, policy, range(policy.n), **options(policy)) as calls:
        return received(await calls.wait(for_all=True), policy)


@pytest.fixture(params=["sync", "async"])
def run(request):
    """Sample through one of the two shells; the call and the batch are sync functions."""

    def sync(call, policy, batched=None):
        return sample(call, policy, batched=batched)

    def through_a_loop(call, policy, batched=None):
        async def acall(index):
            return call(index)

        async def abatched(indices):
            return batched(indices)

        return asyncio.run(asample(acall, policy, batched=batched and abatched))

    return sync if request.param == "sync" else through_a_loop


def flaky(*results):
    """A call that goes through the results, whatever the candidate; exceptions are raised."""
    script = iter(results)
    lock = threading.Lock()

    def call(*_):
        with lock:
            result = next(script)
        if isinstance(result, BaseException):
            raise result
        return result

    return call


def test_candidates_come_back_by_index(run):
    sampled = run(lambda i: f"answer {i}", quick(n=5))
    assert [c.index for c in sampled.candidates] == [0, 1, 2, 3, 4]
    assert [c.text for c in sampled.candidates] == [f"answer {i}" for i in range(5)]
    assert sampled.causes == ()


def test_output_is_kept_as_it_is(run):
    message = AIMessage("hi")
    sampled = run(lambda i: message, quick(n=1))
    assert sampled.candidates[0].output is message


def test_one_failure_does_not_hurt_the_others(run):
    def call(index):
        if index == 1:
            raise ValueError("no")
        return "yes"

    sampled = run(call, quick(n=3))
    assert [c.index for c in sampled.candidates] == [0, 2]
    assert [type(e) for e in sampled.causes] == [ValueError]


def test_each_candidate_has_its_own_attempts(run):
    calls = {0: 0, 1: 0}

    def call(index):
        calls[index] += 1
        if calls[index] < 3:
            raise ConnectionError
        return "at last"

    assert len(run(call, quick(n=2, attempts=3)).candidates) == 2
    assert calls == {0: 3, 1: 3}


def test_attempts_are_limited(run):
    calls = []

    def call(index):
        calls.append(index)
        raise ConnectionError

    with pytest.raises(AllCandidatesFailedError):
        run(call, quick(n=1, attempts=4))
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("attempt", "longest"), [(1, 0.04), (2, 0.05), (3, 0.05)], ids=["first", "doubled", "capped"]
)
def test_backoff_doubles_up_to_its_maximum(attempt, longest):
    policy = SamplingPolicy(n=1, backoff=0.04, backoff_max=0.05)
    plan = CallPlan(FunctionSource(str), policy, READ, None)
    state = SimpleNamespace(attempt_number=attempt)
    waits = [plan.retry_options()["wait"](state) for _ in range(200)]
    assert 0.5 * longest <= min(waits) < max(waits) <= longest


@pytest.mark.parametrize("blank", ["", " \n\t", None, AIMessage("")])
def test_blank_answer_is_a_failure_and_tried_again(run, blank):
    assert run(flaky(blank, "text"), quick(n=1)).candidates[0].text == "text"
    with pytest.raises(AllCandidatesFailedError, match="blank") as caught:
        run(lambda i: blank, quick(n=2))
    assert [type(e) for e in caught.value.causes] == [SamplingError, SamplingError]


def test_unreadable_answer_fails_at_once(run):
    calls = []

    def call(index):
        calls.append(index)
        return b"bytes"

    with pytest.raises(AllCandidatesFailedError) as caught:
        run(call, quick(n=1, attempts=5))
    assert isinstance(caught.value.causes[0], InvalidInputError)
    assert len(calls) == 1


def test_input_errors_are_not_retried(run):
    with pytest.raises(AllCandidatesFailedError):
        run(flaky(InvalidInputError("bad"), "never reached"), quick(n=1, attempts=5))


def test_errors_that_say_so_are_not_retried(run):
    class HopelessError(ValueError):
        is_retryable = False

    made = []

    def call(index):
        made.append(index)
        raise HopelessError

    with pytest.raises(AllCandidatesFailedError):
        run(call, quick(n=1, attempts=5))
    assert made == [0]


@pytest.mark.parametrize(
    ("error", "calls"), [(ConnectionResetError(), 3), (ValueError("no"), 1), (None, 1)]
)
def test_only_the_named_errors_are_retried(run, error, calls):
    made = []

    def call(index):
        made.append(index)
        if error is not None:
            raise error
        return ""  # blank: a SamplingError

    with pytest.raises(AllCandidatesFailedError):
        run(call, quick(n=1, attempts=3, retry_on=(ConnectionError,)))
    assert len(made) == calls


def test_all_failed_keeps_each_cause_in_order(run):
    def call(index):
        raise ValueError(index)

    with pytest.raises(AllCandidatesFailedError) as caught:
        run(call, quick(n=3))
    assert [e.args for e in caught.value.causes] == [(0,), (1,), (2,)]
    assert caught.value.__cause__ is caught.value.causes[0]


def test_min_candidates(run):
    def call(index):
        if index:
            raise ValueError(index)
        return "only one"

    with pytest.raises(NotEnoughCandidatesError, match="1 candidates succeeded") as caught:
        run(call, quick(n=3, min_candidates=2))
    assert len(caught.value.causes) == 2
    assert len(run(call, quick(n=3, min_candidates=1)).candidates) == 1


@pytest.mark.parametrize("limit", ["timeout", "deadline"])
def test_late_candidates_count_as_failed_and_do_not_block(limit, limits):
    def call(index):
        if index == 0:
            limits.hang_thread()
        return "quick"

    sampled = sample(call, quick(n=3, **{limit: 7.5}))
    assert [c.index for c in sampled.candidates] == [1, 2]
    assert [type(e) for e in sampled.causes] == [TimeoutError]
    assert str(sampled.causes[0]) == f"candidate 0 timed out after 7.5 s (`SamplingPolicy.{limit}`)"


@pytest.mark.parametrize("limit", ["timeout", "deadline"])
async def test_late_tasks_are_cancelled(limit, limits):
    cancelled = []

    async def call(index):
        try:
            if index == 0:
                await limits.hang()
        except asyncio.CancelledError:
            cancelled.append(index)
            raise
        return "quick"

    sampled = await asample(call, quick(n=3, **{limit: 7.5}))
    await asyncio.sleep(0)
    assert [c.index for c in sampled.candidates] == [1, 2]
    assert cancelled == [0]


async def test_task_that_ignores_its_cancellation_does_not_block(limits):
    release = asyncio.Event()
    ended = []

    async def call(index):
        try:
            await limits.hang()
        except asyncio.CancelledError:
            await release.wait()
            ended.append(index)
            raise RuntimeError("an error nobody waits for") from None

    with pytest.raises(AllCandidatesFailedError):
        await asample(call, quick(n=2))
    assert ended == []
    release.set()
    while len(ended) < 2:
        await asyncio.sleep(0)


def test_given_up_candidate_makes_no_further_attempt(limits):
    calls = []

    def call(index):
        calls.append(threading.current_thread())
        limits.hang_thread()
        raise ConnectionError

    with pytest.raises(AllCandidatesFailedError):
        sample(call, quick(n=1, attempts=5))
    limits.release()
    calls[0].join(60)  # an abandoned thread ends with its call
    assert len(calls) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_interrupts_propagate_at_once(error):
    release = threading.Event()
    ended = []

    def call(index):
        if index == 0:
            raise error
        release.wait(60)
        ended.append(index)
        return "slow"

    with pytest.raises(type(error)):
        sample(call, quick(n=2))
    assert ended == []
    release.set()


async def test_cancelling_the_caller_cancels_the_candidates():
    running: set[int] = set()

    async def call(index):
        running.add(index)
        try:
            await asyncio.Event().wait()
        finally:
            running.discard(index)

    task = asyncio.create_task(asample(call, quick(n=3)))
    while running != {0, 1, 2}:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert running == set()


def test_call_that_cancels_itself_is_a_failed_candidate(run):
    """It must not look to the caller as if somebody had cancelled the caller."""
    sampled = run(flaky(asyncio.CancelledError(), "text"), quick(n=2))
    assert [type(e) for e in sampled.causes] == [SamplingError]
    assert sampled.candidates[0].text == "text"


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("name", ["GraphInterrupt", "ParentCommand"])
def test_what_leaves_a_graph_is_refused_at_once(run, name, grouped):
    import langgraph.errors
    from langgraph.types import Command

    error = getattr(langgraph.errors, name)(Command())
    if grouped:  # as a task group raises it
        error = ExceptionGroup("g", [ValueError(), ExceptionGroup("inner", [error])])

    calls = []

    def call(index):
        calls.append(index)
        raise error

    with pytest.raises(NotRepeatableError, match=f"leaves its graph by {name}.*guard inside"):
        run(call, quick(n=1, attempts=3))
    assert len(calls) == 1


def test_an_answer_that_asks_a_human_is_refused_at_once(run):
    with pytest.raises(NotRepeatableError, match="to ask a human"):
        run(lambda i: {"messages": [], "__interrupt__": ["who?"]}, quick(n=2))


def test_refusals_in_a_group_of_errors_are_raised_at_once(run):
    calls = []

    def call(index):
        calls.append(index)
        raise ExceptionGroup("g", [NotRepeatableError("keeps state")])

    with pytest.raises(NotRepeatableError, match="keeps state"):
        run(call, quick(n=1, attempts=3))
    assert len(calls) == 1
    assert not must_propagate(ExceptionGroup("g", [ValueError(), ExceptionGroup("h", [OSError()])]))


def test_must_propagate_without_langgraph(monkeypatch):
    monkeypatch.delitem(sys.modules, "langgraph.errors", raising=False)
    assert must_propagate(KeyboardInterrupt())
    assert must_propagate(asyncio.CancelledError())
    assert not must_propagate(ValueError())


def test_context_variables_are_copied(run):
    var = contextvars.ContextVar("var", default="unset")
    var.set("caller's")

    def call(index):
        seen = var.get()
        var.set(f"candidate {index}")
        return seen

    assert {c.text for c in run(call, quick(n=3)).candidates} == {"caller's"}
    assert var.get() == "caller's"


def test_candidates_run_side_by_side():
    barrier = threading.Barrier(4)
    sampled = sample(lambda i: str(barrier.wait(60)), quick(n=4, attempts=1))
    assert len(sampled.candidates) == 4


def test_stop_iteration_is_a_failure_like_any_other(run):
    with pytest.raises(AllCandidatesFailedError):
        run(lambda i: next(iter(())), quick(n=1, attempts=1))


class TestBatched:
    def test_one_call_for_all(self, run):
        calls = []

        def batched(indices):
            calls.append(indices)
            return [f"answer {i}" for i in indices]

        sampled = run(pytest.fail, quick(n=3), batched)
        assert calls == [range(3)]
        assert [c.text for c in sampled.candidates] == ["answer 0", "answer 1", "answer 2"]

    def test_never_makes_single_calls(self, run):
        sampled = run(lambda i: "single", quick(n=2, batched="never"), pytest.fail)
        assert [c.text for c in sampled.candidates] == ["single", "single"]

    def test_failed_call_is_retried_then_fails_all(self, run):
        assert len(run(pytest.fail, quick(n=2), flaky(OSError(), ["a", "b"])).candidates) == 2
        with pytest.raises(AllCandidatesFailedError) as caught:
            run(pytest.fail, quick(n=3, attempts=2), flaky(OSError(), OSError()))
        assert [type(e) for e in caught.value.causes] == [OSError] * 3

    def test_blank_and_missing_answers_fail_one_by_one(self, run):
        sampled = run(pytest.fail, quick(n=4), lambda n: ["a", "", "c"])
        assert [c.index for c in sampled.candidates] == [0, 2]
        assert ["blank" in str(e) for e in sampled.causes] == [True, False]
        assert "returned 3 of 4" in str(sampled.causes[1])

    def test_surplus_answers_are_dropped(self, run):
        assert len(run(pytest.fail, quick(n=2), lambda n: ["a", "b", "c"]).candidates) == 2

    @pytest.mark.parametrize("result", [None, 7, []])
    def test_useless_result(self, run, result):
        with pytest.raises(AllCandidatesFailedError):
            run(pytest.fail, quick(n=2), lambda n: result)

    def test_only_the_deadline_limits_it(self, limits):
        def batched(indices):
            limits.hang_thread()

        with pytest.raises(AllCandidatesFailedError, match="TimeoutError") as caught:
            sample(pytest.fail, quick(n=2, timeout=0.02, deadline=3), batched=batched)
        assert "3.0 s (`SamplingPolicy.deadline`)" in str(caught.value.causes[0])


@settings(max_examples=40, deadline=None)
@given(
    script=st.lists(st.sampled_from(["text", "", None, ValueError, InvalidInputError]), min_size=1),
    minimum=st.integers(1, 4),
)
def test_nothing_is_lost(script, minimum):
    """Candidates and causes together are always n, and the error says which rule was broken."""

    def call(index):
        result = script[index]
        if isinstance(result, type):
            raise result("failed")
        return result

    n, good = len(script), script.count("text")
    policy = quick(n=n, min_candidates=min(minimum, n), attempts=1)
    if good == 0:
        with pytest.raises(AllCandidatesFailedError) as none:
            sample(call, policy)
        assert len(none.value.causes) == n
    elif good < policy.min_candidates:
        with pytest.raises(NotEnoughCandidatesError) as few:
            sample(call, policy)
        assert len(few.value.causes) == n - good
    else:
        sampled = sample(call, policy)
        texts = [i for i, result in enumerate(script) if result == "text"]
        assert [c.index for c in sampled.candidates] == texts
        assert len(sampled.candidates) + len(sampled.causes) == n
