"""The command line: what a user types, what comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import srr_guard
from srr_guard import DecisionPolicy, SafetyRanker
from srr_guard.cli import app
from srr_guard.cli.demo_table import PROMPTS, run_demo
from srr_guard.errors import InvalidInputError
from srr_guard.testing import FakeScorer, ScriptedChatModel


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("score", "--prompt", "Hi", "--candidates", "nowhere.txt"), "nowhere.txt"),
        (("score", "--prompt", "Hi", "--candidates", "-", "--scorer", "nope"), "nope"),
        (("train", "--data", "x", "--output", "x", "--preset", "best"), "best"),
        (("train", "--data", "x", "--output", "x", "--dtype", "int4"), "int4"),
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
        (("train", "--data", "x", "--output", "x", "--validation-share", "2"), "validation_share"),
        (("evaluate", "--data", "nowhere"), "nowhere"),
        (("adapt", "--data", "nowhere", "--output", "x"), "nowhere"),
        (("adapt", "--data", "x", "--output", "x", "--strength", "much"), "--strength 'much'"),
    ],
)
def test_mistakes_in_training_are_one_clear_line(arguments: tuple[str, ...], said: str) -> None:
    _check_mistake(arguments, said)


def _check_mistake(arguments: tuple[str, ...], said: str) -> None:
    done = command(*arguments, input="one\ntwo\n", env={"HF_HUB_OFFLINE": "1", "COLUMNS": "300"})
    assert done.returncode == 2
    assert "error" in done.stderr.lower()
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["[1", "[1, 2]", "", "\n \n"])
def test_candidates_that_are_no_texts(text: str, tmp_path: Path) -> None:
    file = tmp_path / "answers.txt"
    file.write_text(text)
    result = CliRunner().invoke(app, ["score", "--prompt", "Hi", "--candidates", str(file)])
    assert isinstance(result.exception, InvalidInputError)


def test_the_demo_shows_what_passed_and_why() -> None:
    console = Console(record=True, width=120)
    ranker = SafetyRanker(
        ScriptedChatModel(answers=["a bad one", "a good one", "a bad one", "a worse one"]),
        scorer=FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1),
    )
    run_demo(ranker, PROMPTS[:2], console)
    shown = console.export_text()
    assert "2 requests: 2 answered, 0 refused" in shown
    assert PROMPTS[1].text in shown
    assert "0.900" in shown
    assert "generation" in shown


def test_the_demo_shows_a_refusal() -> None:
    console = Console(record=True, width=120)
    ranker = SafetyRanker(
        ScriptedChatModel(answers=["a bad one"]),
        scorer=FakeScorer(lambda prompt, answer: 0.1),
        decision=DecisionPolicy(refusal="Not this one."),
    )
    run_demo(ranker, PROMPTS[:1], console)
    shown = console.export_text()
    assert "Not this one." in shown
    assert "1 requests: 0 answered, 1 refused" in shown


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
