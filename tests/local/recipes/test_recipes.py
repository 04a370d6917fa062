"""Each recipe against the plain computation it stands for, on tiny random models."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_telling_lm

from srr_guard import LocalChatModel
from srr_guard.conversation import Conversation
from srr_guard.errors import ConfigurationError
from srr_guard.local import generation
from srr_guard.local.generation import TextGenerator
from srr_guard.local.recipes.refusal_start import TriggerTable
from srr_guard.local.recipes.reverse_prompt import POSITIVE, REVERSE, with_system
from srr_guard.local.recipes.soft_prompt import SoftPromptVectors
from srr_guard.local.recipes.steering import RefusalVectors, last_states, steered_blocks
from srr_guard.local.recipes.tables import Fits
from srr_guard.local.requests import GenerationOptions, GenerationRequest
from srr_guard.local.worker import text_generator
from srr_guard.recipes import Plain, Recipe, RefusalStart, ReversePrompt, SoftPrompt, Steered
from srr_guard.reference.host import HostedModel, host
from srr_guard.reference.spec import ModelSpec
from srr_guard.reference.weights import decoder_blocks

TALK = Conversation.of("Tell me about bees.")
LENGTH = 32

Sample = Callable[..., list[list[int]]]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return save_telling_lm(folder, family=request.param, layers=4, context=2048)


@pytest.fixture
def hosted(folder: Path) -> HostedModel:
    return host.submit(lambda: host.model(spec(folder))).result()


@pytest.fixture
def generator(folder: Path) -> TextGenerator:
    return host.submit(lambda: text_generator(spec(folder))).result()


@pytest.fixture
def fits(generator: TextGenerator, hosted: HostedModel) -> Fits:
    return Fits(hosted.source.digest(), generator.template.digest)


@pytest.fixture
def sample(generator: TextGenerator, monkeypatch: pytest.MonkeyPatch) -> Sample:
    """Token ids of the rows of one call; no token ends a row."""
    monkeypatch.setattr(generator, "_ends", frozenset())
    batches: list[Any] = []
    run = TextGenerator._run

    def noted(self: TextGenerator, requests: Any, prompts: Any) -> None:
        batches.append([row for request in requests for row in request.rows])
        run(self, requests, prompts)

    monkeypatch.setattr(generation.TextGenerator, "_run", noted)

    def sample(
        *recipes: Recipe | None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 3,
        talk: Conversation = TALK,
        length: int = LENGTH,
    ) -> list[list[int]]:
        options = GenerationOptions(
            max_new_tokens=length, temperature=temperature, top_p=top_p, seed=seed
        )
        request = GenerationRequest(
            conversation=talk, options=options, n=len(recipes), recipes=recipes
        )
        host.submit(lambda: generator.sample(request)).result()
        return [row.ids for row in batches[-1]]

    return sample


def spec(folder: Path) -> ModelSpec:
    return ModelSpec(reference=folder, device="cpu")


def greedy(model: Any, ids: list[int], length: int = LENGTH) -> list[int]:
    """The naive way: a whole forward pass for each token."""
    row = list(ids)
    with torch.inference_mode():
        for _ in range(length):
            row.append(
                int(model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].argmax())
            )
    return row[len(ids) :]


# ---- RefusalStart ----


@pytest.fixture
def triggers(fits: Fits, tmp_path: Path) -> str:
    refusals = [[50, 60, 70, 80]] * 5 + [[51, 61, 71, 2]] * 3 + [[52]] * 2
    table = TriggerTable.count(refusals, fits=fits, sampled=20, drop=frozenset({2}))
    table.write(tmp_path / "triggers.json")
    return str(tmp_path / "triggers.json")


def test_counts_beginnings(fits: Fits, triggers: str) -> None:
    table = TriggerTable.read(Path(triggers))
    assert table.fits == fits
    assert (table.sampled, table.refusals) == (20, 10)
    assert table.shares(1) == {(50,): 0.5, (51,): 0.3, (52,): 0.2}
    assert list(table.shares(4)) == [(50, 60, 70, 80), (51, 61, 71), (52,)]
    with pytest.raises(ConfigurationError, match="no refusals to begin with"):
        TriggerTable.count([[2]], fits=fits, sampled=9, drop=frozenset({2}))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_forced_row_goes_on_as_from_the_prompt_and_the_trigger(
    sample: Sample, triggers: str, generator: TextGenerator, hosted: HostedModel, depth: int
) -> None:
    forced = [50, 60, 70, 80][:depth]
    (row,) = sample(RefusalStart(depth=depth, triggers=triggers))
    assert len(set(row)) > 5
    ids = generator.template.prompt(TALK, limit=1000).ids
    assert row == forced + greedy(hosted.module, ids + forced, LENGTH - depth)


def test_a_forced_row_leaves_the_others_as_they_are(sample: Sample, triggers: str) -> None:
    with_it = sample(None, None, RefusalStart(depth=2, triggers=triggers), None, temperature=0.9)
    without = sample(None, None, None, None, temperature=0.9)
    assert with_it[:2] + with_it[3:] == without[:2] + without[3:]
    assert with_it[2] != without[2]


def test_without_strength_it_is_the_plain_row_of_the_same_seed(
    sample: Sample, triggers: str
) -> None:
    for temperature in (0.0, 0.8):
        recipe = RefusalStart(strength=0.0, triggers=triggers)
        assert sample(recipe, temperature=temperature) == sample(None, temperature=temperature)


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_first_tokens_come_as_often_as_the_mixture_says(
    sample: Sample,
    triggers: str,
    generator: TextGenerator,
    hosted: HostedModel,
    strength: float,
) -> None:
    from scipy.stats import chisquare

    draws, temperature, top_p = 600, 0.7, 0.9
    recipe = RefusalStart(strength=strength, triggers=triggers)
    rows = sample(*[recipe] * draws, temperature=temperature, top_p=top_p, length=1)
    found = Counter(row[0] for row in rows)
    ids = generator.template.prompt(TALK, limit=1000).ids
    expected = (1 - strength) * warped(hosted.module, ids, temperature, top_p)
    for (token,), share in TriggerTable.read(Path(triggers)).shares(1).items():
        expected[token] += strength * share
    assert_distributed(found, expected, draws, chisquare)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (1.5, 0.5)])
def test_plain_tokens_come_as_often_as_transformers_would_draw_them(
    sample: Sample,
    generator: TextGenerator,
    hosted: HostedModel,
    temperature: float,
    top_p: float,
) -> None:
    from scipy.stats import chisquare

    draws = 600
    rows = sample(*[None] * draws, temperature=temperature, top_p=top_p, length=1)
    ids = generator.template.prompt(TALK, limit=1000).ids
    expected = warped(hosted.module, ids, temperature, top_p)
    assert_distributed(Counter(row[0] for row in rows), expected, draws, chisquare)


def warped(model: Any, ids: list[int], temperature: float, top_p: float) -> torch.Tensor:
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[:, -1]
        logits = TemperatureLogitsWarper(temperature)(None, logits)
        if top_p < 1.0:
            logits = TopPLogitsWarper(top_p)(None, logits)
        return logits[0].double().softmax(-1)


def assert_distributed(
    found: Counter[int], expected: torch.Tensor, draws: int, chisquare: Any
) -> None:
    assert all(expected[token] > 0 for token in found)
    often = [token for token in range(len(expected)) if expected[token] * draws >= 5]
    observed = [found[token] for token in often]
    wanted = [float(expected[token]) * draws for token in often]
    if (rest := draws - sum(wanted)) > 1e-6:
        observed.append(draws - sum(observed))
        wanted.append(rest)
    if len(wanted) > 1:
        assert chisquare(observed, wanted, sum_check=False).pvalue > 0.01


# ---- ReversePrompt ----


def test_without_weight_it_is_the_row_of_the_positive_prompt(sample: Sample) -> None:
    recipe = ReversePrompt(alpha=0.0, plausible=0.0)
    positive = Conversation.of([("system", POSITIVE), ("user", "Tell me about bees.")])
    for temperature in (0.0, 0.8):
        own = sample(None, talk=positive, temperature=temperature)
        assert sample(recipe, temperature=temperature) == own


def test_equal_prompts_cancel_out(sample: Sample) -> None:
    recipe = ReversePrompt(alpha=0.5, plausible=0.0, positive="Be kind.", reverse="Be kind.")
    talk = Conversation.of([("system", "Be kind."), ("user", "Tell me about bees.")])
    assert sample(recipe, temperature=0.8) == sample(None, talk=talk, temperature=0.8)


def test_it_is_the_naive_loop_and_guidance_of_transformers(
    sample: Sample, generator: TextGenerator, hosted: HostedModel
) -> None:
    alpha, model = 0.5, hosted.module
    talk = Conversation.of([("system", "Mind the bees."), ("user", "Tell me about bees.")])
    ids = [
        generator.template.prompt(with_system(talk, text), limit=1500).ids
        for text in (POSITIVE, REVERSE)
    ]
    assert "Mind the bees." in with_system(talk, REVERSE).turns[0].text
    row: list[int] = []
    with torch.inference_mode():
        for _ in range(LENGTH):
            pos, neg = (
                model(input_ids=torch.tensor([[*prompt, *row]]), use_cache=False).logits[0, -1]
                for prompt in ids
            )
            row.append(int((pos - alpha * neg).argmax()))
        prompt, negative = (torch.tensor([one]) for one in ids)
        guided = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            negative_prompt_ids=negative,
            negative_prompt_attention_mask=torch.ones_like(negative),
            guidance_scale=1 / (1 - alpha),
            max_new_tokens=LENGTH,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0, prompt.shape[1] :].tolist()
    recipe = ReversePrompt(alpha=alpha, plausible=0.0)
    assert row == guided
    assert sample(recipe, talk=talk) == [row]
    assert sample(None, recipe, None, talk=talk)[1] == row


def test_implausible_tokens_are_never_taken(sample: Sample) -> None:
    strict = ReversePrompt(alpha=0.9, plausible=1.0)
    positive = Conversation.of([("system", POSITIVE), ("user", "Tell me about bees.")])
    assert sample(strict) == sample(None, talk=positive)


# ---- Steered ----


@pytest.fixture
def vectors(generator: TextGenerator, hosted: HostedModel, fits: Fits, tmp_path: Path) -> str:
    blocks = [1, 2]
    layers = decoder_blocks(hosted.module)
    prompts = [
        [generator.template.prompt(Conversation.of(text), limit=99).ids for text in texts]
        for texts in (("kill", "steal", "burn"), ("bake", "sing", "walk"))
    ]
    harmful, benign = (last_states(hosted.module, layers, part, blocks) for part in prompts)
    RefusalVectors.between(harmful, benign, blocks=blocks, fits=fits).write(
        tmp_path / "v.safetensors"
    )
    return str(tmp_path / "v.safetensors")


def test_blocks_in_the_middle_are_steered() -> None:
    assert steered_blocks(30) == range(9, 19)
    assert steered_blocks(32) == range(9, 20)
    assert steered_blocks(1) == range(1)


def test_vectors_point_along_a_planted_gap(fits: Fits) -> None:
    numbers = torch.Generator().manual_seed(0)
    gap = torch.randn(2, 16, generator=numbers)
    benign = torch.randn(200, 2, 16, generator=numbers)
    harmful = torch.randn(200, 2, 16, generator=numbers) + 3 * gap
    found = RefusalVectors.between(harmful, benign, blocks=[4, 5], fits=fits)
    assert (torch.cosine_similarity(found.vectors, gap, dim=1) > 0.99).all()
    assert torch.allclose(found.vectors.norm(dim=1), torch.ones(2))


def test_without_strength_nothing_is_steered(sample: Sample, vectors: str) -> None:
    still = Steered(strength=0.0, vectors=vectors)
    assert sample(still) == sample(None)
    assert sample(still, temperature=0.8) == sample(None, temperature=0.8)


def test_steering_is_that_of_a_whole_pass_for_each_token(
    sample: Sample, vectors: str, generator: TextGenerator, hosted: HostedModel
) -> None:
    read = RefusalVectors.read(Path(vectors))
    ids = generator.template.prompt(TALK, limit=1000).ids
    layers = decoder_blocks(hosted.module)
    wanted = {}
    for strength in (0.4, -0.4):

        def move(index: int, strength: float = strength) -> Any:
            step = strength * read.norms[index] * read.vectors[index]

            def hook(_module: Any, _args: Any, output: Any) -> Any:
                stream = (output[0] if isinstance(output, tuple) else output).clone()
                stream[:, len(ids) - 1 :] += step
                return (stream, *output[1:]) if isinstance(output, tuple) else stream

            return hook

        handles = [
            layers[block].register_forward_hook(move(i)) for i, block in enumerate(read.blocks)
        ]
        wanted[strength] = greedy(hosted.module, ids)
        for handle in handles:
            handle.remove()
    assert wanted[0.4] != wanted[-0.4]
    recipes = [Steered(strength=s, vectors=vectors) for s in (0.4, -0.4)]
    rows = sample(None, *recipes)
    assert rows == [greedy(hosted.module, ids), wanted[0.4], wanted[-0.4]]
    assert [sample(recipe)[0] for recipe in (None, *recipes)] == rows


def test_nothing_is_left_behind_after_an_error(
    sample: Sample, vectors: str, hosted: HostedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = sample(None)

    def fail() -> None:
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patched:
        patched.setattr(host, "give_way", fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            sample(Steered(vectors=vectors))
    assert not any(module._forward_hooks for module in hosted.module.modules())
    assert sample(None) == plain


# ---- SoftPrompt ----


def test_vectors_of_a_text_are_the_text(
    sample: Sample, generator: TextGenerator, hosted: HostedModel, fits: Fits, tmp_path: Path
) -> None:
    text = "Decline what would do harm."
    table = hosted.module.get_input_embeddings().weight
    embedded = table[torch.tensor(generator.template.text_ids(text))].float()
    path = tmp_path / "soft.safetensors"
    SoftPromptVectors(fits, text, embedded).write(path)
    recipe = SoftPrompt(file=str(path))
    same = sample(Plain(system_prompt=text), recipe, None)
    assert same[0] == same[1]
    assert same[2] == sample(None)[0]
    SoftPromptVectors(fits, text, -5.0 * embedded).write(tmp_path / "other.safetensors")
    assert sample(SoftPrompt(file=str(tmp_path / "other.safetensors")))[0] != same[0]


# ---- all of them ----


def test_all_kinds_are_rows_of_one_call(sample: Sample, triggers: str, vectors: str) -> None:
    recipes = [
        Steered(vectors=vectors),
        None,
        RefusalStart(triggers=triggers),
        ReversePrompt(),
        Plain(temperature=1.2, seed=9),
        Plain(system_prompt="Be brief.", seed=4),
        Plain(seed=9, temperature=1.2),
    ]
    together = sample(*recipes, temperature=0.8)
    assert together[4] == together[6]
    assert together[5] == sample(recipes[5], temperature=0.8)[0]
    assert together[4] == sample(recipes[4], temperature=0.8)[0]
    assert together == sample(*recipes, temperature=0.8)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (RefusalStart(), "RefusalStart: no trigger table for 'llama"),
        (Steered(), "Steered: no refusal vectors for 'llama"),
        (Steered(vectors="/nowhere.safetensors"), "there is no file '/nowhere.safetensors'"),
        (SoftPrompt(file="/nowhere.safetensors"), "there is no file '/nowhere.safetensors'"),
        (ReversePrompt(), None),
        (Plain(seed=1), None),
    ],
)
def test_a_model_says_what_it_serves(tiny_folder: Path, recipe: Recipe, reason: str | None) -> None:
    model = LocalChatModel(model=tiny_folder, device="cpu", max_new_tokens=4)
    found = model.serves(recipe)
    assert found is None if reason is None else reason in (found or "")
    if reason is not None:
        with pytest.raises(ConfigurationError, match=r"no (trigger|refusal|file|soft)"):
            model.sample_candidates("hi", 2, recipes=[recipe, None])


def test_files_of_another_model_are_refused(sample: Sample, fits: Fits, tmp_path: Path) -> None:
    for other in (Fits("0" * 64, fits.template), Fits(fits.reference, "0" * 16)):
        path = tmp_path / "table.json"
        TriggerTable.count([[50]], fits=other, sampled=1, drop=frozenset()).write(path)
        with pytest.raises(ConfigurationError, match="was made for another"):
            sample(RefusalStart(triggers=str(path)))
    path.write_text("{}")
    with pytest.raises(ConfigurationError, match="is no trigger table"):
        sample(RefusalStart(triggers=str(path)))


@pytest.mark.parametrize("prefixes", [[], [[[], 3]], [[[50], 0]], [[[50], -1]], [[[50]]]])
def test_tables_that_count_nothing_are_refused(triggers: str, prefixes: list[object]) -> None:
    held = json.loads(Path(triggers).read_text())
    Path(triggers).write_text(json.dumps({**held, "prefixes": prefixes}))
    with pytest.raises(ConfigurationError, match="is no trigger table"):
        TriggerTable.read(Path(triggers))


@pytest.mark.parametrize("shape", [(2,), (2, 8), (2, 1, 8)])
def test_vectors_of_another_shape_are_refused(
    sample: Sample, fits: Fits, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    steered, soft = tmp_path / "v.safetensors", tmp_path / "s.safetensors"
    RefusalVectors(fits, (1, 2), torch.ones(shape), torch.ones(2)).write(steered)
    SoftPromptVectors(fits, "Be kind.", torch.ones(shape)).write(soft)
    for recipe in (Steered(vectors=str(steered)), SoftPrompt(file=str(soft))):
        with pytest.raises(ConfigurationError, match="holds a tensor of shape"):
            sample(recipe)
    RefusalVectors(fits, (1, 2, 3), torch.ones(shape), torch.ones(2)).write(steered)
    with pytest.raises(ConfigurationError, match="holds no refusal vectors"):
        RefusalVectors.read(steered)
