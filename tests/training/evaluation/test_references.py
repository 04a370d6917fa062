"""Scorers of several reference LLMs: grouped, timed, and never two models at once."""

from __future__ import annotations

import gc
import mmap
import shutil
import weakref
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from rows import labelled, write_rows
from tiny import save_tiny_lm
from typer.testing import CliRunner

from srr_guard.cli import app
from srr_guard.errors import IncompatibleScorerError, InvalidInputError, ReferenceNotFoundError
from srr_guard.reference import ReferenceLLM
from srr_guard.reference.source import resolve_reference
from srr_guard.scorer import ScorerBundle
from srr_guard.training import Report, TrainingOptions, evaluate, train
from srr_guard.training.data import LabelledResponse
from srr_guard.training.evaluation.references import (
    ReferenceGroup,
    costs_of,
    file_bytes,
    group_by_reference,
    named_bundles,
    parameters,
    peak_memory,
    timed_requests,
)

ROWS = [LabelledResponse(**row) for row in labelled(12)]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRR_GUARD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "made.jsonl", labelled(12))


@pytest.fixture(scope="module")
def references(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    other = tmp_path_factory.mktemp("qwen")
    return [tiny_folder, save_tiny_lm(other, family="qwen2", layers=4, hidden=64, seed=1)]


@pytest.fixture(scope="module")
def bundles(
    data: Path, references: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Two scorers of the same name, one for each reference LLM."""
    folders = []
    for reference in references:
        folder = tmp_path_factory.mktemp("bundle") / "mine"
        train(data, folder, options=TrainingOptions(augmented=False), reference=reference)
        folders.append(folder)
    return folders


@pytest.fixture(scope="module")
def report(data: Path, bundles: list[Path], references: list[Path]) -> Report:
    alive: list[weakref.ref[ReferenceLLM]] = []
    load = ReferenceLLM.load

    def watched(*args: Any, **options: Any) -> ReferenceLLM:
        gc.collect()
        assert all(one() is None for one in alive), "two reference LLMs in memory"
        llm = load(*args, **options)
        alive.append(weakref.ref(llm))
        return llm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReferenceLLM, "load", watched)
        found = evaluate(data, bundles, reference=references, ngrams=[_training(data)])
    assert len(alive) == 2
    return found


def _training(data: Path) -> Path:
    (data.parent / "other").mkdir(exist_ok=True)
    rows = [{**row, "prompt": f"Again: {row['prompt']}"} for row in labelled(12)]
    return write_rows(data.parent / "other" / "ngrams.jsonl", rows)


def test_scorers_of_two_reference_llms_stand_in_one_table(
    report: Report, references: list[Path]
) -> None:
    other = f"mine ({references[1].name})"
    assert list(report.costs) == ["mine", "mine/probe", other, f"mine/probe ({references[1].name})"]
    for methods in report.sets.values():
        assert [*methods][:5] == [*report.costs, "n-grams"]
    errors = {report.sets["made"][s]["calibration_error"].value for s in ("mine", other)}
    assert len(errors) == 2  # each was judged on the states of its own model
    assert {"f1", "recall_at_5_fpr"} <= set(report.sets["made"]["n-grams"])
    assert {"mine, safest", "n-grams", "shortest"} <= set(report.policies["made"])
    assert report.reference.count(";") == 1


def test_each_scorer_has_its_own_cost(report: Report, references: list[Path]) -> None:
    mine, probe, other, _ = report.costs.values()
    assert (mine.blocks, mine.blocks_read, probe.blocks_read) == (4, 3, 1)
    assert mine.parameters is not None
    assert other.parameters is not None
    assert other.parameters > mine.parameters
    assert mine.file_bytes == (references[0] / "model.safetensors").stat().st_size
    assert 0 < mine.answers <= 64
    assert mine.milliseconds > 0
    assert Report.model_validate_json(report.model_dump_json()).costs == report.costs


def test_the_command_prints_quality_beside_cost(
    data: Path, bundles: list[Path], references: list[Path], tmp_path: Path
) -> None:
    options = [
        *("evaluate", "--data", data, "--ngrams", _training(data), "--no-attacks"),
        *("--json", tmp_path / "figures.json", "--plots", tmp_path / "plots", "--write-card"),
        *(word for bundle in bundles for word in ("--scorer", bundle)),
        *(word for one in references for word in ("--reference", one)),
    ]
    result = CliRunner().invoke(app, [str(o) for o in options], env={"COLUMNS": "400"})
    assert result.exit_code == 0, result.output
    assert "Quality beside cost; harm: made; help: made (safe prompts)" in result.output
    assert "made: what leaves the guard" in result.output
    written = Report.model_validate_json((tmp_path / "figures.json").read_text())
    assert len(written.costs) == 4
    assert (tmp_path / "plots" / "quality.png").is_file()
    card = (bundles[0] / "README.md").read_text()
    assert "### Quality beside cost; harm: made" in card
    assert "ms per answer" in card
    assert "harm passed, best of 8" in card


class Known:
    """A bundle of a model with this digest and name."""

    def __init__(self, digest: str, name: str) -> None:
        self.info = ScorerBundle.find().info.model_copy(
            update={"reference_digest": digest, "reference": name}
        )


def test_how_a_scorer_finds_its_reference_llm(references: list[Path]) -> None:
    digests = [resolve_reference(one).digest() for one in references]
    names = [one.name for one in references]
    both: Any = {"a": Known(digests[0], "elsewhere"), "b": Known("0" * 64, names[1])}
    groups = group_by_reference(both, references[::-1])
    assert [(g.source.name, list(g.bundles)) for g in groups] == [
        (names[0], ["a"]),
        (names[1], ["b"]),
    ]
    one: Any = {"a": Known("0" * 64, "x"), "b": Known("0" * 64, "x")}
    (group,) = group_by_reference(one, references[:1])  # the only one given, for the only one named
    assert group.source.name == names[0]
    named: Any = {"a": Known(digests[0], "x"), "b": Known("1" * 64, str(references[1]))}
    assert len(group_by_reference(named, references[:1])) == 2  # b goes by the name it has
    with pytest.raises(InvalidInputError, match="none of the scorers 'a'"):
        group_by_reference({"a": both["a"]}, references)
    with pytest.raises(ReferenceNotFoundError, match="gone-model"):
        group_by_reference({**both, "c": Known("2" * 64, "gone-model")}, references)  # type: ignore[dict-item]


def test_a_scorer_that_does_not_fit_is_refused(
    data: Path, bundles: list[Path], references: list[Path]
) -> None:
    with pytest.raises(IncompatibleScorerError):
        evaluate(data, bundles[:1], reference=references[1], attacks=False)


def test_names_are_told_apart(bundles: list[Path], tmp_path: Path) -> None:
    again = tmp_path / "copy"
    shutil.copytree(bundles[0], again)
    found = named_bundles([bundles[0], bundles[0], str(bundles[0]), again])
    reference = ScorerBundle.find(bundles[0]).info.reference
    assert list(found) == [
        "mine",
        "mine/probe",
        f"mine ({reference})",
        f"mine/probe ({reference})",
    ]
    third = tmp_path / "third"
    shutil.copytree(bundles[0], third)
    assert f"mine ({reference}) (2)" in named_bundles([bundles[0], again, third])


def test_the_clock_decides(bundles: list[Path], references: list[Path]) -> None:
    llm = ReferenceLLM.load(references[0])
    group = ReferenceGroup(
        resolve_reference(references[0]), {"mine": ScorerBundle.find(bundles[0])}
    )
    seconds = count(step=2)
    costs = costs_of(group, llm, ROWS, clock=lambda: float(next(seconds)), peak=lambda: 7)
    assert costs["mine"].milliseconds == pytest.approx(2000 / costs["mine"].answers)
    assert costs["mine"].peak_bytes == 7


def test_the_timed_answers_are_the_same_each_time() -> None:
    requests = timed_requests(ROWS * 3)
    assert requests == timed_requests(ROWS * 3)
    assert sum(map(len, requests)) == 64
    assert all(len({row.prompt for row in own}) == 1 and len(own) <= 8 for own in requests)
    assert sum(map(len, timed_requests(ROWS[:5]))) == 5


def test_sizes_of_model_files(references: list[Path], tmp_path: Path) -> None:
    llm = ReferenceLLM.load(references[0])
    size = parameters(references[0])
    assert size is not None
    assert size > 256 * llm.width
    (tmp_path / "pytorch_model.bin").write_bytes(b"12345")
    assert (file_bytes(tmp_path), parameters(tmp_path)) == (5, None)
    assert file_bytes(tmp_path / "pytorch_model.bin") == 5  # a GGUF file is measured like this
    (tmp_path / "pytorch_model.bin").unlink()
    assert file_bytes(tmp_path) == 0


def test_peak_memory_sees_what_is_taken() -> None:
    with peak_memory("cpu") as peak:
        before = peak()
        held = mmap.mmap(-1, 64_000_000)  # new pages; the heap may have old ones at hand
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
        after = peak()
    if before is None or after is None:
        pytest.skip("this system does not tell")
    assert after - before >= len(held) // 2


def test_peak_memory_is_left_out_where_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **options: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refused)
    with peak_memory("cpu") as peak:
        assert peak() is None
