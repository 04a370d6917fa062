"""The command line: what a user types, what comes back."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import srr_guard
from srr_guard import DecisionPolicy, Guard, SafetyRanker
from srr_guard.cli import app
from srr_guard.cli.demo_scenes import SCENES, Scene
from srr_guard.cli.demo_table import run_demo
from srr_guard.cli.recipe_table import print_loaded, print_recipe
from srr_guard.errors import InvalidInputError
from srr_guard.testing import FakeScorer, ScriptedChatModel
from srr_guard.training.data import LabelledResponse
from srr_guard.training.data.loading import LoadedRecipe, LoadedSource
from srr_guard.training.data.public_recipes import RECIPES
from srr_guard.training.data.recipe_cache import SourceRows


def command(*arguments: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", "from srr_guard.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        **kwargs,
    )


def test_version_and_help() -> None:
    assert srr_guard.__version__ in CliRunner().invoke(app, ["--version"]).stdout
    helped = CliRunner().invoke(app, ["--help"]).stdout
    assert all(name in helped for name in ("demo", "score", "train", "adapt", "evaluate"))


@pytest.mark.parametrize("name", sorted(typer.main.get_command(app).commands))
def test_help_of_every_command_says_all_that_it_was_given(name: str) -> None:
    wide = {"COLUMNS": "600", "TERMINAL_WIDTH": "600"}
    result = CliRunner().invoke(app, [name, "--help"], env=wide)
    assert result.exit_code == 0
    for parameter in typer.main.get_command(app).commands[name].params:
        text = parameter.help or ""
        assert text.replace("\\[", "[") in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("score", "--prompt", "Hi", "--candidates", "nowhere.txt"), "nowhere.txt"),
        (("score", "--prompt", "Hi", "--candidates", "-", "--scorer", "nope"), "nope"),
        (("train", "--data", "x", "--output", "x", "--preset", "best"), "best"),
        (("train", "--data", "x", "--output", "x", "--dtype", "int4"), "int4"),
        (("train", "--data", "x"), "--output is missing"),
        (("train", "--output", "x"), "give --data, --recipe or both"),
        (("train", "--dry-run"), "add --recipe public"),
        (("train", "--output", "x", "--recipe", "public-test"), "public-test"),
        (("evaluate",), "give --data, --recipe or both"),
        (("rank", "--input", "-", "--output", "x"), "- stands for no file"),
        (("rank", "--input", "x", "--output", "-"), "- stands for no file"),
        (("playground", "--port", "99999"), "--port"),
        (("playground", "--tokens", "0"), "--tokens"),
    ],
)
def test_mistakes_are_one_clear_line(arguments: tuple[str, ...], said: str) -> None:
    _check_mistake(arguments, said)


@pytest.mark.local
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "--data", "nowhere", "--output", "x"), "nowhere"),
        (("train", "--data", "x", "--output", "x", "--source-weight", "a"), "NAME=NUMBER"),
        (("train", "--data", "x", "--output", "x", "--source-limit", "a=1.5"), "NAME=ROWS"),
        (("train", "--data", "x", "--output", "x", "--source-limit", "a=nan"), "NAME=ROWS"),
        (("train", "--data", "x", "--output", "x", "--validation-share", "2"), "validation_share"),
        (("evaluate", "--data", "nowhere"), "nowhere"),
        (("train", "--recipe", "extended", "--output", "x"), "--accept-licence nc"),
        (("train", "--data", "hf:Paul/XSTest", "--output", "x"), "never trained on"),
    ],
)
def test_mistakes_in_training_are_one_clear_line(arguments: tuple[str, ...], said: str) -> None:
    _check_mistake(arguments, said)


DRY_RUN = """
import sys
for name in ("torch", "transformers", "datasets", "huggingface_hub"):
    sys.modules[name] = None
from srr_guard.cli import main
main()
"""


@pytest.mark.parametrize("recipe", ["public", "extended"])
def test_a_dry_run_prints_the_recipe_and_needs_nothing(recipe: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRY_RUN, "train", "--recipe", recipe, "--dry-run"],
        capture_output=True,
        text=True,
        timeout=300,
        env={"COLUMNS": "120", "SRR_GUARD_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    for source in RECIPES[recipe].sources:
        assert source.name in done.stdout
        assert source.where in done.stdout
        assert source.licence in done.stdout
    assert ("--accept-licence nc" in done.stdout) == (recipe == "extended")
    assert not (tmp_path / "cache").exists()


def test_the_page_on_training_shows_the_dry_run() -> None:
    console = Console(record=True, width=110, file=io.StringIO())
    print_recipe(RECIPES["public"], console)
    lines = [line.strip() for line in console.export_text().splitlines() if line.strip()]
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    shown = [line.strip() for line in page.splitlines()]
    assert [line for line in lines if line not in shown] == []


def test_what_was_loaded_is_printed() -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    row = LabelledResponse(prompt="Hi", response="Hello", label="safe")
    public = RECIPES["public"].sources
    print_loaded(
        LoadedRecipe(
            name="public",
            sources=(
                LoadedSource(source=public[0], state="failed", note="accept the terms"),
                LoadedSource(source=public[1], state="loaded", taken=SourceRows([row], "c0", 4, 3)),
            ),
            notes=("contrast: not here",),
        ),
        console,
    )
    shown = " ".join(console.export_text().split())
    assert "polyguardmix 0 0 failed accept the terms" in shown
    assert "polyguardmix_languages 1 0 3 loaded" in shown
    assert "contrast: not here" in shown


def _check_mistake(arguments: tuple[str, ...], said: str) -> None:
    done = command(*arguments, input="one\ntwo\n", env={"HF_HUB_OFFLINE": "1", "COLUMNS": "300"})
    assert done.returncode == 2
    assert "error" in done.stderr.lower()
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.local
def test_a_file_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"prompt": "q", "response": "a", "label": "safe", "kind": "benign-help"}\n'
    )
    code = (
        "import srr_guard.scorer.srr_scorer as at\n"
        "from srr_guard.testing import FakeScorer\n"
        "at.SRRScorer.from_pretrained = lambda *_, **__: FakeScorer(lambda *_: 0.9)\n"
        "from srr_guard.cli import main; main()"
    )
    arguments = ["tune", "--data", "rows.jsonl", "--output", "no/where.json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "no/where.json" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["[1", "[1, 2]", '["a", NaN]', "", "\n \n"])
def test_candidates_that_are_no_texts(text: str, tmp_path: Path) -> None:
    file = tmp_path / "answers.txt"
    file.write_text(text)
    result = CliRunner().invoke(app, ["score", "--prompt", "Hi", "--candidates", str(file)])
    assert isinstance(result.exception, InvalidInputError)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b'\xef\xbb\xbf["one", "two"]', ["one", "two"]),
        (b"\xef\xbb\xbfone\r\ntwo\r\n", ["one", "two"]),
        ("one\u2028still one\x0cand more\ntwo".encode(), ["one\u2028still one\x0cand more", "two"]),
    ],
)
def test_candidates_are_read_as_they_are_written(
    written: bytes, read: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = FakeScorer(lambda *_: 0.5)
    monkeypatch.setattr("srr_guard.SRRScorer.from_pretrained", lambda *_, **__: scorer)
    file = tmp_path / "answers.txt"
    file.write_bytes(written)
    result = CliRunner().invoke(app, ["score", "--prompt", "Hi", "--candidates", str(file)])
    assert result.exit_code == 0
    assert scorer.calls == [tuple(read)]


@pytest.mark.parametrize("width", [30, 40, 59, 60, 80])
def test_figures_are_not_cut_off(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = FakeScorer(lambda _, answer: 0.875 if "good" in answer else 0.125)
    monkeypatch.setattr("srr_guard.SRRScorer.from_pretrained", lambda *_, **__: scorer)
    file = tmp_path / "answers.txt"
    file.write_text("a long and good answer " * 9 + "\nbad\n")
    arguments = ["score", "--prompt", "Hi", "--candidates", str(file)]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": str(width)}).stdout
    assert "0.875" in shown
    assert "0.125" in shown
    assert "…" not in shown
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= width


LIVE = Scene("Live", "How do plants drink?")
WRITTEN = Scene("Written", "And fish?", ("a bad answer", "a good answer"))


def test_the_demo_shows_what_passed_and_why() -> None:
    console = Console(record=True, width=120)
    ranker = SafetyRanker(
        ScriptedChatModel(answers=["a good one"]),
        scorer=FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1),
    )
    run_demo(ranker, [LIVE, WRITTEN], console)
    shown = console.export_text()
    assert "2 requests: 2 answered, 0 refused; 1 times something else went out" in shown
    assert WRITTEN.request in shown
    assert "0.900" in shown
    assert "generation" in shown
    assert "written answers" in shown


@pytest.mark.parametrize("width", [24, 40, 60, 100])
def test_the_demo_fits(width: int) -> None:
    console = Console(record=True, width=width, file=io.StringIO())
    scorer = FakeScorer(lambda prompt, answer: 0.875 if "good" in answer else 0.125)
    ranker = SafetyRanker(ScriptedChatModel(answers=["a good [red]one[/] \x1b[31m"]), scorer=scorer)
    run_demo(ranker, [LIVE, WRITTEN._replace(request="[/] \u202e")], console)
    shown = console.export_text()
    assert "0.875" in shown
    assert "[red]one[/]" in shown
    assert r"\x1b[31m" in shown
    assert '"[/] \\u202e"' in shown
    assert max(map(len, shown.splitlines())) <= width


def test_the_demo_shows_a_refusal() -> None:
    console = Console(record=True, width=120)
    ranker = SafetyRanker(
        ScriptedChatModel(answers=["a bad one"]),
        scorer=FakeScorer(lambda prompt, answer: 0.1),
        decision=DecisionPolicy(refusal="Not this one."),
    )
    run_demo(ranker, [LIVE], console)
    shown = console.export_text()
    assert "Not this one." in shown
    assert "1 requests: 0 answered, 1 refused" in shown


@pytest.mark.model
def test_the_shipped_scorer_decides_the_scenes_as_their_titles_say() -> None:
    guard = Guard()
    passed = {
        scene.title: guard.choose(scene.request, scene.answers).chosen
        for scene in SCENES
        if scene.answers
    }
    help_kept, beaten, jailbreak, refused = passed.values()
    assert help_kept is not None
    assert help_kept.index == 0
    assert beaten is not None
    assert beaten.index in (1, 3)
    assert jailbreak is not None
    assert jailbreak.index == 2
    assert refused is None


@pytest.mark.model
def test_score_reads_lists_and_lines(tmp_path: Path) -> None:
    answers = ["Give it light, and water it when dry.", "I can't help with that."]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    arguments = ["score", "--prompt", "How do I keep basil alive?", "--candidates"]
    listed = CliRunner().invoke(app, [*arguments, str(tmp_path / "answers.json"), "--json"])
    lines = CliRunner().invoke(app, [*arguments, "-", "--json"], input="\n".join(answers))
    assert json.loads(listed.stdout) == json.loads(lines.stdout)
    table = CliRunner().invoke(app, [*arguments, "-"], input="\n".join(answers)).stdout
    assert "p_safe" in table
    assert "Give it light" in table


@pytest.mark.model
def test_the_demo_runs_on_the_real_model() -> None:
    result = CliRunner().invoke(app, ["demo", "What is a leap year?", "--n", "2", "--tokens", "12"])
    assert result.exit_code == 0, result.output
    assert "leap year" in result.stdout
    assert "1 requests" in result.stdout
