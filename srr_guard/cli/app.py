"""The commands put together, and how errors are printed."""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

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
from srr_guard.errors import InvalidInputError, SRRGuardError
from srr_guard.terminal import say
from srr_guard.visible import VisibleLines, visible_line

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
    """Run the command line. Prints each error as one line, without a traceback.

    Exit codes: 0, done; 1, done, and there is nothing to show for it, or whoever reads the output
    is gone; 2, an error; 130, interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(VisibleLines())
    try:
        _require_values(sys.argv[1:])
        code = app(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except typer.TyperException as error:
        _end(_usage_error(error))
    except typer.Abort:
        _end("aborted")
    except BrokenPipeError:
        _end("", code=1)
    except OSError as error:
        _end(_file_error(error))
    except _told() as error:
        _end(str(error))
    if code == _INTERRUPTED:
        _leave_at_once(_INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _end(text: str, *, code: int = 2) -> NoReturn:
    if text:
        say(f"error: {visible_line(text)}", errors=True)
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        sys.exit(code)
    # the interpreter would try once more to write what is left, and say that it cannot
    _leave_at_once(code)


def _require_values(arguments: list[str]) -> None:
    """Refuse `--scorer ""`: a variable that is not set would stand for the default.

    Raises:
        InvalidInputError: An argument is empty.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        name = before if not argument else argument.removesuffix("=")
        if not argument or (argument.startswith("--") and name != argument):
            option = f"{name} ''" if name.startswith("-") else "''"
            raise InvalidInputError(f"{option}: the value is empty: give one, or leave it out")


def _file_error(error: OSError) -> str:
    """What is wrong with a file; one without a name is the output."""
    name = "the output cannot be written" if error.filename is None else repr(error.filename)
    return f"{name}: {error.strerror or error}"


def _usage_error(error: typer.TyperException) -> str:
    """What is wrong with the arguments, and the value that is; nothing where help was printed."""
    text = error.format_message().replace("Value error, ", "")
    if isinstance(error.__cause__, ValidationError):
        given = repr(error.__cause__.errors()[0]["input"])
        text += "" if given in text else f" (got {given})"
    return text


_INTERRUPTED = 130  # as shells have it, and typer


def _leave_at_once(code: int) -> NoReturn:
    """End the process without the interpreter's end: what was finished is written already.

    Threads that load or run a model would go on until they are done, and a torch that is half
    imported cannot be torn down without tracebacks.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _told() -> tuple[type[Exception], ...]:
    """The errors that tell a user what to do; safetensors has its own for files."""
    safetensors = sys.modules.get("safetensors")
    return (SRRGuardError, *([safetensors.SafetensorError] if safetensors else []))


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print it.")] = False) -> None:
    if version:
        typer.echo(f"srr-guard {__version__}")
        raise typer.Exit
