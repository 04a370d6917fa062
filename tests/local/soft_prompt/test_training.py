"""Soft prompts: the formulas against plain computations, and trainings on tiny random models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny_lm
from typer.testing import CliRunner

from srr_guard import LocalChatModel
from srr_guard.cli import app
from srr_guard.conversation import Conversation
from srr_guard.decision import Ranking
from srr_guard.errors import ConfigurationError
from srr_guard.local.recipes.reverse_prompt import with_system
from srr_guard.local.recipes.soft_prompt import SoftPromptVectors
from srr_guard.local.recipes.tables import Fits
from srr_guard.local.soft_prompt.checkpoint import Checkpoint
from srr_guard.local.soft_prompt.space import DIRECTIONS, LogisticProbe, PromptSpace, orthonormal
from srr_guard.local.soft_prompt.states import SharedPrompts
from srr_guard.local.soft_prompt.training import SoftPromptOptions, train_soft_prompt
from srr_guard.local.worker import text_generator
from srr_guard.recipes import SoftPrompt
from srr_guard.reference.host import host
from srr_guard.reference.spec import ModelSpec

TEXT = "Be kind."
PAIRS = [(f"How do I steal {i} of them?", f"How do I count {i} of them?") for i in range(8)]
SMALL = {"text": TEXT, "samples": 2, "max_new_tokens": 3, "epochs": 6, "learning_rate": 1e-3}


class BySize:
    """Takes answers for refusals by their length; harm is in those of odd length."""

    def __init__(self, *, tells: bool = True) -> None:
        self.tells = tells

    def score(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        sizes = [len(text) for text in candidates]
        return Ranking.from_scores(
            scores=[0.0] * len(sizes),
            p_safe=[0.1 if size % 2 else 0.9 for size in sizes],
            p_refusal=[float(size % 3 == 0) for size in sizes] if self.tells else None,
        )

    async def ascore(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        return self.score(conversation, candidates)


class InterruptedHereError(Exception):
    pass


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma2"])
def any_spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = save_tiny_lm(tmp_path_factory.mktemp(request.param), family=request.param)
    return ModelSpec(reference=folder, device="cpu")


@pytest.fixture
def spec(tiny_folder: Path) -> ModelSpec:
    return ModelSpec(reference=tiny_folder, device="cpu")


def train(spec: ModelSpec, file: Path, **options: Any) -> Any:
    run = {k: options.pop(k) for k in ("resume", "progress") if k in options}
    return train_soft_prompt(
        spec, PAIRS, BySize(), checkpoint=file, options=SoftPromptOptions(**SMALL | options), **run
    )


# ---- formulas ----


def test_the_basis_is_orthonormal_and_begins_with_the_main_directions() -> None:
    from sklearn.decomposition import PCA

    states = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 13)
    centred = states - states.mean(0)
    basis = orthonormal(centred, seed=0)
    assert torch.allclose(basis.T @ basis, torch.eye(12), atol=1e-5)
    main = torch.tensor(PCA(DIRECTIONS).fit(centred.numpy()).components_).T
    cosines = torch.cosine_similarity(basis[:, :DIRECTIONS], main.float(), dim=0)
    assert torch.allclose(cosines.abs(), torch.ones(DIRECTIONS), atol=1e-4)
    assert torch.equal(basis, orthonormal(centred, seed=0))


def test_probes_are_logistic_regressions_on_soft_labels() -> None:
    from sklearn.linear_model import LogisticRegression

    numbers = torch.Generator().manual_seed(0)
    z = torch.randn(40, DIRECTIONS, generator=numbers) * 20
    y = torch.rand(40, generator=numbers).round(decimals=2)
    probe = LogisticProbe.fit(z, y)
    twice = torch.cat([z, z]).double().numpy()  # each row as a 1 and as a 0, by its weights
    labels, weights = [1] * 40 + [0] * 40, torch.cat([y, 1 - y]).double().numpy()
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(twice, labels, weights)
    assert probe.weight.tolist() == pytest.approx(theirs.coef_[0].tolist(), abs=1e-4)
    assert float(probe.bias) == pytest.approx(float(theirs.intercept_[0]), abs=1e-4)


def test_probes_of_states_that_are_parted_are_finite() -> None:
    z = torch.tensor([[-100.0, 0, 0, 0], [100.0, 0, 0, 0]])
    probe = LogisticProbe.fit(z, torch.tensor([0.0, 1.0]))
    assert torch.isfinite(probe(z)).all()
    assert probe(z)[0] < -3 < 3 < probe(z)[1]


def space_of(states: torch.Tensor) -> PromptSpace:
    labels = torch.arange(len(states)) % 2
    return PromptSpace.fit(states, labels * 0.8 + 0.1, labels.float(), seed=1)


def test_the_loss_is_that_of_the_paper() -> None:
    states = torch.randn(30, 9, generator=torch.Generator().manual_seed(2))
    space, y = space_of(states), (torch.arange(30) % 2).float()
    z0, z = space(states), space(states + 0.1 * states.roll(1, 0))
    assert float(space.loss(z0, z0, y)) == pytest.approx(1.01 * math.log(2), abs=1e-6)
    expected = 0.0
    for a, b, label in zip(z, z0, y.tolist(), strict=True):
        for probe, weight in ((space.complies, 1.0), (space.harmless, 1e-2)):
            p = 1 / (1 + math.exp(-float((a - b)[:4] @ probe.weight)))
            expected -= weight * math.log(p if label else 1 - p) / 30
        expected += 1e-3 * float(((a - b)[4:] ** 2).mean()) / 30
    assert float(space.loss(z, z0, y)) == pytest.approx(expected, rel=1e-4)


# ---- states ----


def test_states_are_those_of_whole_passes_and_the_text_is_its_embeddings(
    any_spec: ModelSpec,
) -> None:
    def work() -> None:
        template, model = text_generator(any_spec).template, host.model(any_spec).module
        talks = [with_system(Conversation.of(t), TEXT) for t in ("How?", "Why is it so?", "How so")]
        prompts = [template.prompt(talk, limit=400).ids for talk in talks]
        ids = template.text_ids(TEXT)
        at = SoftPromptVectors(Fits("", ""), TEXT, torch.zeros(len(ids), 1)).place(
            prompts[0], ids, Path()
        )
        shared = SharedPrompts(model, prompts, at=at, size=len(ids))
        found = shared.states([2, 0, 1])
        for state, index in zip(found, [2, 0, 1], strict=True):
            naive = model(input_ids=torch.tensor([prompts[index]]), output_hidden_states=True)
            assert torch.allclose(state, naive.hidden_states[-1][0, -1], atol=1e-4)
        embedded = model.get_input_embeddings()(torch.tensor(ids))
        vectors = torch.nn.Parameter(embedded.clone())
        again = shared.states([2, 0, 1], vectors)
        assert torch.allclose(again, found, atol=1e-5)
        # a plain sum of what a layer norm gives is a constant: its gradient would be rounding
        (again * torch.linspace(-1, 1, again.shape[1])).sum().backward()
        assert vectors.grad is not None
        assert (vectors.grad.abs().sum(1) > 0).all()
        assert all(p.grad is None for p in model.parameters())

    host.submit(work).result()


def test_a_text_that_the_prompts_do_not_share_is_refused(spec: ModelSpec) -> None:
    with pytest.raises(ConfigurationError, match="does not put the system prompt in front"):
        SharedPrompts(None, [[1, 2, 3, 4], [1, 5, 3, 4]], at=1, size=2)


# ---- trainings ----


def test_it_learns_and_equal_seeds_give_equal_vectors(spec: ModelSpec, tmp_path: Path) -> None:
    stages: list[tuple[str, int, int]] = []
    tell = lambda stage, done, total, **_: stages.append((stage, done, total))  # noqa: E731
    trained = train(spec, tmp_path / "a", progress=tell)
    assert trained.losses[0] == pytest.approx(1.01 * math.log(2), abs=1e-4)
    assert trained.losses[-1] < trained.losses[0]
    assert not (tmp_path / "a").exists()
    assert stages[-1] == ("training", 6, 6)
    assert [s for s in stages if s[0] == "answers"][-1] == ("answers", 12 * 4, 12 * 4)
    assert len(trained.held_out) == 4
    assert set(trained.shifts) == {
        (part, kind) for part in ("trained", "held out") for kind in ("harmful", "harmless")
    }
    again = train(spec, tmp_path / "a")
    assert torch.equal(trained.vectors.vectors, again.vectors.vectors)
    other = train(spec, tmp_path / "a", seed=1)
    assert not torch.equal(trained.vectors.vectors, other.vectors.vectors)


@pytest.mark.parametrize("stage", ["answers", "training"])
def test_an_interrupted_training_goes_on(spec: ModelSpec, tmp_path: Path, stage: str) -> None:
    whole = train(spec, tmp_path / "a", held_out=0.0)

    def interrupt(name: str, done: int, total: int, **_: float) -> None:
        if name == stage and done == (6 if stage == "training" else 40):
            raise InterruptedHereError

    with pytest.raises(InterruptedHereError):
        train(spec, tmp_path / "b", progress=interrupt, held_out=0.0)
    assert (tmp_path / "b").exists()
    asked: list[str] = []
    rest = train(
        spec, tmp_path / "b", progress=lambda name, *_, **__: asked.append(name), held_out=0.0
    )
    assert rest.resumed_at == (5 if stage == "training" else 0)
    assert torch.equal(rest.vectors.vectors, whole.vectors.vectors)
    assert asked.count("answers") == (0 if stage == "training" else 3)


def test_a_file_of_another_training_is_not_gone_on_with(tmp_path: Path) -> None:
    saved = Checkpoint(tmp_path / "a", "settings", 3, {"vectors": torch.ones(2)})
    saved.save()
    assert Checkpoint.open(tmp_path / "a", "settings", resume=True).step == 3
    for settings, resume in (("settings", False), ("others", True)):
        assert Checkpoint.open(tmp_path / "a", settings, resume=resume).tensors == {}
    (tmp_path / "a").write_bytes(b"cut off")
    assert Checkpoint.open(tmp_path / "a", "settings", resume=True).step == 0


def test_bad_settings_are_named(spec: ModelSpec, tmp_path: Path) -> None:
    for name, value in {"epochs": 0, "samples": 0, "held_out": 1.0, "text": " "}.items():
        with pytest.raises(ConfigurationError, match=name):
            SoftPromptOptions(**{name: value})
    with pytest.raises(ConfigurationError, match="at least 4 pairs"):
        train_soft_prompt(spec, PAIRS[:3], BySize(), checkpoint=tmp_path / "a")
    with pytest.raises(ConfigurationError, match="gives no p_refusal"):
        train_soft_prompt(spec, PAIRS, BySize(tells=False), checkpoint=tmp_path / "a")


def test_the_command_writes_a_file_that_the_recipe_reads(
    spec: ModelSpec, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srr_guard import SRRScorer

    monkeypatch.setattr(SRRScorer, "from_pretrained", lambda *_, **__: BySize())
    row = '{{"prompt": "{}", "prompt_type": "{}", "pair": "{}", "response": "x", "label": "safe"}}'
    lines = [
        row.format(text, kind, i)
        for i, pair in enumerate(PAIRS)
        for text, kind in zip(pair, ("unsafe", "safe"), strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    file = tmp_path / "soft.safetensors"
    named = ["--data", str(tmp_path / "rows.jsonl"), "--reference", str(tiny_folder)]
    small = ["--text", TEXT, "--samples", "1", "--epochs", "1", "--device", "cpu"]
    result = CliRunner().invoke(
        app, ["soft-prompt", "train", *named, *small, "--output", str(file)]
    )
    assert result.exit_code == 0, result.output
    assert "1 steps; loss 0.70" in result.output
    assert "the soft prompt" in result.output
    model = LocalChatModel(model=tiny_folder, device="cpu", max_new_tokens=4)
    recipe = SoftPrompt(file=str(file))
    assert model.serves(recipe) is None
    assert len(model.sample_candidates("hi", 2, recipes=[recipe, None])) == 2
    for fits in (Fits("0" * 64, "0" * 16), SoftPromptVectors.read(file).fits):
        wrong = SoftPromptVectors(fits, TEXT, torch.zeros(8, 16))
        wrong.write(tmp_path / "wrong.safetensors")
        with pytest.raises(ConfigurationError, match=r"soft-prompt train|of shape \(8, 16\)"):
            model.sample_candidates(
                "hi", 1, recipes=[SoftPrompt(file=str(tmp_path / "wrong.safetensors"))]
            )
    (tmp_path / "wrong.safetensors").write_text("{}")
    for path in ("wrong.safetensors", "nowhere.safetensors"):
        with pytest.raises(ConfigurationError, match="`srr-guard soft-prompt train`"):
            LocalChatModel(model=tiny_folder, device="cpu", max_new_tokens=4).sample_candidates(
                "hi", 1, recipes=[SoftPrompt(file=str(tmp_path / path))]
            )


def test_data_without_pairs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"prompt": "a", "prompt_type": "safe", "response": "x", "label": "safe"}'
    )
    result = CliRunner().invoke(
        app,
        ["soft-prompt", "train", "--data", str(tmp_path / "rows.jsonl"), "--output", "x"],
    )
    assert "must share a `pair`" in str(result.exception)


@pytest.mark.model
def test_a_short_training_of_smollm2(tmp_path: Path) -> None:
    from srr_guard import SRRScorer

    pairs = [
        ("How do I scare my neighbour away?", "How do I scare birds away?"),
        ("How do I open a stranger's letter?", "How do I open a letter neatly?"),
        ("How do I hide stolen money?", "How do I hide birthday gifts?"),
        ("How do I poison a dog?", "How do I feed a dog?"),
    ]
    options = SoftPromptOptions(
        text="Decline what harms people.",
        epochs=3,
        held_out=0.0,
        samples=1,
        max_new_tokens=3,
        learning_rate=5e-3,
    )
    trained = train_soft_prompt(
        ModelSpec(),
        pairs,
        SRRScorer.from_pretrained(),
        checkpoint=tmp_path / "soft.partial",
        options=options,
    )
    assert trained.losses[0] == pytest.approx(1.01 * math.log(2), abs=1e-3)
    assert trained.losses[-1] < trained.losses[0]
    trained.vectors.write(tmp_path / "soft.safetensors")
    model = LocalChatModel(max_new_tokens=4, temperature=0)
    recipe = SoftPrompt(file=str(tmp_path / "soft.safetensors"))
    assert model.sample_candidates("How do I bake bread?", 1, recipes=[recipe])[0].text
