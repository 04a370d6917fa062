"""The host: one thread, one copy of the weights, neither kind of work holds up the other."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from srr_guard import LocalChatModel, SRRScorer
from srr_guard.errors import ReferenceLoadError
from srr_guard.local.worker import text_generator
from srr_guard.reference.host import Host, host
from srr_guard.reference.model import ReferenceLLM
from srr_guard.reference.spec import ModelSpec
from srr_guard.scorer import ScorerBundle

ANSWERS = ["The moon pulls.", "No.", "It is a long story. " * 20]


@pytest.fixture
def fresh() -> Iterator[Host]:
    """A host of its own."""
    made = Host()
    yield made
    made.close()


def on(host: Host, call: object) -> object:
    return host.submit(call).result(60)  # type: ignore[arg-type]


class TestThread:
    def test_all_work_runs_on_one_thread(self, fresh: Host) -> None:
        steps = [fresh.submit(threading.get_ident) for _ in range(5)]
        long = [fresh.submit_long(threading.get_ident) for _ in range(5)]
        idents = {call.result(10) for call in [*steps, *long]}
        assert len(idents) == 1
        assert threading.get_ident() not in idents

    def test_errors_reach_the_caller(self, fresh: Host) -> None:
        with pytest.raises(ZeroDivisionError):
            on(fresh, lambda: 1 / 0)
        assert on(fresh, lambda: 1) == 1

    def test_long_work_gives_way_to_steps(self, fresh: Host) -> None:
        order: list[str] = []
        begun, go = threading.Event(), threading.Event()

        def long() -> None:
            begun.set()
            assert go.wait(10)
            for i in range(3):
                order.append(f"token {i}")
                fresh.give_way()

        work = fresh.submit_long(long)
        assert begun.wait(10)
        steps = [fresh.submit(lambda i=i: order.append(f"step {i}")) for i in range(2)]  # type: ignore[misc]
        go.set()
        work.result(10)
        for step in steps:
            step.result(10)
        assert order == ["token 0", "step 0", "step 1", "token 1", "token 2"]

    def test_a_step_that_comes_back_waits_for_the_next_turn(self, fresh: Host) -> None:
        """Scoring that submits itself again does not keep a generation from its next token."""
        order: list[str] = []
        go = threading.Event()

        def step() -> None:
            order.append("step")
            if order.count("step") < 3:
                fresh.submit(step)

        def long() -> None:
            assert go.wait(10)
            for _ in range(3):
                order.append("token")
                fresh.give_way()

        work = fresh.submit_long(long)
        fresh.submit(step)
        go.set()
        work.result(10)
        assert order in (["token", "step"] * 3, ["step", "token", "step", "token", "step", "token"])

    def test_steps_do_not_keep_long_work_from_starting(self, fresh: Host) -> None:
        done = threading.Event()

        def step() -> None:
            if not done.is_set():
                fresh.submit(step)

        fresh.submit(step)
        assert fresh.submit_long(lambda: 7).result(10) == 7
        done.set()

    def test_a_failed_step_does_not_hurt_the_long_work(self, fresh: Host) -> None:
        steps = []

        def long() -> str:
            steps.append(fresh.submit(lambda: 1 / 0))
            fresh.give_way()
            return "done"

        assert fresh.submit_long(long).result(10) == "done"
        with pytest.raises(ZeroDivisionError):
            steps[0].result(10)

    def test_closing_ends_the_thread(self) -> None:
        made = Host()
        thread = on(made, threading.current_thread)
        made.close()
        assert not thread.is_alive()  # type: ignore[attr-defined]
        assert made.closing

    def test_shared_objects_are_made_once(self, fresh: Host) -> None:
        made: list[int] = []
        assert [fresh.shared("key", lambda: made.append(1) or len(made)) for _ in range(3)] == [
            1
        ] * 3
        fresh.reset()
        assert fresh.shared("key", lambda: made.append(1) or len(made)) == 2


class TestModels:
    def test_scoring_shares_the_weights_of_a_model_that_generates(
        self, tiny_folder: Path, fresh: Host
    ) -> None:
        spec = ModelSpec(reference=tiny_folder)
        hosted = fresh.submit(lambda: fresh.model(spec)).result(60)
        encoder = fresh.submit(lambda: fresh.encoder(spec, depth=2)).result(60)
        assert encoder.depth == 2
        assert encoder.backbone.layers[0] is hosted.module.model.layers[0]
        assert fresh.submit(lambda: fresh.encoder(spec, depth=1)).result(60) is encoder
        deeper = fresh.submit(lambda: fresh.encoder(spec, depth=4)).result(60)
        assert deeper.depth == 4
        assert deeper.backbone.layers[3] is hosted.module.model.layers[3]

    def test_a_cut_model_gives_way_to_the_whole_one(self, tiny_folder: Path, fresh: Host) -> None:
        spec = ModelSpec(reference=tiny_folder)
        cut = fresh.submit(lambda: fresh.encoder(spec, depth=2)).result(60)
        hosted = fresh.submit(lambda: fresh.model(spec)).result(60)
        shared = fresh.submit(lambda: fresh.encoder(spec, depth=2)).result(60)
        assert shared is not cut
        assert shared.backbone.layers[0] is hosted.module.model.layers[0]
        a, b = (llm.encode("Hi", ANSWERS, depths=(1, 2)) for llm in (cut, shared))
        for name in ("instruction", "request", "mean", "last"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bloom"])
    def test_generation_is_the_same_before_and_after_scoring(
        self, family: str, tmp_path: Path, fresh: Host
    ) -> None:
        from tiny import save_tiny_lm

        spec = ModelSpec(reference=save_tiny_lm(tmp_path, family=family, layers=3))  # type: ignore[arg-type]
        module = fresh.submit(lambda: fresh.model(spec)).result(60).module
        ids = torch.tensor([[5, 6, 7, 8, 9]])
        with torch.inference_mode():
            before = module(ids).logits
        fresh.submit(lambda: fresh.encoder(spec, depth=2)).result(60).encode(
            "Hi", ANSWERS, depths=(1, 2)
        )
        with torch.inference_mode():
            torch.testing.assert_close(module(ids).logits, before, atol=1e-5, rtol=1e-5)

    def test_encodings_of_a_shared_model_are_those_of_a_cut_one(
        self, tiny_folder: Path, fresh: Host
    ) -> None:
        spec = ModelSpec(reference=tiny_folder)
        fresh.submit(lambda: fresh.model(spec)).result(60)
        shared = fresh.submit(lambda: fresh.encoder(spec, depth=3)).result(60)
        alone = ReferenceLLM.load(tiny_folder, depth=3)
        assert (shared.digest, shared.blocks, shared.name) == (alone.digest, 4, alone.name)
        a, b = (llm.encode("Hi", ANSWERS, depths=(2, 3)) for llm in (shared, alone))
        torch.testing.assert_close(a.mean, b.mean, atol=1e-5, rtol=1e-5)

    def test_device_that_does_not_exist(self, tiny_folder: Path, fresh: Host) -> None:
        spec = ModelSpec(reference=tiny_folder, device="toaster")
        for load in (lambda: fresh.model(spec), lambda: fresh.encoder(spec, depth=1)):
            with pytest.raises(ReferenceLoadError, match="'toaster'"):
                on(fresh, load)


def test_a_score_does_not_wait_for_an_answer(
    tiny_bundle: ScorerBundle, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generation hangs in the middle of an answer until the score is there."""
    scorer = SRRScorer.from_pretrained(tiny_bundle.folder, reference=tiny_folder)
    model = LocalChatModel(model=tiny_folder, max_new_tokens=400, seed=3)
    expected = scorer.score("Hi", ANSWERS)
    tokens: list[int] = []
    give_way = host.give_way

    def counted() -> None:
        tokens.append(1)
        give_way()

    monkeypatch.setattr(host, "give_way", counted)
    answer: list[object] = []
    long = threading.Thread(target=lambda: answer.append(model.invoke("a long story")))
    long.start()
    while len(tokens) < 3:
        time.sleep(0.001)
    ranking = scorer.score("Hi", ANSWERS)
    before_the_end = len(tokens) < 400
    long.join(60)
    assert before_the_end
    assert ranking.scores == pytest.approx(expected.scores, abs=1e-4)
    assert answer


def test_scores_in_between_do_not_change_an_answer(
    tiny_bundle: ScorerBundle, tiny_folder: Path
) -> None:
    scorer = SRRScorer.from_pretrained(tiny_bundle.folder, reference=tiny_folder)
    model = LocalChatModel(model=tiny_folder, max_new_tokens=150, seed=3)
    alone = model.invoke("a long story").text
    done = threading.Event()

    def score() -> None:
        while not done.is_set():
            scorer.score("Hi", ANSWERS)

    beside = threading.Thread(target=score)
    beside.start()
    try:
        assert model.invoke("a long story").text == alone
    finally:
        done.set()
        beside.join(60)


FORKED = """
import os, sys
from srr_guard import LocalChatModel, SRRScorer
from srr_guard.reference.host import host
bundle, folder = sys.argv[1:]
scorer = SRRScorer.from_pretrained(bundle, reference=folder)
model = LocalChatModel(model=folder, max_new_tokens=3)
scorer.score("Hi", ["a"]), model.invoke("Hi")
pid = os.fork()
if pid == 0:
    assert not host.shared("anything", lambda: None)
    ok = len(scorer.score("Hi", ["a", "b"])) == 2 and model.invoke("Hi") is not None
    os._exit(0 if ok else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def test_a_forked_child_starts_with_a_host_of_its_own(
    tiny_bundle: ScorerBundle, tiny_folder: Path
) -> None:
    arguments = [str(tiny_bundle.folder), str(tiny_folder)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


def test_the_process_ends_in_the_middle_of_an_answer(tiny_folder: Path) -> None:
    code = (
        "import sys, threading; from srr_guard import LocalChatModel;"
        f"model = LocalChatModel(model={str(tiny_folder)!r}, max_new_tokens=450);"
        "next(iter(model.stream('Hi')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_generators_live_with_their_model(tiny_folder: Path) -> None:
    spec = ModelSpec(reference=tiny_folder)
    first, second = (host.submit(lambda: text_generator(spec)).result(60) for _ in range(2))
    assert first is second
