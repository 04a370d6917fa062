"""`/v1/score`, `/v1/rank`, `/v1/explain` and `/v1/checks`, over HTTP."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from servers import ASK, calls, gateway, says

from srr_guard import Ranking
from srr_guard.testing import FakeScorer

BLANK = {"turns": [{"role": "user", "text": " \u200b"}]}
TEXTS = ["a bad answer", "a good answer"]


def post(http, served, path, body):
    return http.post(f"{served.url}/{path}", json=body)


CONVERSATIONS: list[Any] = [
    "How do magnets work?",
    ASK,
    {"turns": [{"role": "user", "text": "How do magnets work?"}]},
]


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_score(http, served, conversation):
    answer = post(http, served, "score", {"conversation": conversation, "candidates": TEXTS})
    ranking = Ranking.model_validate(answer.json())
    assert (ranking.order, ranking.p_safe) == ((1, 0), (0.1, 0.9))


UNPARSED = [b'{"conversation": "\xff"}', b"[" * 100_000, b'{"conversation": ' + b"9" * 5000 + b"}"]


@pytest.mark.parametrize("path", ["score", "checks", "decisions"])
@pytest.mark.parametrize("content", UNPARSED, ids=["no UTF-8", "deep", "long number"])
def test_bodies_that_cannot_be_parsed(http, served, path, content):
    kind = {"content-type": "application/json"}
    answer = http.post(f"{served.url}/{path}", content=content, headers=kind)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_rank(http, served):
    body = post(http, served, "rank", {"conversation": "q", "candidates": TEXTS}).json()
    assert [result["index"] for result in body["results"]] == [1, 0]
    assert body["results"][0]["p_safe"] == 0.9
    assert "a good answer" not in str(body)


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("score", {}, "conversation: Field required"),
        ("score", {"conversation": "q"}, "candidates: Field required"),
        ("score", {"conversation": "q", "candidates": []}, "candidates"),
        ("score", {"conversation": "q", "candidates": "text"}, "candidates"),
        ("score", {"conversation": "q", "candidates": [1]}, "candidates.0"),
        ("score", {"conversation": 1, "candidates": ["a"]}, "conversation"),
        ("score", {"conversation": "q", "candidates": ["a"], "extra": 1}, "extra"),
        ("rank", {"conversation": {"turns": []}, "candidates": ["a"]}, "conversation"),
        ("checks", {"conversation": "q", "answer": "a", "turns": "some"}, "turns"),
    ],
)
def test_bodies_of_the_wrong_shape(http, served, path, body, said):
    answer = post(http, served, path, body)
    assert answer.status_code == 422
    assert said in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("score", {"conversation": "", "candidates": ["a"]}, "the prompt is empty"),
        ("score", {"conversation": BLANK, "candidates": ["a"]}, "the prompt is empty"),
        ("checks", {"conversation": BLANK, "answer": "a"}, "the prompt is empty"),
        ("score", {"conversation": [], "candidates": ["a"]}, "no messages"),
        ("score", {"conversation": [{"x": 1}], "candidates": ["a"]}, "not a list of messages"),
        ("score", {"conversation": "q", "candidates": ["a"] * 65}, "65 texts are more than 64"),
        ("checks", {"conversation": "q"}, "answer is missing"),
        ("checks", {"conversation": ASK}, "nothing to check"),
        ("checks", {"conversation": "q", "answer": " "}, "blank"),
        (
            "checks",
            {"conversation": "q", "answer": "a", "srr_guard": {"n": 2}},
            "srr_guard.n changes",
        ),
        (
            "checks",
            {"conversation": "q", "answer": "a", "srr_guard": {"accept_at": 0.9}},
            "srr_guard.accept_at changes nothing in a check",
        ),
        ("checks", {"conversation": [says("hi")]}, "nothing to check"),
    ],
)
def test_bodies_that_make_no_sense(http, served, path, body, said):
    answer = post(http, served, path, body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_no_answer_holds_the_text_it_complains_about(http, served):
    body = {"conversation": "a secret", "candidates": [{"secret": "text"}]}
    assert "secret" not in post(http, served, "score", body).text


def test_bad_json_is_a_400(http, served):
    headers = {"content-type": "application/json"}
    answer = http.post(f"{served.url}/score", content=b"{", headers=headers)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ({"conversation": "q", "answer": "a good answer"}, "pass"),
        ({"conversation": "q", "answer": "a bad answer"}, "hold"),
        ({"conversation": ASK, "answer": says("a good answer")}, "pass"),
        ({"conversation": ASK, "answer": calls("good_tool", "{}")}, "pass"),
        ({"conversation": ASK, "answer": calls("bad_tool", "{}")}, "hold"),
        ({"conversation": [*ASK, says("a good answer")]}, "pass"),
        ({"conversation": [*ASK, says("a bad answer")]}, "hold"),
        (
            {
                "conversation": {
                    "turns": [
                        {"role": "user", "text": "q"},
                        {"role": "tool", "text": "a good result"},
                    ]
                }
            },
            "pass",
        ),
        (
            {
                "conversation": [
                    *ASK,
                    calls("t", "{}"),
                    {"role": "tool", "tool_call_id": "call_1", "content": "a bad page"},
                ]
            },
            "hold",
        ),
        (
            {
                "conversation": "q",
                "answer": says(None, content=[{"type": "image_url", "image_url": {"url": "x"}}]),
            },
            "hold",
        ),
        (
            {"conversation": "q", "answer": "a good answer", "srr_guard": {"threshold": 0.95}},
            "hold",
        ),
    ],
)
def test_checks(http, served, body, outcome):
    if isinstance(body.get("answer"), dict) and body["answer"].get("content") is None:
        body["answer"].pop("content", None)
    answer = post(http, served, "checks", body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outcome"] == outcome
    assert answer.json()["policy"] == "default"


def test_checks_of_a_whole_conversation(http, served):
    turns = [*ASK, says("a good answer"), *ASK, says("a bad answer"), *ASK]
    body = post(http, served, "checks", {"conversation": turns, "turns": "all"}).json()
    assert body["outcome"] == "hold"
    assert [(r["turn"], r["outcome"]) for r in body["results"]] == [(1, "pass"), (3, "hold")]


@pytest.mark.parametrize(
    ("bounds", "verdict"), [((0.2, 0.95), "uncertain"), ((0.95, 0.99), "hold")]
)
def test_an_answer_that_the_scorer_does_not_pass_is_uncertain(http, bounds, verdict):
    class Bounded(FakeScorer):
        async def ascore(self, conversation, candidates):
            ranking = await super().ascore(conversation, candidates)
            return ranking.model_copy(update={"bounds": bounds})

    with gateway(scorer=Bounded(lambda prompt, answer: 0.9)) as served:
        body = post(http, served, "checks", {"conversation": "q", "answer": "a"}).json()
    assert (body["outcome"], body["results"][0]["verdict"]) == ("uncertain", verdict)


def test_a_check_never_raises_for_what_it_finds(http):
    decision = {"below_threshold": "raise", "unreadable": "raise"}
    with gateway(policies={"default": {"decision": decision}}) as served:
        body = post(http, served, "checks", {"conversation": "q", "answer": "bad"}).json()
        assert body["outcome"] == "hold"


def test_lone_surrogates_are_checked_where_requests_are_only_observed(http):
    asked = {"turns": [{"role": "user", "text": "q\ud800"}]}
    with gateway(policies={"default": {"decision": {"mode": "observe"}}}) as served:
        content = json.dumps({"conversation": asked, "answer": "bad\ud800"})
        headers = {"content-type": "application/json"}
        answer = http.post(f"{served.url}/checks", content=content, headers=headers)
    assert (answer.status_code, answer.json()["results"][0]["would_have"]) == (200, "refused")


def test_settings_that_change_no_check_are_refused_though_requests_may_set_them(http):
    overrides = {"allow": ["prefer", "threshold"]}
    with gateway(policies={"default": {"overrides": overrides}}) as served:
        body = {"conversation": "q", "answer": "a", "srr_guard": {"prefer": "first"}}
        answer = post(http, served, "checks", body)
    assert answer.status_code == 400
    assert "srr_guard.prefer changes nothing" in answer.json()["error"]["message"]


def test_explain_needs_a_scorer_that_can(http, served):
    answer = post(http, served, "explain", {"conversation": "q", "answer": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_supported")


def test_explain(http):
    class Explaining(FakeScorer):
        def explain(self, conversation, candidate):
            return SimpleNamespace(model_dump=lambda mode: {"p_safe": 0.5, "asked": candidate})

    with gateway(scorer=Explaining(lambda prompt, answer: 0.9)) as served:
        body = post(http, served, "explain", {"conversation": "q", "answer": "a"}).json()
    assert body == {"p_safe": 0.5, "asked": "a"}
