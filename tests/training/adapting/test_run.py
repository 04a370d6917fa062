"""The whole run on a tiny random LM: a bundle, a file of policies, a card, clear errors."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rows import labelled, write_rows
from typer.testing import CliRunner

from srr_guard import SRRScorer
from srr_guard.cli import app
from srr_guard.cli.adapt import parse_strength, print_adaptation
from srr_guard.errors import ConfigurationError, DataError, InvalidInputError
from srr_guard.policy import Policies
from srr_guard.reference import ReferenceLLM
from srr_guard.scorer import ScorerBundle
from srr_guard.scorer.bundle import FORMAT
from srr_guard.scorer.fingerprint import Fingerprint
from srr_guard.training import Adaptation, TrainingOptions, adapt, train
from srr_guard.training.evaluation.card import model_card


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRR_GUARD_REFERENCE", str(tiny_folder))
        patch.setenv("SRR_GUARD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def own_rows(goals: int = 24) -> list[dict[str, Any]]:
    """Answers unlike those that the base knows."""
    texts = {"safe": "Blue sky over {} hills, gently.", "unsafe": "Red fire on {} roofs, quickly!"}
    return [
        {"prompt": f"Say something about {g}.", "response": text.format(g), "label": label}
        for g in range(goals)
        for label, text in texts.items()
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapting")
    write_rows(folder / "trained.jsonl", labelled(12))
    write_rows(folder / "base.jsonl", labelled(20)[8 * 12 :])
    write_rows(folder / "own.jsonl", own_rows())
    return folder


@pytest.fixture(scope="module")
def base(folder: Path, tiny_folder: Path) -> ScorerBundle:
    options = TrainingOptions(augmented=False)
    return train(folder / "trained.jsonl", folder / "base", options=options, reference=tiny_folder)


@pytest.fixture(scope="module")
def adapted(base: ScorerBundle, folder: Path, tiny_folder: Path) -> Adaptation:
    return adapt(
        folder / "own.jsonl",
        folder / "adapted",
        scorer=base.folder,
        reference=tiny_folder,
        base_data=folder / "base.jsonl",
        budget=0.05,
    )


def again(folder: Path, output: Path | str, **changes: Any) -> Adaptation:
    data = changes.pop("data", folder / "own.jsonl")
    return adapt(data, output, **{"scorer": folder / "base", **changes})


def test_it_learns_the_deployment_and_keeps_the_base(
    adapted: Adaptation, base: ScorerBundle, tiny_folder: Path
) -> None:
    report = adapted.report
    assert report.is_moved
    assert (report.rows, report.safe, report.goals, report.left_out) == (48, 24, 24, 0)
    held_out = report.held_out
    assert held_out.after["auroc"].value > 0.95
    assert held_out.after["calibration_error"].value < held_out.before["calibration_error"].value
    assert set(report.base_sets) == {"made-benign", "made-harmful", "all"}
    assert report.base_sets["all"].lost("auroc") < 0.02
    assert report.steps["harmless"].drift.mean <= report.most_drift * 1.001
    scorer = SRRScorer.from_pretrained(adapted.bundle.folder, reference=tiny_folder)
    answers = ["Blue sky over 77 hills, gently.", "Red fire on 77 roofs, quickly!"]
    said = scorer.score("Say something about 77.", answers)
    old = SRRScorer.from_pretrained(base.folder, reference=tiny_folder)
    before = old.score("Say something about 77.", answers)
    assert said.p_safe[0] - said.p_safe[1] > before.p_safe[0] - before.p_safe[1] + 0.3
    assert said.p_safe[1] < 0.5 < said.p_safe[0]


def test_the_bundle_says_what_it_came_from(adapted: Adaptation, base: ScorerBundle) -> None:
    info = adapted.bundle.info
    assert (info.name, info.reference_digest) == ("adapted", base.info.reference_digest)
    assert set(info.data) == {"trained.jsonl", "own.jsonl"}
    assert {s.source for s in info.sources} == {"made-benign", "made-harmful", "own"}
    assert ScorerBundle.find(adapted.bundle.folder).info == info
    ours = Fingerprint.load(adapted.bundle.folder)
    assert ours.distance(Fingerprint.load(base.folder)) == 0.0
    card = (adapted.bundle.folder / "README.md").read_text()
    assert "## Adapted\n\nFrom `base`" in card
    assert adapted.report.base_digest in card
    assert "48 labelled answers to 24 requests" in card
    assert all(warning in card for warning in adapted.report.warnings)
    assert "## Adapted" not in model_card(base.info)
    assert card == model_card(info)  # `evaluate --write-card` keeps the section


def test_bounds_go_where_the_probabilities_moved(
    adapted: Adaptation, base: ScorerBundle, folder: Path
) -> None:
    assert base.info.bounds is not None
    assert adapted.bundle.info.bounds is None
    still = again(folder, folder / "still", strength=0.0)
    assert still.bundle.info.bounds == base.info.bounds


def test_policies_are_written_beside_the_bundle(adapted: Adaptation) -> None:
    assert adapted.policies_file == adapted.bundle.folder.with_name("adapted.policies.json")
    assert Policies.load(adapted.policies_file) == adapted.policies
    tuning = adapted.report.tuning
    assert tuning is not None
    assert adapted.policies.decision.threshold == tuning.chosen.threshold
    assert tuning.chosen.help_held_back.value <= 0.05


def test_adapting_again(adapted: Adaptation, folder: Path) -> None:
    same = again(
        folder,
        folder / "same",
        base_data=folder / "base.jsonl",
        budget=0.05,
    )
    first, second = (a.bundle.load_head().state_dict() for a in (adapted, same))
    assert all(torch.equal(first[k], second[k]) for k in first)
    more = write_rows(folder / "more.jsonl", own_rows(30)[48:] + labelled(30)[8 * 24 :])
    twice = again(folder, folder / "twice", scorer=adapted.bundle.folder, data=more)
    assert (twice.bundle.folder / "README.md").read_text().count("labelled answers to") == 2


def test_strength_zero_only_tunes(base: ScorerBundle, folder: Path) -> None:
    found = again(folder, folder / "kept", strength=0)
    ours, theirs = found.bundle.load_head().state_dict(), base.load_head().state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert found.report.held_out.before == found.report.held_out.after
    assert any("the head is the base's" in warning for warning in found.report.warnings)
    assert found.report.calibration[0] == found.report.calibration[1]


def test_a_bundle_without_a_fingerprint_gets_one(
    base: ScorerBundle, folder: Path, tiny_llm: ReferenceLLM
) -> None:
    old = base.copy_to(folder / "format-2")
    (old.folder / "fingerprint.safetensors").unlink()
    config = json.loads((old.folder / "config.json").read_text())
    (old.folder / "config.json").write_text(json.dumps(config | {"format": 2}))
    found = again(folder, folder / "from-2", scorer=old.folder, strength=0)
    fingerprint = Fingerprint.load(found.bundle.folder)
    assert found.bundle.info.format == FORMAT
    assert fingerprint.distance(Fingerprint.of(tiny_llm, base.info.features)) < 1e-3


def test_rows_without_help_leave_the_threshold_alone(base: ScorerBundle, folder: Path) -> None:
    rows = [r | {"kind": "refusal"} if r["label"] == "safe" else r for r in own_rows()]
    file = write_rows(folder / "refusals.jsonl", rows)
    found = again(folder, folder / "no-help", data=file, n=8)
    assert found.report.tuning is None
    assert found.policies.decision.threshold == 0.5
    assert found.policies.sampling.n == 8
    assert any("none of the rows is a helpful answer" in w for w in found.report.warnings)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"strength": -1.0}, InvalidInputError, "strength=-1.0"),
        ({"strength": float("nan")}, InvalidInputError, "strength=nan"),
        ({"strength": float("inf")}, InvalidInputError, "strength=inf"),
        ({"strength": "much"}, InvalidInputError, "strength='much'"),
        ({"most_drift": 0.0}, InvalidInputError, "most_drift=0.0"),
        ({"most_drift": 1.5}, InvalidInputError, "most_drift=1.5"),
        ({"budget": 1.0}, InvalidInputError, "budget=1.0"),
        ({"n": 0}, ConfigurationError, "n=0"),
        ({"data": "trained.jsonl"}, DataError, "was trained on"),
        ({"base_data": "own.jsonl"}, DataError, "48 of the base rows"),
        ({"base_data": "nowhere.jsonl"}, DataError, "nowhere.jsonl"),
        ({"output": "base"}, ConfigurationError, "the folder of the base itself"),
        ({"output": "base/../base/"}, ConfigurationError, "the folder of the base itself"),
        ({"output": "own.jsonl"}, ConfigurationError, "is a file"),
    ],
)
def test_mistakes(
    base: ScorerBundle,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    error: type[Exception],
    said: str,
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    with pytest.raises(error, match=said):
        again(folder, changes.pop("output", "new"), **changes)
    assert sorted(folder.iterdir()) == before


def test_a_head_without_probes_is_refused(
    base: ScorerBundle, folder: Path, tiny_folder: Path
) -> None:
    options = TrainingOptions(preset="published", epochs=1, augmented=False)
    published = train(
        folder / "trained.jsonl", folder / "published", options=options, reference=tiny_folder
    )
    with pytest.raises(ConfigurationError, match="no pointwise path"):
        again(folder, folder / "new", scorer=published.folder)
    probe = again(folder, folder / "of-probe", scorer=base.folder / "probe")
    assert set(probe.report.steps) == {"harmless"}


def test_the_command(folder: Path, base: ScorerBundle, tiny_folder: Path) -> None:
    def run(*more: str) -> str:
        arguments = ["adapt", "--data", str(folder / "own.jsonl"), "--output", str(folder / "cli")]
        arguments += ["--scorer", str(folder / "base"), "--reference", str(tiny_folder), *more]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    report = json.loads(run("--json", "--strength", "0.5"))
    assert report["steps"]["harmless"]["strength"] == 0.5
    assert report["chosen_by_hand"]
    shown = run("--strength", "0")
    assert "thresholds for a budget" in shown
    assert (folder / "cli.policies.json").is_file()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_what_is_printed(width: int, adapted: Adaptation) -> None:
    console = Console(record=True, width=width)
    print_adaptation(adapted.report, console)
    lines = console.export_text().splitlines()
    assert "…" not in "".join(lines)
    assert max(map(len, lines)) <= width
    shown = " ".join(" ".join(lines).split())
    assert "base, adapted to 48 answers to 24 requests" in shown
    assert "base rows: made-harmful" in shown
    assert all(warning in shown for warning in adapted.report.warnings)


PAGE = Path(__file__).parents[3] / "docs" / "adapting.md"
EXAMPLES = [PAGE.read_text(), inspect.getdoc(Adaptation) or "", inspect.getdoc(adapt) or ""]


@pytest.mark.parametrize("text", EXAMPLES, ids=["page", "class", "function"])
def test_the_examples_run(
    text: str, base: ScorerBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("my-rows", "rows"):
        write_rows(tmp_path / f"{name}.jsonl", own_rows())
    base.copy_to(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("srr_guard.scorer.bundle.DEFAULT_BUNDLE", "base")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(inspect.cleandoc(block), "<example>", "exec"), {})
    assert list(tmp_path.glob("*.policies.json"))


def test_strength_on_the_command_line() -> None:
    assert parse_strength("auto") == "auto"
    assert parse_strength("2") == 2.0
    with pytest.raises(InvalidInputError, match="--strength 'more'"):
        parse_strength("more")
