"""The commands put together, and how errors are printed."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from srr_guard import __version__
from srr_guard.cli.adapt import adapt
from srr_guard.cli.demo import demo
from srr_guard.cli.evaluate import evaluate
from srr_guard.cli.explain import explain
from srr_guard.cli.playground import playground
from srr_guard.cli.rank import rank
from srr_guard.cli.recipe_files import triggers, vectors
from srr_guard.cli.score import score
from srr_guard.cli.serve import serve
from srr_guard.cli.soft_prompt import soft_prompt
from srr_guard.cli.train import train
from srr_guard.cli.tune import tune
from srr_guard.errors import SRRGuardError

app = typer.Typer(
    help="Sample several answers, rank them by safety, pass the best one on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    demo,
    score,
    explain,
    rank,
    serve,
    playground,
    tune,
    adapt,
    train,
    evaluate,
    triggers,
    vectors,
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(soft_prompt, name="soft-prompt")


def main() -> None:
    """Run the command line. Prints errors of srr_guard and of files without a traceback.

    Exit codes: 0, done; 1, done, and there is nothing to show for it, or whoever reads the output
    is gone; 2, an error; 130, interrupted.
    """
    try:
        app()
    except _told() as error:
        Console(stderr=True).print(
            f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(2)
    except SystemExit as end:
        if end.code != _INTERRUPTED:
            raise
        _leave_at_once()


_INTERRUPTED = 130  # as shells have it, and typer


def _leave_at_once() -> None:
    """End the process without the interpreter's end: what was finished is written already.

    Threads that load or run a model would go on until they are done, and a torch that is half
    imported cannot be torn down without tracebacks.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(_INTERRUPTED)


def _told() -> tuple[type[Exception], ...]:
    """The errors that tell a user what to do; safetensors has its own for files."""
    safetensors = sys.modules.get("safetensors")
    return (SRRGuardError, OSError, *([safetensors.SafetensorError] if safetensors else []))


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print it.")] = False) -> None:
    if version:
        typer.echo(f"srr-guard {__version__}")
        raise typer.Exit
