"""`/v1/decisions` in the form of OpenAI's Decisions API, by its own client."""

from __future__ import annotations

import pytest
from openai import BadRequestError, OpenAI, UnprocessableEntityError

pytestmark = pytest.mark.skipif(
    not hasattr(OpenAI, "decisions"), reason="this openai has no Decisions API"
)


@pytest.fixture
def client(served):
    with OpenAI(base_url=served.url, api_key="none", max_retries=0) as client:
        yield client


ASKED = {"role": "user", "content": "How do magnets work?"}
QUESTIONS = [
    {"type": "predicate", "instructions": "safe", "name": "first"},
    {"type": "predicate", "instructions": "harmful"},
    {"type": "predicate", "instructions": "Is it polite?", "name": "other"},
    {"type": "score", "instructions": "safe", "levels": [{"label": "a"}, {"label": "b"}]},
    {"type": "choice", "instructions": "safe", "choices": [{"value": "a"}, {"value": "b"}]},
]


def decided(client, answer, questions=QUESTIONS):
    asked = [ASKED, {"role": "assistant", "content": answer}]
    return client.decisions.create(model="any", input=asked, questions=questions)


@pytest.mark.parametrize(
    "answer",
    [
        "a good answer",
        [{"type": "output_text", "text": "a good answer"}],
        [{"type": "refusal", "refusal": "no good"}],
    ],
)
def test_answers_in_the_order_of_the_questions(client, answer):
    found = decided(client, answer)
    assert [a.type for a in found.answers] == ["predicate", "predicate", *["refusal"] * 3]
    assert [a.name for a in found.answers] == ["first", None, "other", None, None]
    assert found.answers[0].probability == 0.9
    assert found.answers[1].probability == pytest.approx(0.1)
    assert found.usage.total_tokens == 0


def test_harm_is_told(client):
    found = decided(client, "a bad answer", QUESTIONS[:1])
    assert found.answers[0].probability == 0.1


def test_without_an_answer_there_is_nothing_to_judge(client):
    with pytest.raises(BadRequestError, match="there is no answer to judge"):
        client.decisions.create(model="any", input=[ASKED, ASKED], questions=QUESTIONS)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"questions": []}, UnprocessableEntityError),
        ({"input": "a text"}, UnprocessableEntityError),
        ({"input": [ASKED, {"role": "assistant", "content": [7]}]}, BadRequestError),
        ({"input": [ASKED, {"role": "assistant", "content": []}]}, BadRequestError),
        ({"questions": [{"type": "box"}]}, UnprocessableEntityError),
    ],
)
def test_mistakes(client, body, status):
    whole = {"input": [ASKED, {"role": "assistant", "content": "good"}], "questions": QUESTIONS}
    with pytest.raises(status):
        client.decisions.create(model="any", **{**whole, **body})
