"""`CircuitBreaker`: when it opens, who may try, and that it never stays shut."""

from __future__ import annotations

import itertools

import pytest

from srr_guard.breaker import CircuitBreaker, Permit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(failures=3, rest=10.0, clock=clock)


def permitted(breaker: CircuitBreaker) -> Permit:
    permit = breaker.permit()
    assert permit is not None
    return permit


def opened(breaker: CircuitBreaker) -> CircuitBreaker:
    for _ in range(3):
        breaker.failed(permitted(breaker))
    assert breaker.permit() is None
    return breaker


def test_a_success_in_between_begins_the_count_anew(breaker):
    for _ in range(5):
        breaker.failed(permitted(breaker))
        breaker.failed(permitted(breaker))
        breaker.succeeded(permitted(breaker))
    assert breaker.wait == 0.0


def test_failures_of_one_cause_are_one_failure(breaker):
    for _ in range(10):
        breaker.failed(permitted(breaker), by="one request")
    assert breaker.wait == 0.0
    breaker.failed(permitted(breaker), by="another")
    breaker.failed(permitted(breaker), by="a third")
    assert breaker.wait == 1.0


def test_rests_grow_up_to_the_longest_and_begin_anew(breaker, clock):
    opened(breaker)
    rests = []
    for _ in range(6):
        rests.append(breaker.wait)
        clock.now += breaker.wait
        breaker.failed(permitted(breaker), by="always the same")
    assert rests == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    clock.now += 10.0
    breaker.succeeded(permitted(breaker))
    assert opened(breaker).wait == 1.0


def test_a_rest_shorter_than_the_first(clock):
    breaker = CircuitBreaker(failures=1, rest=0.25, clock=clock)
    breaker.failed(permitted(breaker))
    assert breaker.wait == 0.25


def test_one_trial_at_a_time(breaker, clock):
    opened(breaker)
    clock.now += 1.0
    assert breaker.wait == 0.0
    trial = permitted(breaker)
    assert trial.is_trial
    clock.now += 1000.0
    assert (breaker.permit(), breaker.wait) == (None, 1.0)
    breaker.succeeded(trial)
    assert not permitted(breaker).is_trial


def test_an_abandoned_trial_is_anybodys(breaker, clock):
    opened(breaker)
    clock.now += 1.0
    first = permitted(breaker)
    breaker.abandoned(first)
    assert breaker.wait == 0.0
    second = permitted(breaker)
    breaker.abandoned(first)  # told twice
    assert breaker.permit() is None
    breaker.failed(second)
    assert breaker.wait == 2.0


def test_late_failures_lengthen_no_rest_and_end_no_trial(breaker, clock):
    late = [permitted(breaker) for _ in range(5)]
    opened(breaker)
    breaker.failed(late[0])
    assert breaker.wait == 1.0
    clock.now += 1.0
    trial = permitted(breaker)
    breaker.failed(late[1])
    assert breaker.permit() is None
    breaker.succeeded(trial)
    for permit in late[2:]:
        breaker.failed(permit)
    assert breaker.wait == 0.0


def test_a_late_success_closes(breaker, clock):
    late = permitted(breaker)
    opened(breaker)
    breaker.succeeded(late)
    assert breaker.wait == 0.0


def test_a_late_success_ends_no_rest_that_was_asked_for(breaker, clock):
    first, second, third = (permitted(breaker) for _ in range(3))
    breaker.rest(7.0)
    breaker.succeeded(first)
    breaker.failed(second)
    assert breaker.wait == 7.0
    breaker.rest(3.0)
    assert breaker.wait == 7.0
    clock.now += 7.0
    trial = permitted(breaker)
    breaker.succeeded(third)
    assert breaker.permit() is None
    breaker.succeeded(trial)
    assert breaker.wait == 0.0


def test_as_a_last_resort_a_trial_comes_every_second(breaker, clock):
    opened(breaker)
    tried = []
    for _ in range(40):
        if (trial := breaker.permit(last_resort=True)) is not None:
            assert trial.is_trial
            assert breaker.permit(last_resort=True) is None
            assert breaker.last_resort_wait == 1.0
            breaker.failed(trial)
            tried.append(clock.now)
        clock.now += 0.25
    assert tried == [101.0 + i for i in range(9)]
    assert breaker.wait > breaker.last_resort_wait


def test_a_last_resort_that_answers_closes(breaker, clock):
    opened(breaker)
    clock.now += 1.0
    breaker.failed(permitted(breaker))
    clock.now += 1.0
    assert breaker.wait == 1.0
    trial = breaker.permit(last_resort=True)
    breaker.succeeded(trial)
    assert breaker.wait == breaker.last_resort_wait == 0.0


def test_a_rest_that_was_asked_for_is_kept_as_a_last_resort_too(breaker, clock):
    breaker.rest(7.0)
    clock.now += 6.5
    assert breaker.permit(last_resort=True) is None
    assert breaker.last_resort_wait == 0.5
    clock.now += 0.5
    trial = breaker.permit(last_resort=True)
    breaker.failed(trial)
    assert breaker.last_resort_wait == 1.0


def test_a_last_resort_waits_no_longer_than_the_longest_rest(clock):
    breaker = CircuitBreaker(failures=1, rest=0.25, clock=clock)
    breaker.failed(permitted(breaker))
    assert breaker.last_resort_wait == 0.25


EVENTS = (
    "begin",
    "last resort",
    "succeeded",
    "failed",
    "abandoned",
    "newest failed",
    "rest",
    "tick",
)


@pytest.mark.parametrize("start", ["closed", "open"])
def test_in_every_order_of_events_one_trial_at_most_and_never_stuck(start):
    for events in itertools.product(EVENTS, repeat=5):
        clock = Clock()
        breaker = CircuitBreaker(failures=2, rest=2.0, clock=clock)
        under_way = [permitted(breaker), permitted(breaker)]
        if start == "open":
            breaker.failed(permitted(breaker))
            breaker.failed(permitted(breaker))
            clock.now += 1.0
        for event in events:
            if event == "tick":
                clock.now += 1.0
            elif event == "rest":
                breaker.rest(1.0)
            elif event in ("begin", "last resort"):
                last = event == "last resort"
                assert breaker.last_resort_wait <= breaker.wait, events
                allowed = (breaker.last_resort_wait if last else breaker.wait) == 0.0
                permit = breaker.permit(last_resort=last)
                assert (permit is not None) == allowed, events
                if permit is not None:
                    under_way.append(permit)
                    again = permit.is_trial and breaker.permit(last_resort=True)
                    assert not again, events
            elif under_way:
                permit = under_way.pop(-1 if event == "newest failed" else 0)
                getattr(breaker, event.split()[-1])(permit)
        for permit in under_way:
            breaker.abandoned(permit)
        clock.now += 4.0  # more than all rests that were asked for
        assert permitted(breaker) is not None, events
