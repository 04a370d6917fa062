"""The command, the server's start, the page's doc, and what its package holds."""

from __future__ import annotations

import re
import shlex
import webbrowser
from importlib.resources import files
from pathlib import Path

import pytest
from playgrounds import ByWord
from typer.main import get_command

from srr_guard.cli import app
from srr_guard.errors import ConfigurationError
from srr_guard.playground import run_playground, server
from srr_guard.playground.bench import Bench

PAGE = Path(__file__).parents[2] / "docs" / "playground.md"
COMMANDS = [
    line.removeprefix("$ ").split(" #")[0]
    for line in PAGE.read_text().splitlines()
    if line.startswith("$ srr-guard ")
]


class Started:
    """Stands for the server; notes that it ran."""

    def __init__(self) -> None:
        self.sockets: list[object] = []

    def run(self, sockets: list[object]) -> None:
        self.sockets = sockets


@pytest.mark.parametrize("browser", [True, False])
def test_the_link_is_printed_and_opened(monkeypatch, browser):
    started, said, opened = Started(), [], []
    monkeypatch.setattr(server, "playground_server", lambda playground, bench: started)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    run_playground(Bench(model=None, scorer=ByWord()), port=0, browser=browser, say=said.append)
    (bound,) = started.sockets
    port = bound.getsockname()[1]  # type: ignore[attr-defined]
    bound.close()  # type: ignore[attr-defined]
    (link,) = re.findall(rf"http://127\.0\.0\.1:{port}/#token=[\w-]{{20,}}", said[0])
    assert opened == ([link] if browser else [])


def test_other_machines_are_refused_before_anything_starts():
    with pytest.raises(ConfigurationError, match="this machine only"):
        run_playground(Bench(model=None, scorer=ByWord()), host="0.0.0.0", browser=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_exist(command):
    _, name, *arguments = shlex.split(command)
    found = get_command(app).commands[name]  # type: ignore[attr-defined]
    options = {o for p in found.params for o in (*p.opts, *p.secondary_opts)}
    assert {argument for argument in arguments if argument.startswith("--")} <= options


def test_the_files_of_the_page_are_in_the_package():
    folder = files("srr_guard.playground") / "static"
    page = (folder / "index.html").read_text()
    for name in re.findall(r'"/static/([\w.]+)"', page):
        assert (folder / name).is_file()


def test_the_pictures_of_the_page_are_there_and_small():
    for name in re.findall(r"figures/([\w.]+\.png)", PAGE.read_text()):
        assert 10_000 < (PAGE.parent / "figures" / name).stat().st_size < 200_000
