"""`srr-guard playground`."""

from __future__ import annotations

from typing import Annotated

import typer

from srr_guard.cli.options import REFERENCE, SCORER
from srr_guard.extras import require_installed, require_local
from srr_guard.terminal import say


def playground(
    scorer: Annotated[str | None, typer.Option(help=SCORER)] = None,
    compare_scorer: Annotated[
        str | None, typer.Option(help="Another scorer, to compare side by side.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help=REFERENCE)] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The model that answers: a folder, GGUF file or hub id."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 128,
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")
    ] = 8322,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Try prompts, scores and policies on a local page."""
    require_installed(
        "`srr-guard playground`", *("fastapi", "uvicorn", "pydantic_settings"), extra="serve"
    )
    require_local("`srr-guard playground`")
    from srr_guard import LocalChatModel, SRRScorer
    from srr_guard.playground import run_playground
    from srr_guard.playground.bench import Bench
    from srr_guard.reference.source import resolve_reference

    for named in (model, reference):
        if named is not None:
            resolve_reference(named)  # what is nowhere is said now, not by the page
    second = compare_scorer and SRRScorer.from_pretrained(compare_scorer, reference=reference)
    bench = Bench(
        model=LocalChatModel(model=model, max_new_tokens=tokens),
        scorer=SRRScorer.from_pretrained(scorer, reference=reference),
        second=second or None,
        labels=(scorer or "shipped", compare_scorer or ""),
    )
    run_playground(bench, host=host, port=port, browser=browser, say=say)
