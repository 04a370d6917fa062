"""Without the extra `local` every door to a model says in one line what to install."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import srr_guard.training
from srr_guard import (
    DecisionPolicy,
    Guard,
    LocalChatModel,
    SafetyRankedChatModel,
    SafetyRanker,
    SRRScorer,
)
from srr_guard.cli import app
from srr_guard.errors import MissingExtraError
from srr_guard.extras import require_local
from srr_guard.reference import ReferenceLLM, resolve_reference
from srr_guard.scorer import ScorerBundle
from srr_guard.testing import FakeScorer, ScriptedChatModel

SCORER = FakeScorer(lambda prompt, answer: 0.9)
MODEL = ScriptedChatModel(answers=["fine"])


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the packages of the extra look as if they were not installed."""
    for package in ("torch", "transformers", "safetensors", "huggingface_hub", "gguf"):
        monkeypatch.setitem(sys.modules, package, None)


DOORS: dict[str, Callable[[], Any]] = {
    "score": lambda: SRRScorer.from_pretrained().score("q", ["a"]),
    "ascore": lambda: asyncio.run(SRRScorer.from_pretrained().ascore("q", ["a"])),
    "warm_up": lambda: SRRScorer.from_pretrained().warm_up(),
    "guard": lambda: Guard().choose("q", ["a"]),
    "ranker": lambda: SafetyRanker(MODEL).invoke("q"),
    "ranked model": lambda: asyncio.run(SafetyRankedChatModel(MODEL).ainvoke("q")),
    "chat model": lambda: LocalChatModel().invoke("q"),
    "chat model, async": lambda: asyncio.run(LocalChatModel().ainvoke("q")),
    "stream": lambda: list(LocalChatModel().stream("q")),
    "tokens": lambda: LocalChatModel().get_num_tokens("q"),
    "guarded chat model": lambda: SafetyRanker(LocalChatModel(), scorer=SCORER).invoke("q"),
    "reference": lambda: ReferenceLLM.load("anything"),
    "hub model": lambda: resolve_reference("someone/model"),
    "hub bundle": lambda: ScorerBundle.find("someone/bundle"),
    "head": lambda: ScorerBundle.find().load_head(),
    "train": lambda: srr_guard.training.train,
    "evaluate": lambda: srr_guard.training.evaluate,
}


@pytest.mark.parametrize("door", DOORS)
def test_a_door_says_what_to_install(door: str) -> None:
    with pytest.raises(MissingExtraError) as raised:
        DOORS[door]()
    (line,) = str(raised.value).splitlines()
    assert line.endswith('is not installed: run `pip install "srr-guard[local]"`')
    assert raised.value.extra == "local"
    assert repr(raised.value.package) in line


@pytest.mark.parametrize("policy", ["refuse", "pass"])
def test_no_policy_bypasses_a_scorer_that_is_not_installed(policy: Any) -> None:
    ranker = SafetyRanker(MODEL, decision=DecisionPolicy(scorer_error=policy))
    with pytest.raises(MissingExtraError):
        ranker.invoke("q")
    assert ranker.bypasses == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--data", "x", "--output", "x"),
        ("evaluate", "--data", "x"),
        ("demo",),
        ("score", "--prompt", "q", "--candidates", "-"),
    ],
)
def test_a_command_says_what_to_install(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, arguments, input="an answer")
    assert isinstance(result.exception, MissingExtraError)


def test_what_is_installed_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require_local("this test", "pydantic", "typer")
    with pytest.raises(MissingExtraError, match="this test needs the package 'no_such_package'"):
        require_local("this test", "pydantic", "no_such_package")


_MADE_OF_TORCH = ("training.adapting", "training.evaluation", "training.fit")


@pytest.mark.parametrize("part", _MADE_OF_TORCH)
def test_parts_made_of_torch_say_so_on_import(part: str) -> None:
    script = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from srr_guard.errors import MissingExtraError\n"
        "try:\n"
        f"    import srr_guard.{part}\n"
        "except MissingExtraError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert f"srr_guard.{part} needs the package 'torch'" in done.stdout


def test_nothing_of_the_base_imports_torch() -> None:
    """Each module is imported on its own, but for those that are made of torch."""
    root = Path(srr_guard.__file__).parent
    made_of_torch = (
        "scorer.familiarity",
        "scorer.head",
        "scorer.inference",
        "training.calibration",
    )
    names = []
    for file in sorted(root.rglob("*.py")):
        name = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        if name in made_of_torch or name.startswith(_MADE_OF_TORCH):
            continue
        if name not in ("training.run", "__init__"):
            names.append(f"srr_guard.{name}")
    script = (
        "import importlib, sys\n"
        "for package in ('torch', 'transformers', 'safetensors', 'huggingface_hub', 'numpy'):\n"
        "    sys.modules[package] = None\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
