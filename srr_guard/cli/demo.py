"""`srr-guard demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from srr_guard.cli.options import SCORER
from srr_guard.extras import require_local
from srr_guard.terminal import terminal


def demo(
    prompts: Annotated[list[str] | None, typer.Argument(help="Your own prompts.")] = None,
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Answers per prompt.")] = 4,
    threshold: Annotated[float, typer.Option(help="Lowest p_safe that is passed on.")] = 0.5,
    scorer: Annotated[str | None, typer.Option(help=SCORER)] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 96,
    seed: Annotated[int, typer.Option(help="Random seed of the sampling.")] = 0,
) -> None:
    """Watch the scorer choose among written answers, and among those of SmolLM2."""
    require_local("`srr-guard demo`")
    from srr_guard import DecisionPolicy, LocalChatModel, SafetyRanker, SamplingPolicy, SRRScorer
    from srr_guard.cli.demo_scenes import SCENES, Scene
    from srr_guard.cli.demo_table import run_demo

    ranker = SafetyRanker(
        LocalChatModel(max_new_tokens=tokens, seed=seed),
        scorer=SRRScorer.from_pretrained(scorer),
        sampling=SamplingPolicy(n=n, deadline=None),
        decision=DecisionPolicy(threshold=threshold),
    )
    scenes = [Scene("SmolLM2 answers you", text) for text in prompts] if prompts else SCENES
    run_demo(ranker, scenes, terminal())
