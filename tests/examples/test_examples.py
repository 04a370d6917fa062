"""Each example as a stranger runs it: a process of its own, SmolLM2, no key, no network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOWN = {
    "wrapped_chain.py": ("question  Why", "answer    ", "reason    ", "p_safe "),
    "decorated_function.py": ("question  Why", "answer    ", "sampled   4", "for scoring"),
    "tool_agent.py": ("human  Why", "ai     ", "p_safe"),
}


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SHOWN)


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


@pytest.mark.parametrize("name", SHOWN)
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
