"""Early cut of a local model's rows: scores of their beginnings, from states that are there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from srr_guard import (
    Guard,
    LocalChatModel,
    SafetyRankedChatModel,
    SafetyRanker,
    SamplingPolicy,
    SRRScorer,
)
from srr_guard.conversation import Conversation
from srr_guard.core.calls import require_plain
from srr_guard.errors import AllCandidatesFailedError, ConfigurationError
from srr_guard.local.decoding import cutting
from srr_guard.local.worker import text_generator
from srr_guard.policy import DEFAULT_REFUSAL, DecisionPolicy
from srr_guard.recipes import Plain, ReversePrompt
from srr_guard.reference.host import host
from srr_guard.scorer.bundle import ScorerBundle
from srr_guard.scorer.running import EarlyCut
from srr_guard.testing import FakeScorer, ScriptedChatModel

LENGTH = 60


@pytest.fixture
def scorer(tiny_bundle: ScorerBundle, tiny_folder: Path) -> SRRScorer:
    return SRRScorer(bundle=tiny_bundle, reference=str(tiny_folder), device="cpu")


@pytest.fixture
def model(tiny_folder: Path) -> Iterator[LocalChatModel]:
    """No token ends an answer, so that all are as long as can be."""
    made = LocalChatModel(model=tiny_folder, device="cpu", max_new_tokens=LENGTH, seed=5)
    generator = host.submit(lambda: text_generator(made._spec())).result()
    ends, generator._ends = generator._ends, frozenset()
    yield made
    generator._ends = ends


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """Length and score of each beginning that was checked."""
    seen: list[tuple[int, float]] = []
    judge = EarlyCut.p_safe

    def noted(self: EarlyCut, states: Any) -> float:
        seen.append((0, judge(self, states)))
        return seen[-1][1]

    monkeypatch.setattr(EarlyCut, "p_safe", noted)
    watch = cutting.PrefixWatch.__call__

    def called(self: Any, row: Any) -> bool:
        before = len(seen)
        found = watch(self, row)
        if len(seen) > before:
            seen[-1] = (len(row.ids), seen[-1][1])
        return found

    monkeypatch.setattr(cutting.PrefixWatch, "__call__", called)
    return seen


def ids_of(model: LocalChatModel, n: int, **options: Any) -> list[tuple[str, str]]:
    messages = model.sample_candidates("Tell me of bees.", n, **options)
    return [(m.text, m.response_metadata["finish_reason"]) for m in messages]


def test_a_score_of_a_beginning_is_that_of_an_encoding(
    model: LocalChatModel, scorer: SRRScorer, scores: list[tuple[int, float]]
) -> None:
    cut = scorer.early_cut(0.0)
    (message,) = model.sample_candidates("Tell me of bees.", 1, cut=cut)
    assert message.response_metadata["finish_reason"] == "length"
    assert [length for length, _ in scores] == [24, 40, 56]
    ids = answer_ids(model, message.text)
    head = scorer.bundle.load_head()

    def work() -> list[float]:
        llm, found = scorer.engine.encoder(), []
        prompt = llm.template.prompt(Conversation.of("Tell me of bees."), limit=400)
        for length, _ in scores:
            row = torch.tensor([[*prompt.ids, *ids[:length]]])
            states = llm.backbone.states(row, depths=cut.depths)[:, 0].float()
            request = prompt.request
            read = {
                "instruction": states[:, len(prompt.ids) - 1],
                "request": states[:, request.start : request.stop].mean(1),
                "mean": states[:, len(prompt.ids) :].mean(1),
            }
            probes = head.probe({name: t[None, None] for name, t in read.items()})
            found.append(float(head.calibrated(probes)))
        return found

    with torch.inference_mode():
        assert host.submit(work).result() == pytest.approx([p for _, p in scores], abs=1e-4)


def answer_ids(model: LocalChatModel, text: str) -> list[int]:
    """The tokens of the answer that was sampled last."""
    found = [answer for (_, _, _, answer), _ in host.states if len(answer) >= LENGTH]
    return list(found[-1])


def test_without_a_floor_nothing_changes(model: LocalChatModel, scorer: SRRScorer) -> None:
    assert ids_of(model, 3, cut=scorer.early_cut(0.0)) == ids_of(model, 3)


def test_rows_below_the_floor_twice_are_cut_and_survivors_stay(
    model: LocalChatModel, scorer: SRRScorer, scores: list[tuple[int, float]]
) -> None:
    whole = ids_of(model, 6, cut=scorer.early_cut(0.0))
    lasts = sorted(p for length, p in scores if length == 40)
    del scores[:]
    floor = (lasts[2] + lasts[3]) / 2
    found = ids_of(model, 6, cut=scorer.early_cut(floor))
    ends = [finish for _, finish in found]
    assert 0 < ends.count("cut") < 6
    for (text, finish), (before, _) in zip(found, whole, strict=True):
        if finish == "cut":
            assert before.startswith(text.rstrip("\ufffd"))
            assert len(text) < len(before)
        else:
            assert text == before
    all_cut = model.sample_candidates("Tell me of bees.", 6, cut=scorer.early_cut(1.0))
    assert [m.usage_metadata["output_tokens"] for m in all_cut] == [40] * 6


def test_more_is_cut_the_higher_the_floor(model: LocalChatModel, scorer: SRRScorer) -> None:
    floors = (0.0, 0.3, 0.45, 0.5, 0.55, 0.7, 1.0)
    tokens = []
    for floor in floors:
        found = model.sample_candidates("Tell me of bees.", 4, cut=scorer.early_cut(floor))
        tokens.append(sum(m.usage_metadata["output_tokens"] for m in found))
    assert tokens == sorted(tokens, reverse=True)
    assert (tokens[0], tokens[-1]) == (4 * LENGTH, 4 * 40)


def test_rows_of_other_states_are_not_cut(model: LocalChatModel, scorer: SRRScorer) -> None:
    recipes = [None, ReversePrompt(), Plain(system_prompt="Be brief."), Plain(temperature=1.3)]
    found = ids_of(model, 4, recipes=recipes, cut=scorer.early_cut(1.0))
    assert [finish for _, finish in found] == ["cut", "length", "length", "cut"]
    assert found[1:3] == ids_of(model, 4, recipes=recipes)[1:3]


def test_answers_longer_than_a_window_are_checked_within_the_first(
    model: LocalChatModel, scorer: SRRScorer, scores: list[tuple[int, float]]
) -> None:
    model.sample_candidates("Tell me of bees.", 1, cut=scorer.early_cut(0.0), max_new_tokens=320)
    assert max(length for length, _ in scores) == scorer.early_cut(0.0).window - 8


@pytest.fixture(params=["sync", "task"])
def decide(request: pytest.FixtureRequest) -> Any:
    def decide(ranker: SafetyRanker) -> Any:
        if request.param == "sync":
            return ranker.decide("Tell me of bees.")
        return asyncio.run(ranker.adecide("Tell me of bees."))

    return decide


def test_a_cut_row_never_leaves_and_is_not_read_again(
    model: LocalChatModel, scorer: SRRScorer, decide: Any
) -> None:
    ranker = SafetyRanker(
        model,
        scorer=scorer,
        sampling=SamplingPolicy(n=3, cut_below=1.0),
        decision=DecisionPolicy(below_threshold="pass", threshold=0.0),
    )
    decision = decide(ranker)
    assert [c.cut for c in decision.candidates] == [True] * 3
    assert (decision.cut, ranker.totals.cut, decision.chosen) == (3, 3, None)
    assert decision.output.text == DEFAULT_REFUSAL
    assert decision.usage["output_tokens"] == 3 * 40


def test_where_all_are_cut_the_next_recipes_begin_at_once(
    model: LocalChatModel, scorer: SRRScorer, decide: Any
) -> None:
    plan = (Plain(), Plain(), ReversePrompt(), ReversePrompt())
    ranker = SafetyRanker(
        model,
        scorer=scorer,
        sampling=SamplingPolicy(n=4, initial=2, accept_at=0.5, cut_below=1.0, plan=plan),
        decision=DecisionPolicy(threshold=0.0),
    )
    decision = decide(ranker)
    assert [(c.cut, c.recipe) for c in decision.candidates] == [
        (True, "plain"),
        (True, "plain"),
        (False, "reverse_prompt"),
        (False, "reverse_prompt"),
    ]
    assert decision.chosen.recipe == "reverse_prompt"


def test_observed_requests_and_free_reasoning_are_not_cut(
    model: LocalChatModel, scorer: SRRScorer
) -> None:
    for options in ({"mode": "observe"}, {"reasoning": "answer"}):
        ranker = SafetyRankedChatModel(
            model=model,
            scorer=scorer,
            sampling=SamplingPolicy(n=2, cut_below=1.0),
            decision=DecisionPolicy(threshold=0.0, **options),
        )
        message = ranker.invoke("Tell me of bees.")
        assert message.response_metadata["srr_guard"]["cut"] == 0


def test_what_cannot_be_cut_is_refused(
    model: LocalChatModel, scorer: SRRScorer, tmp_path: Path
) -> None:
    sampling = SamplingPolicy(n=2, cut_below=0.25)
    with pytest.raises(ConfigurationError, match="set read_ahead=True"):
        SafetyRanker(ScriptedChatModel(answers=["a"]), scorer=scorer, sampling=sampling)
    with pytest.raises(ConfigurationError, match="without trace_candidates"):
        SafetyRanker(model, scorer=scorer, sampling=sampling, trace_candidates=True)
    with pytest.raises(ConfigurationError, match="set read_ahead=True"):
        SafetyRanker(
            model,
            scorer=scorer,
            sampling=sampling.model_copy(update={"batched": "never"}),
        )
    with pytest.raises(ConfigurationError, match="has `early_cut`"):
        Guard(scorer=FakeScorer(lambda prompt, answer: 0.9), sampling=sampling)
    with pytest.raises(ConfigurationError, match=r"cut_below=0\.25 reaches no model"):
        require_plain(sampling)


def test_a_scorer_of_another_model_is_refused(scorer: SRRScorer, tmp_path: Path) -> None:
    from tiny import save_tiny_lm

    other = LocalChatModel(model=save_tiny_lm(tmp_path, seed=3), device="cpu", max_new_tokens=4)
    ranker = SafetyRanker(other, scorer=scorer, sampling=SamplingPolicy(n=2, cut_below=0.25))
    with pytest.raises(AllCandidatesFailedError, match="reads another model"):
        ranker.invoke("hi")
