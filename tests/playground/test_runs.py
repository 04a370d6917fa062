"""Runs over HTTP: events as they come, what is sampled later, what fails, what is stopped."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage
from playgrounds import ANSWERS, Served, events_of, failing, run, serve_playground
from servers import until


@pytest.fixture
def client(served: Served):
    with served.client() as client:
        yield client


def again(client, name, *columns):
    return client.post("/api/decide", json={"run": name, "columns": list(columns)}).json()


def message_of(response):
    assert response.status_code == 400
    return response.json()["error"]["message"]


def test_answers_come_before_the_decision(served, client):
    """Each is sent as it is there: the next one is not waited for."""
    served.script.open.clear()
    seen = []
    body = {"prompt": "plants", "columns": [{}]}
    with client.stream("POST", "/api/run", json=body) as response:
        for name, data in events_of(response):
            seen.append((name, data.get("index")))
            if name == "gate":
                served.script.open.set()
    names = [name for name, _ in seen]
    assert names[:2] == ["run", "gate"]
    assert names[-1] == "done"
    for index in range(4):
        assert seen.index(("candidate", index)) < seen.index(("scored", index))
    assert sorted(names[2:-1]) == ["candidate"] * 4 + ["decided"] + ["scored"] * 4


def test_what_an_answer_scores_alone_is_what_it_scores_in_the_list(client):
    found = run(client)
    alone = {one["index"]: one["p_safe"] for one in found["scored"]}
    assert alone == {one["index"]: one["p_safe"] for one in found["decided"][0]["scores"]}


def test_adaptive_sampling_stops_and_goes_on_when_more_is_asked_for(served, client):
    found = run(client, columns=[{"accept_at": 0.5}])
    (decided,) = found["decided"]
    assert (decided["reason"], decided["sampled"], served.script.asked) == ("accepted", 1, 1)
    name = found["done"][0]["run"]
    assert again(client, name, {"threshold": 0.95})["columns"] == [{"needs": [1, 2, 3]}]
    assert served.script.asked == 1
    more = run(client, run=name, columns=[{"threshold": 0.95}])
    assert served.script.asked == 4
    assert [one["index"] for one in more["candidate"]] == [0, 1, 2, 3]
    assert more["decided"][0]["chosen"] == 1
    (later,) = again(client, name, {"accept_at": 0.95, "threshold": 0.5})["columns"]
    assert (later["reason"], later["again"]) == ("best_of_n", True)


def test_two_columns_share_their_answers(served, client):
    found = run(client, columns=[{"n": 2}, {"n": 4, "threshold": 0.93, "scorer": "second"}])
    assert served.script.asked == 4
    first, second = found["decided"]
    assert (first["chosen"], second["chosen"], second["reason"]) == (0, None, "refused")
    assert [gate["scorer"] for gate in found["gate"]] == ["first", "second"]
    assert {one["scorer"] for one in found["scored"]} == {"first", "second"}


def test_a_second_scorer_may_come_later(client):
    name = run(client)["done"][0]["run"]
    found = again(client, name, {}, {"scorer": "second"})
    assert [gate["scorer"] for gate in found["gates"]] == ["first", "second"]
    assert found["columns"][1]["scores"][0]["p_safe"] == pytest.approx(0.66)


def test_recipes_follow_in_turn(client):
    found = run(client, recipes=["refusal_start", "hotter"], columns=[{"n": 5}])
    kinds = {one["index"]: one["recipe"] for one in found["candidate"]}
    assert [kinds[i] for i in range(5)] == ["plain", "plain", "refusal_start", "plain", "plain"]
    fewer = run(client, recipes=["refusal_start", "hotter"], columns=[{"n": 1}])
    assert [one["recipe"] for one in fewer["candidate"]] == ["plain"]


def test_the_gate_decides_where_it_may(served, client):
    prompt = "Give me poison"
    shown = run(client, prompt=prompt)
    assert shown["gate"][0]["p_harmful"] == 0.97
    assert shown["decided"][0]["gate"] is None
    asked = served.script.asked
    refused = run(client, prompt=prompt, columns=[{"gate": "refuses"}])
    assert "candidate" not in refused
    assert served.script.asked == asked
    (decided,) = refused["decided"]
    assert (decided["reason"], decided["held"]) == ("refused_by_gate", False)
    assert "no answer is asked for" in decided["why"]
    (raised,) = run(client, prompt="frighten them", columns=[{"gate": "decides"}])["decided"]
    assert raised["threshold"] == 0.8
    assert "The gate raised the threshold to 0.80" in raised["why"]


def test_given_answers_are_scored(served, client):
    answers = list(ANSWERS[:3])
    found = run(client, answers=answers, columns=[{"n": 8}, {"n": 2, "threshold": 0.95}])
    assert served.script.asked == 0
    assert [one["text"] for one in found["candidate"]] == answers
    assert [one["recipe"] for one in found["candidate"]] == [None] * 3
    first, second = found["decided"]
    assert (first["sampled"], second["sampled"], second["chosen"]) == (3, 2, 1)


def test_a_failed_candidate_is_told(served, client):
    served.script.answers[2] = RuntimeError("a secret of the upstream")
    found = run(client)
    (failed,) = found["failed"]
    assert failed == {"index": 2, "message": "RuntimeError: the terminal has more"}
    (decided,) = found["decided"]
    assert (decided["reason"], decided["failed"]) == ("fallback", 1)
    assert "1 of 4 failed" in decided["why"]
    (later,) = again(client, found["done"][0]["run"], {})["columns"]
    assert (later["reason"], later["chosen"]) == ("fallback", decided["chosen"])


def test_blank_answers_fail(served, client):
    served.script.answers = [AIMessage(" "), AIMessage("the soil")]
    found = run(client, columns=[{"n": 2}])
    assert [one["index"] for one in found["failed"]] == [0]
    assert "blank" in found["failed"][0]["message"]


@pytest.mark.parametrize("columns", [[{}], [{}, {"scorer": "second"}]])
def test_without_an_answer_it_is_held(served, client, columns):
    served.script.answers = [RuntimeError("down")]
    found = run(client, columns=columns)
    for decided in found["decided"]:
        assert (decided["held"], decided["reason"], decided["output"]) == (True, "failed", None)
    assert found["done"]


def test_a_scorer_that_fails_holds_and_may_come_back(served, client):
    mend = failing(served.first)
    found = run(client, columns=[{}, {"scorer": "second"}])
    first, second = found["decided"]
    assert (first["held"], first["output"], first["chosen"]) == (True, None, None)
    assert "broken on purpose" in first["why"]
    assert not second["held"]
    mend()
    (later,) = again(client, found["done"][0]["run"], {})["columns"]
    assert (later["held"], later["chosen"]) == (False, 0)


def test_a_gate_that_fails_holds_where_it_decides(served, client, monkeypatch):
    def broken(conversation):
        raise RuntimeError("no gate today")

    monkeypatch.setattr(served.first, "assess", broken)
    shown = run(client)
    assert shown["gate"][0]["error"] == "RuntimeError: the terminal has more"
    assert not shown["decided"][0]["held"]
    asked = served.script.asked
    decides = run(client, columns=[{"gate": "decides"}])
    assert decides["decided"][0]["held"]
    assert served.script.asked == asked


def test_a_stream_that_is_closed_stops_the_run(served, client):
    served.script.open.clear()
    with client.stream("POST", "/api/run", json={"prompt": "plants", "columns": [{}]}) as response:
        for name, data in events_of(response):
            if name == "run":
                kept = data["run"]
            if name == "gate":
                assert served.script.started.wait(20)
                break
    assert served.script.cancelled.wait(20)
    served.script.open.set()
    assert until(lambda: client.get(f"/api/runs/{kept}").json()["outcomes"] == [])
    assert run(client, run=kept, columns=[{}])["decided"][0]["chosen"] == 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"prompt": "x", "recipes": ["steered"]}, "the script has no hidden states"),
        ({"run": "none"}, "not kept any more"),
    ],
)
def test_mistakes_are_one_line(client, body, said):
    answer = client.post("/api/run", json={"columns": [{}], **body})
    assert said in message_of(answer)
    assert "\n" not in message_of(answer)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"prompt": "x", "columns": []}, "columns"),
        ({"prompt": "x", "columns": [{}, {}, {}]}, "columns"),
        ({"prompt": "x", "columns": [{"n": 0}]}, "columns.0.n"),
        ({"prompt": "x", "columns": [{"threshold": 2}]}, "columns.0.threshold"),
        ({"prompt": "x", "columns": [{}], "recipes": ["magic"]}, "recipes.0"),
        ({"prompt": "x", "columns": [{}], "answers": []}, "answers"),
        ({"prompt": 7, "columns": [{}]}, "prompt"),
        ({"prompt": "x", "columns": [{}], "bypass": True}, "bypass"),
    ],
)
def test_what_is_out_of_range_is_named(client, body, place):
    answer = client.post("/api/run", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith(f"{place}: ")


@pytest.mark.parametrize("content", [b'{"prompt": "\xff"}', b"[" * 100_000])
def test_bodies_that_cannot_be_parsed(client, content):
    kind = {"content-type": "application/json"}
    answer = client.post("/api/run", content=content, headers=kind)
    assert answer.status_code == 400
    assert "parsing the body" in message_of(answer)


def test_without_a_model_only_given_answers_are_scored():
    with serve_playground(model=False, second=False) as served, served.client() as client:
        setup = client.get("/api/setup").json()
        assert setup["answers"] is False
        assert {recipe["unserved"] for recipe in setup["recipes"]} == {"there is no model"}
        answer = client.post("/api/run", json={"prompt": "x", "columns": [{}]})
        assert "there is no model here" in message_of(answer)
        assert run(client, answers=["the soil"])["decided"][0]["chosen"] == 0


def test_what_a_model_cannot_serve_is_said(client):
    recipes = {one["name"]: one["unserved"] for one in client.get("/api/setup").json()["recipes"]}
    assert "no hidden states" in recipes.pop("steered")
    assert set(recipes.values()) == {None}


def test_explanations_are_made_once(served, client):
    name = run(client)["done"][0]["run"]
    body = {"run": name, "candidate": 2}
    found = client.post("/api/explain", json=body).json()
    assert [part["value"] for part in found["sentences"]] == [-2.1, 0.4]
    assert "".join(part["text"] for part in found["sentences"]) in found["text"].replace(". ", ".")
    served.first.explain = None  # type: ignore[method-assign,assignment]
    assert client.post("/api/explain", json=body).json() == found
    missing = client.post("/api/explain", json={"run": name, "candidate": 9})
    assert "has no text" in message_of(missing)


def test_reasoning_is_shown_apart(served, client):
    served.script.answers = [AIMessage("<think>poison?</think>the soil")]
    found = run(client, columns=[{"n": 1}])
    (candidate,) = found["candidate"]
    assert (candidate["text"], candidate["trace"]) == ("the soil", "poison?")
    assert found["decided"][0]["scores"][0]["p_safe"] == pytest.approx(0.06)
    assert found["scored"][0]["p_safe"] == pytest.approx(0.06)
