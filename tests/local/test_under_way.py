"""Requests under way: each is answered once, whatever happens to the rows."""

from __future__ import annotations

from typing import Any

import pytest

from srr_guard.conversation import Conversation
from srr_guard.local.requests import Answer, Answers, Call, GenerationOptions, GenerationRequest
from srr_guard.local.under_way import UnderWay

OPTIONS = GenerationOptions(max_new_tokens=4, temperature=0.0, top_p=1.0)
REQUEST = GenerationRequest(conversation=Conversation.of("q"), options=OPTIONS)
FIRST: Any = "first row"
SECOND: Any = "second row"


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def request_under_way(told: list[Any]) -> UnderWay:
    made = UnderWay(Call(REQUEST, lambda: False, told.append, told.append), "m", prompt_tokens=3)
    made.add(FIRST, lambda row: Answer("one", 1, "stop"))
    return made


def test_answers_are_handed_over_in_the_order_of_the_rows(
    request_under_way: UnderWay, told: list[Any]
) -> None:
    request_under_way.add(SECOND, lambda row: Answer("two", 1, "length"))
    request_under_way.finish(SECOND)
    assert told == []
    request_under_way.finish(FIRST)
    request_under_way.close()
    request_under_way.fail(ValueError("late"))
    (answers,) = told
    assert isinstance(answers, Answers)
    assert [answer.text for answer in answers.answers] == ["one", "two"]
    assert (answers.model_name, answers.prompt_tokens) == ("m", 3)


def test_what_is_given_up_has_the_answers_so_far(
    request_under_way: UnderWay, told: list[Any]
) -> None:
    request_under_way.close()
    assert [answer.text for answer in told[0].answers] == ["one"]


def test_an_answer_that_cannot_be_made_is_an_error_and_no_endless_wait(
    request_under_way: UnderWay, told: list[Any]
) -> None:
    def fail(row: Any) -> Answer:
        raise RuntimeError("the loop is closed")

    request_under_way.add(SECOND, fail)
    request_under_way.close()
    assert [type(one) for one in told] == [RuntimeError]
    request_under_way.close()
    assert len(told) == 1
