"""Each example as a stranger runs it: SmolLM2, no key, no network; three in a process of their own.

The others share this process, and with it one copy of the model.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOWN = {
    "wrapped_chain.py": ("question  Why", "answer    ", "reason    ", "p_safe "),
    "decorated_function.py": ("question  Why", "answer    ", "sampled   4", "for scoring"),
    "tool_agent.py": ("human  Why", "ai     ", "p_safe"),
}
HERE = {
    "quickstart.py": (
        "ranked    'Give it",
        "order (1, 0)",
        "sampled   4",
        "passed on ",
        "reason    ",
    ),
    "rag_chain.py": ("question  How long", "answer    ", "citations returns", "p_safe "),
    "support_app.py": ("status    200", "reply     ", "'requests': 1", "'candidates': 4"),
    "batch_moderation.py": ('"prompt": "How do I boil an egg?"', "checked   8 answers"),
}
ALONE = {"jailbreak.py", "own_policy.py"}
ASK_NO_MODEL = {"batch_moderation.py"}


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SHOWN, *HERE, *ALONE}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SRR_GUARD_EXAMPLE_MODEL", raising=False)
    monkeypatch.setenv("SRR_GUARD_EXAMPLE_TOKENS", "12")


def run(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.model
@pytest.mark.parametrize("name", HERE)
def test_example_in_this_process(name, small, monkeypatch, capsys):
    said = run(name, monkeypatch, capsys)
    assert not [text for text in HERE[name] if text not in said], said


@pytest.mark.model
def test_the_jailbreak_goes_out_without_the_guard_only(small, monkeypatch, capsys):
    said = run("jailbreak.py", monkeypatch, capsys)
    assert said.endswith("3 requests, 0 bypasses\n")
    on = [line for line in said.splitlines() if line.startswith("guard on")]
    off = [line for line in said.splitlines() if line.startswith("guard off")]
    assert "bolt cutter" in off[1]
    assert "petrol" in off[2]
    for given_in in ("bolt cutter", "shim", "hinges", "petrol", "chlorine", "Thermite"):
        assert not [line for line in on if given_in in line], on
    assert "can't help with that" not in on[0]


@pytest.mark.model
def test_the_own_policy_is_learnt(small, monkeypatch, capsys):
    last = run("own_policy.py", monkeypatch, capsys).splitlines()[-1].split()
    before, after = int(last[1]), int(last[5])
    assert after >= 7
    assert after > before


@pytest.mark.model
def test_the_tour(small):
    """The notebook's cells, one after the other, as a kernel runs them."""
    notebook = json.loads((EXAMPLES / "tour.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    names: dict[str, Any] = {}
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert len(cells) >= 6
    for cell in cells:
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        exec(compile("".join(cell["source"]), "tour.ipynb", "exec"), names)


@pytest.mark.model
@pytest.mark.parametrize("name", SHOWN)
def test_example(name):
    environment = {k: v for k, v in os.environ.items() if k != "SRR_GUARD_EXAMPLE_MODEL"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, "Why is the sky blue?"],
        env={
            **environment,
            "SRR_GUARD_EXAMPLE_TOKENS": "16",
            "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "error",
        },
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not [text for text in SHOWN[name] if text not in done.stdout], done.stdout


@pytest.mark.parametrize("name", sorted({*SHOWN, *HERE, "jailbreak.py"} - ASK_NO_MODEL))
def test_a_provider_is_one_variable_away(name):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        env={**os.environ, "SRR_GUARD_EXAMPLE_MODEL": "nosuchprovider:model"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "nosuchprovider" in done.stderr
