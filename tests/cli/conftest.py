"""Runs commands in this process, with a scorer that needs no model."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from srr_guard.cli import main
from srr_guard.scorer.explanation import Explanation, ProbeShares, Share
from srr_guard.testing import FakeScorer


class Explaining(FakeScorer):
    """Explains any answer by its words."""

    def explain(self, prompt: str, answer: str) -> Explanation:
        words = [Share(text=answer[:4], value=-1.25, start=0, end=4)]
        words.append(Share(text=answer[4:], value=0.5, start=4, end=len(answer)))
        shares = ProbeShares(
            text=answer, logit=2.345, tokens=words, sentences=words, intercept=0.1, rest=0.2
        )
        return Explanation(p_safe=0.912, harmless=shares, effects=words)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs a command here, with a scorer that needs no model; gives its code, output and errors."""
    import srr_guard.scorer.srr_scorer as at

    scorer = Explaining(lambda _, answer: 0.875 if "good" in answer else 0.125)
    monkeypatch.setattr(at.SRRScorer, "from_pretrained", lambda *_, **__: scorer)
    monkeypatch.setattr(logging.lastResort, "formatter", None)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, encoding: str = "utf-8", **environ: str) -> tuple[int, str, str]:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="") for _ in "12"]
        with monkeypatch.context() as patched:
            for name, value in environ.items():
                patched.setenv(name, value)
            patched.setattr(sys, "argv", ["srr-guard", *arguments])
            patched.setattr(sys, "stdout", streams[0])
            patched.setattr(sys, "stderr", streams[1])
            with pytest.raises(SystemExit) as ended:
                main()
        for stream in streams:
            stream.flush()
        output, errors = (s.buffer.getvalue().decode(encoding) for s in streams)  # type: ignore[attr-defined]
        return ended.value.code or 0, output, errors

    return call
