"""A fleet on a real Ray cluster: replicas killed under load, conversations that stay."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
from ray import serve
from slow_scorer import Noting
from srr_guard_integrations.ray_serve import FleetSettings, RayScorer, affinity, fleet

from srr_guard.bulk import rank_file
from srr_guard.errors import InvalidInputError
from srr_guard.scorer import RemoteScorer
from srr_guard.serving import GatewayConfig

pytestmark = pytest.mark.usefixtures("cluster")
SMALL = FleetSettings(scorers=2, gateways=2, scorer_cpus=0.5)


@pytest.fixture(scope="module")
def notes(cluster, tmp_path_factory):
    file = tmp_path_factory.mktemp("notes") / "scored.txt"
    file.touch()
    app = fleet(SMALL, config=GatewayConfig(), make_scorer=lambda: Noting(file, 0.02))
    serve.run(app, name="fleet")
    yield file
    serve.delete("fleet")


@pytest.fixture
def scorer(notes):
    return RayScorer(serve.get_deployment_handle("scorer", "fleet"), attempts=8)


def scored(notes):
    return [line.split(maxsplit=1) for line in notes.read_text().splitlines()]


def test_turns_of_a_conversation_stay_on_one_replica(notes, scorer):
    turns = [("user", "about-0")]
    for i in range(4):
        scorer.score(turns, [f"conversation-{i}"])
        turns += [("assistant", f"a-{i}"), ("user", f"more-{i}")]
    for i in range(40):
        scorer.score(f"other-{i}", [f"other-{i}"])
    places = defaultdict(set)
    for pid, answer in scored(notes):
        places[answer.split("-")[0]].add(pid)
    assert len(places["conversation"]) == 1
    assert len(places["other"]) == 2


def test_a_replica_killed_under_load_loses_and_doubles_nothing(notes, scorer):
    before = len(scored(notes))

    async def load():
        tasks = [asyncio.create_task(scorer.ascore(f"q{i}", [f"a-{i}"])) for i in range(400)]
        while len(scored(notes)) < before + 40:
            await asyncio.sleep(0.005)
        victim = int(scored(notes)[-1][0])
        os.kill(victim, signal.SIGKILL)
        return victim, await asyncio.gather(*tasks)

    victim, rankings = asyncio.run(load())
    assert [ranking.p_safe for ranking in rankings] == [(i / 1e4,) for i in range(400)]
    lines = scored(notes)[before:]
    counts = Counter(answer for _, answer in lines)
    assert set(counts) == {f"a-{i}" for i in range(400)}
    assert len({pid for pid, _ in lines} - {str(victim)}) >= 1


def test_rows_of_a_file_are_ranked_once_each_though_a_replica_is_killed(notes, scorer, tmp_path):
    rows = [{"prompt": f"row {i}", "candidates": [f"row-{i}"]} for i in range(300)]
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    killed = []

    def kill_once(stage, done, total, **figures):
        if not killed:
            killed.append(int(scored(notes)[-1][0]))
            os.kill(killed[0], signal.SIGKILL)

    output = tmp_path / "out.jsonl"
    found = rank_file(tmp_path / "in.jsonl", output, scorer=scorer, progress=kill_once)
    assert (found.ranked, found.bad, len(killed)) == (300, 0, 1)
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["line"] for row in written] == list(range(1, 301))
    assert [row["ranking"]["p_safe"] for row in written] == [[i / 1e4] for i in range(300)]


def test_errors_of_a_replica_keep_their_kind(scorer):
    with pytest.raises(InvalidInputError):
        scorer.score("q", [])
    with pytest.raises(InvalidInputError):
        scorer.score("q", "text")


def test_the_gateway_answers_over_http(notes):
    port = serve.status().proxies and os.environ["SRR_GUARD_TEST_PORT"]
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as http:
        for i in range(20):
            body = {"conversation": f"q{i}", "candidates": [f"a-{i}", "a-9000"]}
            answer = http.post("/v1/score", json=body)
            assert answer.json()["p_safe"] == [i / 1e4, 0.9]
            assert len(answer.headers.get_list("x-request-id")) == 1
        named = http.post("/v1/score", json=body, headers={"x-request-id": "mine"})
        assert named.headers.get_list("x-request-id") == ["mine"]
        assert http.get("/readyz").status_code == 200


def test_a_gateway_killed_under_load_costs_its_clients_a_retry(notes):
    url = f"http://127.0.0.1:{os.environ['SRR_GUARD_TEST_PORT']}/v1"
    before = len(scored(notes))

    async def load():
        client = RemoteScorer(url, attempts=20, timeout=120)
        tasks = [asyncio.create_task(client.ascore(f"g{i}", [f"g-{i}"])) for i in range(200)]
        while len(scored(notes)) < before + 20:
            await asyncio.sleep(0.005)
        os.kill(replica_of("gateway"), signal.SIGKILL)
        return await asyncio.gather(*tasks)

    rankings = asyncio.run(load())
    assert [ranking.p_safe for ranking in rankings] == [(i / 1e4,) for i in range(200)]


def replica_of(deployment):
    """The process of a replica."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if file.read_text().startswith(f"ray::ServeReplica:fleet:{deployment}"):
                return int(file.parent.name)
    raise AssertionError(deployment)


def test_settings_say_how_fast_a_fleet_grows_and_shrinks():
    from srr_guard_integrations.ray_serve import _replicas

    found = _replicas(FleetSettings(grow_after=1.5, shrink_after=60.0), 1, 3, 4.0)
    scaling = found["autoscaling_config"]
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 3)
    assert (scaling.upscale_delay_s, scaling.downscale_delay_s) == (1.5, 60.0)
    assert _replicas(FleetSettings(), 2, None, 4.0) == {"num_replicas": 2}


def test_affinity_looks_at_what_stands_before_the_first_answer():
    from srr_guard import Conversation

    first = [("system", "s"), ("user", "q")]
    later = [*first, ("assistant", "a"), ("user", "more")]
    assert affinity(Conversation.of(first)) == affinity(Conversation.of(later))
    other = affinity(Conversation.of([("system", "t"), ("user", "q")]))
    assert other != affinity(Conversation.of(first))
