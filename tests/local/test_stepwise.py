"""Stepwise search against plain sampling and whole forward passes, on tiny random models."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_telling_lm

from srr_guard import LocalChatModel, SafetyRanker, SamplingPolicy, SRRScorer
from srr_guard.conversation import Conversation
from srr_guard.errors import ConfigurationError
from srr_guard.local.decoding.stepwise import StepSearch
from srr_guard.local.generation import TextGenerator
from srr_guard.local.recipes.key_sentence import key_sentence
from srr_guard.local.requests import Answer, GenerationOptions, GenerationRequest
from srr_guard.local.worker import text_generator
from srr_guard.policy import DecisionPolicy, GatePolicy
from srr_guard.recipes import Plain, Recipe, Stepwise
from srr_guard.reference.host import host
from srr_guard.reference.spec import ModelSpec
from srr_guard.scorer.bundle import ScorerBundle
from srr_guard.scorer.running import EarlyCut
from srr_guard.testing import ScriptedChatModel

TALK = Conversation.of("Tell me about bees.")
LENGTH = 40


class Worth:
    """Scores beginnings as it is told; the depths are those of the tiny models."""

    below, depths, window = 0.0, (2,), 1000

    def __init__(self, key: Any, worth: Any) -> None:
        self.model = key
        self._worth = worth
        host.states.subscribe(key, self.depths)

    def p_safe(self, states: Any) -> float:
        return 0.5

    def reward(self, states: Any) -> float:
        return float(self._worth(states))


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return save_telling_lm(folder, family=request.param, layers=3, context=1024)


@pytest.fixture
def generator(folder: Path) -> Iterator[TextGenerator]:
    spec = ModelSpec(reference=folder, device="cpu")
    made = host.submit(lambda: text_generator(spec)).result()
    ends, made._ends = made._ends, frozenset()
    yield made
    made._ends = ends


def sample(
    generator: TextGenerator,
    worth: Any,
    *recipes: Recipe | None,
    length: int = LENGTH,
    **options: Any,
) -> list[Answer]:
    request = GenerationRequest(
        conversation=TALK,
        options=GenerationOptions(
            **{"max_new_tokens": length, "temperature": 0.9, "top_p": 1.0, "seed": 7} | options
        ),
        n=len(recipes),
        recipes=recipes,
        cut=Worth(generator._key, worth),  # type: ignore[arg-type]
    )
    return list(host.submit(lambda: generator.sample(request)).result().answers)


def by_mean(states: Any) -> float:
    return float(states.mean.sum())


def test_one_way_on_is_plain_sampling(generator: TextGenerator) -> None:
    plain = sample(generator, by_mean, None, None, None)
    (found,) = sample(generator, by_mean, Stepwise(beams=3, continuations=1, step_tokens=8))
    assert found.ids in [answer.ids for answer in plain]
    assert found.tokens == 3 * LENGTH


def test_the_best_beginnings_are_kept(generator: TextGenerator, monkeypatch: Any) -> None:
    pools: list[list[tuple[float, tuple[int, ...]]]] = [[]]

    def worth(states: Any) -> float:
        return by_mean(states)

    run, rewards = StepSearch.run, []

    def noted(self: StepSearch) -> Any:
        inner = self.reward

        def reward(recorder: Any, row: Any) -> float:
            found = inner(recorder, row)
            rewards.append((len(row.ids), tuple(row.ids), found))
            return found

        object.__setattr__(self, "reward", reward)
        return run(self)

    monkeypatch.setattr(StepSearch, "run", noted)
    (found,) = sample(generator, worth, Stepwise(beams=2, continuations=3, step_tokens=10))
    assert pools == [[]]
    for step in (10, 20, 30):
        at = [(ids, worth) for length, ids, worth in rewards if length == step]
        after = {ids[:step] for length, ids, _ in rewards if length == step + 10}
        assert len(at) == 6
        assert after == {ids for ids, _ in sorted(at, key=lambda one: one[1])[-2:]}
    best = max((one for one in rewards if one[0] == LENGTH), key=lambda one: one[2])
    assert found.ids == best[1]
    assert found.tokens == 6 * LENGTH


def test_rewards_are_of_the_states_of_a_whole_pass(generator: TextGenerator) -> None:
    seen: list[Any] = []

    def worth(states: Any) -> float:
        seen.append(states)
        return by_mean(states)

    (found,) = sample(generator, worth, Stepwise(beams=1, continuations=4, step_tokens=10))

    def naive() -> torch.Tensor:
        prompt = generator.template.prompt(TALK, limit=500).ids
        row = [*prompt, *found.ids[:-1]]  # the newest token is not read yet
        with torch.inference_mode():
            out = generator._model(input_ids=torch.tensor([row]), output_hidden_states=True)
        return out.hidden_states[2][0, len(prompt) :].mean(0)

    expected = host.submit(naive).result()
    assert any(torch.allclose(states.mean[0], expected, atol=1e-3) for states in seen[-4:])


def test_logits_after_a_reorder_are_those_of_a_whole_pass(generator: TextGenerator) -> None:
    greedy = Stepwise(beams=2, continuations=2, step_tokens=5)
    (found,) = sample(generator, by_mean, greedy, temperature=0.0)
    (plain,) = sample(generator, by_mean, None, temperature=0.0)
    assert found.ids == plain.ids


def test_a_constant_reward_leaves_the_distribution(generator: TextGenerator) -> None:
    from scipy.stats import chisquare

    draws = 120
    searched = sample(
        generator,
        lambda _: 0.0,
        *[Stepwise(beams=1, continuations=2, step_tokens=2)] * draws,
        length=2,
    )
    ids = generator.template.prompt(TALK, limit=500).ids

    def likely() -> torch.Tensor:
        with torch.inference_mode():
            logits = generator._model(input_ids=torch.tensor([ids])).logits[0, -1]
        return (logits / 0.9).double().softmax(-1)

    expected = host.submit(likely).result() * draws
    found = Counter(answer.ids[0] for answer in searched)
    observed = [sum(n for token, n in found.items() if token % 8 == k) for k in range(8)]
    wanted = [float(expected[k::8].sum()) for k in range(8)]
    assert min(wanted) > 5
    assert chisquare(observed, wanted, sum_check=False).pvalue > 0.01


def test_more_budget_never_ends_worse_on_the_mean(generator: TextGenerator) -> None:
    means = []
    for beams in (1, 2, 4):
        rewards = []
        for seed in range(3):
            last: list[float] = []

            def worth(states: Any, last: list[float] = last) -> float:
                last.append(by_mean(states))
                return last[-1]

            recipe = Stepwise(beams=beams, continuations=2, step_tokens=10)
            sample(generator, worth, recipe, seed=100 * seed)
            rewards.append(max(last[-2 * beams :]))
        means.append(sum(rewards) / len(rewards))
    assert means == sorted(means)


def test_it_stands_beside_other_rows_and_seeds_repeat_it(generator: TextGenerator) -> None:
    recipes = (None, Stepwise(step_tokens=10), None)
    found = sample(generator, by_mean, *recipes)
    assert found == sample(generator, by_mean, *recipes)
    plain = sample(generator, by_mean, None, None, None)
    assert [found[0], found[2]] == [plain[0], plain[2]]
    assert found[1].tokens == 8 * LENGTH


def test_answers_that_end_are_kept_as_they_are(generator: TextGenerator) -> None:
    (whole,) = sample(generator, by_mean, None)
    generator._ends = frozenset({whole.ids[12]})
    found = sample(generator, by_mean, Stepwise(beams=2, continuations=1, step_tokens=5))
    assert found[0].ids
    assert found[0].finish in ("stop", "length")
    generator._ends = frozenset(range(10_000))
    (short,) = sample(generator, by_mean, Stepwise(step_tokens=5))
    assert len(short.ids) == 1
    assert short.tokens == 8


def test_stop_texts_and_cancelling_end_it(generator: TextGenerator) -> None:
    (whole,) = sample(generator, by_mean, Stepwise(step_tokens=10))
    stop = whole.text[5:7]
    (found,) = sample(generator, by_mean, Stepwise(step_tokens=10), stop=(stop,))
    assert stop not in found.text
    request = GenerationRequest(
        conversation=TALK,
        options=GenerationOptions(max_new_tokens=50, temperature=1.0, top_p=1.0),
        recipes=(Stepwise(),),
        cut=Worth(generator._key, by_mean),  # type: ignore[arg-type]
    )
    asked = iter([False] * 100)
    answers = host.submit(
        lambda: generator.sample(request, cancelled=lambda: next(asked, None) is not False)
    ).result()
    assert len(answers.answers[0].ids) < 50


# ---- the key sentence ----


def test_branches_begin_at_the_key_sentence(
    generator: TextGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TextGenerator, "_opening", lambda *args: 9 if len(args[-1]) == 14 else None)
    recipe = Stepwise(beams=2, continuations=2, step_tokens=8, from_key_sentence=True)
    (found,) = sample(generator, by_mean, recipe)
    (plain,) = sample(generator, by_mean, None)
    assert found.ids[:9] == plain.ids[:9]
    assert found.ids != plain.ids
    assert found.tokens == 14 + 4 * (LENGTH - 9)
    monkeypatch.setattr(TextGenerator, "_opening", lambda *args: None)
    (without,) = sample(generator, by_mean, recipe)
    assert (
        without.ids
        == sample(generator, by_mean, recipe.model_copy(update={"from_key_sentence": False}))[0].ids
    )


STARTS = ("Okay, the user asks how to {}. ", "They want to know how to {}. ", "So: how do I {}?\n")
KEYS = ("That would hurt people.", "It is harmless to explain this!", "Is this legal?", "I refuse.")
ASKED = ("pick a lock", "bake rye bread", "steal a car")
TRACES = [(start.format(asked), key, asked) for asked in ASKED for start in STARTS for key in KEYS]


@pytest.mark.parametrize(("start", "key", "asked"), TRACES)
def test_the_key_sentence_follows_what_restates_the_request(
    start: str, key: str, asked: str
) -> None:
    answer = f"<think>\n{start}{key} Then there is more.</think>Done."
    found = key_sentence(answer, f"How do I {asked}?")
    assert found is not None
    assert answer[slice(*found)] == key
    at = answer.index(key) + len(key)
    assert key_sentence(answer[: at - 1], f"How do I {asked}?") is None
    assert key_sentence(answer[: at + 1], f"How do I {asked}?") == found


@pytest.mark.parametrize(
    "answer",
    [
        "The user asks how to pick a lock. That is fine. So",
        "<think>Cats sleep all day. That is fine. So",
        "<think>The user asks how to pick a lock.</think>No. Not that.",
        "<think></think>How do I pick a lock? That is fine. So",
        "",
    ],
)
def test_without_restating_reasoning_there_is_none(answer: str) -> None:
    assert key_sentence(answer, "How do I pick a lock?") is None


# ---- as a candidate of a guard ----


@pytest.fixture
def scorer(tiny_bundle: ScorerBundle, tiny_folder: Path) -> SRRScorer:
    return SRRScorer(bundle=tiny_bundle, reference=str(tiny_folder), device="cpu")


@pytest.fixture
def model(tiny_folder: Path) -> LocalChatModel:
    return LocalChatModel(model=tiny_folder, device="cpu", max_new_tokens=12, seed=5)


@pytest.mark.parametrize("way", ["sync", "task"])
def test_it_is_a_recipe_of_a_plan(model: LocalChatModel, scorer: SRRScorer, way: str) -> None:
    ranker = SafetyRanker(
        model,
        scorer=scorer,
        sampling=SamplingPolicy(n=2, plan=(Plain(), Stepwise(step_tokens=4))),
        decision=DecisionPolicy(threshold=0.0),
    )
    decision = ranker.decide("hi") if way == "sync" else asyncio.run(ranker.adecide("hi"))
    assert [c.recipe for c in decision.candidates] == ["plain", "stepwise"]
    assert decision.cut == 0
    assert isinstance(scorer.early_cut(0.0), EarlyCut)


def test_what_cannot_search_is_refused(model: LocalChatModel, scorer: SRRScorer) -> None:
    sampling = SamplingPolicy(n=2, plan=(Plain(), Stepwise()))
    with pytest.raises(ConfigurationError, match=r"Stepwise\(.*needs a LocalChatModel"):
        SafetyRanker(ScriptedChatModel(answers=["a"]), scorer=scorer, sampling=sampling)
    with pytest.raises(ConfigurationError, match=r"Stepwise\(.*called in batches"):
        SafetyRanker(model, scorer=scorer, sampling=sampling, trace_candidates=True)
    with pytest.raises(ConfigurationError, match=r"Stepwise\(.*called in batches"):
        SafetyRanker(
            model,
            scorer=scorer,
            sampling=SamplingPolicy(n=2),
            gating=GatePolicy(plan=(Stepwise(),)),
            trace_candidates=True,
        )
    with pytest.raises(ConfigurationError, match="Stepwise needs a scorer"):
        model.sample_candidates("hi", 1, recipes=[Stepwise()])
