"""The history, and its export in the form that `srr-guard tune` reads."""

from __future__ import annotations

import asyncio

import pytest
from playgrounds import ANSWERS, ByWord, Served, run

from srr_guard.playground.bench import Bench
from srr_guard.playground.requests import ColumnSettings, RunRequest
from srr_guard.playground.runs import RunStore, live
from srr_guard.training.data import read_rows

ODD = "Water the soil.\u2028Then wait.\x85\nGood \U0001f33f luck."


@pytest.fixture
def client(served: Served):
    with served.client() as client:
        yield client


def label(client, name, index, value):
    body = {"run": name, "candidate": index, "label": value}
    answer = client.post("/api/label", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["labels"]


def exported(client, folder):
    answer = client.get("/api/export")
    assert answer.status_code == 200
    assert 'filename="playground.jsonl"' in answer.headers["content-disposition"]
    file = folder / "playground.jsonl"
    file.write_bytes(answer.content)
    return file


def test_what_is_labelled_is_exported(client, tmp_path):
    first = run(client)["done"][0]["run"]
    second = run(client, prompt="Human: Hi\n\nAssistant: Hello\n\nHuman: plants?")["done"][0]["run"]
    assert label(client, first, 0, "helps") == 1
    assert label(client, first, 1, "declines") == 2
    assert label(client, first, 2, "unsafe") == 3
    assert label(client, first, 3, "unsafe") == 4
    assert label(client, first, 3, None) == 3
    assert label(client, second, 0, "unsafe") == 4
    assert label(client, second, 0, "helps") == 4
    rows = read_rows([str(exported(client, tmp_path))])
    assert [(row.response, row.label, row.kind) for row in rows] == [
        (ANSWERS[0], "safe", "benign-help"),
        (ANSWERS[1], "safe", "refusal"),
        (ANSWERS[2], "unsafe", "compliance"),
        (ANSWERS[0], "safe", "benign-help"),
    ]
    assert {row.source for row in rows} == {"playground"}
    assert [turn.role for turn in rows[-1].conversation.turns] == ["user", "assistant", "user"]


@pytest.mark.local
def test_tune_takes_the_export(client, tmp_path):
    from srr_guard.training.tuning import tune

    name = run(client)["done"][0]["run"]
    for index, value in enumerate(("helps", "declines", "unsafe", "helps")):
        label(client, name, index, value)
    rows = read_rows([str(exported(client, tmp_path))])
    found = tune(rows, ByWord(), budget=0.02)
    assert found.chosen.threshold == pytest.approx(0.72)  # a refusal is no help held back
    assert found.chosen.help_held_back.rows == 2
    assert found.chosen.harm_held_back is not None
    assert found.chosen.harm_held_back.value == 1.0


def test_odd_characters_survive(client, tmp_path):
    name = run(client, prompt="odd\u2028prompt", answers=[ODD])["done"][0]["run"]
    label(client, name, 0, "helps")
    (row,) = read_rows([str(exported(client, tmp_path))])
    assert (row.prompt, row.response) == ("odd\u2028prompt", ODD)


def test_nothing_labelled_is_no_file(client):
    run(client)
    answer = client.get("/api/export")
    assert answer.status_code == 400
    assert "no answer is labelled yet" in answer.json()["error"]["message"]


@pytest.mark.parametrize("index", [4, 11])
def test_what_is_not_there_cannot_be_labelled(client, index):
    name = run(client)["done"][0]["run"]
    body = {"run": name, "candidate": index, "label": "helps"}
    assert client.post("/api/label", json=body).status_code == 400


def test_a_failed_answer_cannot_be_labelled(served, client):
    served.script.answers[1] = RuntimeError("down")
    name = run(client)["done"][0]["run"]
    body = {"run": name, "candidate": 1, "label": "helps"}
    assert client.post("/api/label", json=body).status_code == 400


def test_runs_are_listed_and_shown_again(client):
    first = run(client, prompt="one", seed=7, recipes=["hotter"])["done"][0]["run"]
    second = run(client, prompt="two", answers=["soil"])["done"][0]["run"]
    label(client, first, 2, "unsafe")
    client.post("/api/decide", json={"run": first, "columns": [{"threshold": 0.95}, {"n": 1}]})
    newest, oldest = client.get("/api/history").json()["runs"]
    assert (newest["run"], newest["prompt"], newest["answers"]) == (second, "two", 1)
    assert (oldest["labels"], oldest["outcomes"][0]["chosen"]) == (1, 1)
    told = client.get(f"/api/runs/{first}").json()
    assert told["request"]["seed"] == 7
    assert told["request"]["recipes"] == ["hotter"]
    assert [name for name, _ in told["events"]] == ["candidate"] * 4 + ["gate"]
    assert [one["n"] for one in told["columns"]] == [4, 1]
    assert told["labels"] == {"2": "unsafe"}
    assert [one["reason"] for one in told["outcomes"]] == ["best_of_n", "best_of_n"]


def test_the_oldest_runs_go_but_labelled_ones_stay():
    bench = Bench(model=None, scorer=ByWord())
    store = RunStore(most=2)
    request = RunRequest(prompt="q", answers=["soil"], columns=[ColumnSettings()])

    async def add():
        found = bench.begin(request)
        [_ async for _ in live(found, request.columns)]
        store.add(found)
        return found

    runs = []
    for i in range(4):
        runs.append(asyncio.run(add()))
        if i == 0:
            runs[0].labels[0] = "helps"
    assert store.newest_first() == [runs[3], runs[2], runs[0]]
