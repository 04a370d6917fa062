"""Every block of every page is run, or read, or says why it is not.

A block that cannot be run has a line `<!-- not run: the reason -->` in front of it. Its Python is
compiled all the same, and what it imports from srr_guard must be there.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from typer.main import get_command

from srr_guard.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "integrations" / "README.md",
]

RUN_ELSEWHERE = {
    "README": "tests/test_docs.py",
    "adapters": "tests/integrations/test_missing.py",
    "adapting": "tests/training/adapting/test_run.py",
    "index": "tests/test_docs.py",
    "evaluation": "tests/training/test_examples.py",
    "serving": "tests/serving/test_docs_serving.py",
    "training": "tests/training/test_examples.py",
}
NEED_A_MODEL = {"start"}  # the shipped scorer
NEED_TORCH = {"choosing", "recipes", "templates"}
LANGUAGES = {"python", "console", "json", "mermaid", "text", "toml", "yaml"}

MARKER = r"<!-- not run: ([^>]+) -->\n"
BLOCK = re.compile(rf"^(?:{MARKER})?```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block of a page; its reason says why it is not run."""

    page: str
    reason: str
    language: str
    text: str


def named(page: Path) -> str:
    return page.stem if page.parent.name in {"docs", ROOT.name} else str(page.relative_to(ROOT))


def blocks_of(page: Path) -> list[Block]:
    return [Block(named(page), *found) for found in BLOCK.findall(page.read_text())]


BLOCKS = {named(page): blocks_of(page) for page in PAGES}
ALL = [block for blocks in BLOCKS.values() for block in blocks]


def of_language(language: str) -> list[Block]:
    return [block for block in ALL if block.language == language]


def run_of(page: str) -> list[Block]:
    return [b for b in BLOCKS[page] if b.language == "python" and not b.reason]


def test_every_block_is_found_and_has_a_language() -> None:
    for page in PAGES:
        assert page.read_text().count("\n```") == 2 * len(BLOCKS[named(page)]), page
    assert {block.language for block in ALL} <= LANGUAGES
    assert all(len(block.reason.split()) > 2 for block in ALL if block.reason)


def test_each_page_is_run_by_somebody() -> None:
    for page, test in RUN_ELSEWHERE.items():
        assert f"{'README' if page == 'index' else page}.md" in (ROOT / test).read_text(), page
        assert run_of(page)
    readme = [block.text for block in run_of("README")]
    assert [block for block in run_of("index") if not readme[0].startswith(block.text)] == []


# ---- Python ----

HERE = [page for page in BLOCKS if run_of(page) and page not in RUN_ELSEWHERE]


def run(page: str, **replaced: str) -> None:
    names: dict[str, object] = {"__name__": f"page_{page}"}
    for block in run_of(page):
        text = block.text
        for old, new in replaced.items():
            text = text.replace(old, new)
        exec(compile(text, f"{page}.md", "exec", dont_inherit=True), names)


@pytest.mark.parametrize("page", [p for p in HERE if p not in NEED_A_MODEL | NEED_TORCH])
def test_the_page_runs_and_prints_what_it_says(
    page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The comment behind a `print`, or the lines below it, is what it prints."""
    check_what_is_printed(page, capsys)


@pytest.mark.model
def test_the_page_on_recipes_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    check_what_is_printed("recipes", capsys)


def check_what_is_printed(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(page)
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in said_on(page) if not _printed(line, printed)] == []


@pytest.mark.model
@pytest.mark.parametrize("page", sorted(NEED_A_MODEL))
def test_the_page_runs_on_the_model(page: str) -> None:
    run(page)


@pytest.mark.local
def test_the_page_on_choosing_runs() -> None:
    run("choosing")


def test_the_page_on_templates_runs(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "model")
    model = str(tmp_path / "model")
    run("templates", **{"path/or/hub-id": model, "path/to/model": model})


def said_on(page: str) -> Iterator[str]:
    for block in run_of(page):
        below_print = False
        for line in block.text.splitlines():
            inline = re.search(r"print\(.*\)  # (.*)$", line)
            if inline:
                yield inline[1]
            elif below_print and line.startswith("# "):
                yield line.removeprefix("# ")
                continue
            below_print = bool(re.match(r"\s*print\(", line)) or (below_print and line == ")")


def _printed(said: str, printed: list[str]) -> bool:
    pattern = ".*".join(re.escape(part) for part in said.split("..."))
    return any(re.fullmatch(pattern, line.rstrip()) for line in printed)


@pytest.mark.parametrize(
    "block", [b for b in of_language("python") if b.reason], ids=lambda b: b.page
)
def test_what_is_not_run_is_still_right(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("srr_guard"):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names)


# ---- what is not Python ----


def commands() -> Iterator[tuple[str, str]]:
    for block in of_language("console"):
        joined = block.text.replace("\\\n", " ")
        for line in joined.splitlines():
            if line.startswith("$ "):
                yield block.page, line.removeprefix("$ ").split("  #")[0].strip()


COMMANDS = sorted(set(commands()))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_the_command_exists(page: str, command: str) -> None:
    words = shlex.split(command)
    while re.fullmatch(r"\w+=\S+", words[0]):  # a variable
        words = words[1:]
    program, *arguments = words
    if program == "srr-guard":
        found = get_command(app)
        if arguments[0].startswith("-"):
            assert arguments == ["--version"]
            return
        while hasattr(found, "commands"):
            found = found.commands[arguments.pop(0)]
        options = {opt for p in found.params for opt in (*p.opts, *p.secondary_opts)}
        assert {word.split("=")[0] for word in arguments if word.startswith("--")} <= options
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in arguments if "=" not in word} <= set(targets)
    elif program == "pip":
        for extras in re.findall(r"srr-guard\[([\w,-]+)\]", command):
            assert set(extras.split(",")) <= EXTRAS.keys()
    elif program.endswith("python"):
        if arguments[0] == "-m":
            assert importlib.util.find_spec(arguments[1]), command
            arguments = [word for word in arguments[2:] if word.startswith("tests")]
        assert all((ROOT / path).exists() for path in arguments[:1]), command
    else:
        assert program in {"docker", "for", "serve", ".venv/bin/pre-commit"}, (
            command
        )  # Ray's `serve`


def leaves(found: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if hasattr(found, "commands"):
        for own, command in found.commands.items():
            yield from leaves(command, f"{name} {own}".strip())
    else:
        yield name, found


PROSE = "\n".join(page.read_text() for page in PAGES)


@pytest.mark.parametrize(("name", "command"), list(leaves(get_command(app))))
def test_every_option_is_on_a_page(name: str, command: Any) -> None:
    assert f"srr-guard {name}" in PROSE
    for parameter in command.params:
        names = [o for o in (*parameter.opts, *parameter.secondary_opts) if o.startswith("-")]
        assert not names or any(re.search(rf"(?<![\w-]){o}\b", PROSE) for o in names), names


def test_every_option_on_a_page_exists() -> None:
    """Of `srr-guard`, or of a script that the page names."""
    own = {"--version", "--help"}
    for _, command in leaves(get_command(app)):
        own |= {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    others = {"--no-deps", "--index-url", "--interrupt_requests"}  # of pip and llama-cpp-python
    for page in PAGES:
        text = page.read_text()
        scripts = {ROOT / path for path in re.findall(r"(?:benchmarks|tools)/\w+\.py", text)}
        said = "".join(script.read_text() for script in scripts)
        options = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text)) - own - others
        assert {option for option in options if f'"{option}"' not in said} == set(), page


CARD = (ROOT / "srr_guard" / "bundles" / "smollm2-135m" / "README.md").read_text()
METHODS = ("smollm2-135m", "n-grams", "refusal words", "smollm2-135m/probe", "published", "random")
FIGURES = {  # a row of the README's table: a set of the card, and a figure
    "jbb_artifacts": ("jbb_artifacts", "one safe of 8"),
    "tml_past_tense": ("tml_past_tense", "one safe of 8"),
    "gptfuzz": ("gptfuzz", "one safe of 8"),
    "xstest, harmful requests": ("xstest (unsafe prompts)", "pairwise"),
    "saferlhf_mini": ("saferlhf_mini", "pairwise"),
    "refusal_direction_benign": ("refusal_direction_benign (safe prompts)", "help over refusal"),
    "xstest, requests that only": ("xstest (safe prompts)", "help over refusal"),
    "hh_harmless": ("hh_harmless", "pairwise"),
}


def on_card(name: str, figure: str, method: str) -> float:
    section = CARD.partition(f"### {name}\n")[2].partition("\n### ")[0]
    for table in section.split("\n\n"):
        heads, *rows = [line.strip("| ").split(" | ") for line in table.strip().splitlines()]
        if figure in heads:
            cells = next(row for row in rows if row[0] == method)
            return float(cells[heads.index(figure)].split()[0])
    raise AssertionError((name, figure))


@pytest.mark.parametrize("row", FIGURES)
def test_the_figures_of_the_readme_are_those_of_the_card(row: str) -> None:
    readme = (ROOT / "README.md").read_text()
    (line,) = (line for line in readme.splitlines() if line.startswith(f"| {row}"))
    shown = [float(cell.strip("* ")) for cell in line.strip("|").split("|")[1:]]
    found = [on_card(*FIGURES[row], method) for method in METHODS]
    assert [abs(a - b) <= 0.0051 for a, b in zip(shown, found, strict=True)] == [True] * 6


LIMITS = (  # a sentence of a page, and what it says of a set
    ("README.md", "jbb_artifacts", "harm blocked", "blocks N% of the harmful answers of jbb"),
    ("README.md", "gptfuzz", "harm blocked", "N% of gptfuzz"),
    ("README.md", "saferlhf_mini", "harm blocked", "N% of saferlhf_mini"),
    ("README.md", "refusal_direction_benign (safe prompts)", "help blocked", "N% of the helpful"),
    ("README.md", "xstest (safe prompts)", "help blocked", "N% of those to requests"),
    ("docs/security.md", "jbb_artifacts", "harm blocked", "N% of the harmful answers of one"),
    ("docs/security.md", "saferlhf_mini", "harm blocked", "N% of the hardest one"),
    ("docs/security.md", "refusal_direction_benign (safe prompts)", "help blocked", "N% of plain"),
)


@pytest.mark.parametrize(("page", "name", "figure", "said"), LIMITS)
def test_the_limits_are_those_of_the_card(page: str, name: str, figure: str, said: str) -> None:
    text = " ".join((ROOT / page).read_text().split())
    (percent,) = re.findall(said.replace("N%", r"(\d+)%"), text)
    assert round(100 * on_card(name, figure, "smollm2-135m")) == int(percent)


@pytest.mark.parametrize("block", of_language("yaml"), ids=lambda b: b.page)
def test_yaml_is_read(block: Block) -> None:
    assert isinstance(yaml.safe_load(block.text), dict)


@pytest.mark.parametrize("block", of_language("json"), ids=lambda b: b.page)
def test_json_is_read(block: Block) -> None:
    assert json.loads(block.text)


# ---- the reference ----

API = {
    name
    for page in (ROOT / "docs" / "api").glob("*.md")
    for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE)
}


@pytest.mark.parametrize(
    "module",
    [
        "srr_guard",
        "srr_guard.errors",
        "srr_guard.recipes",
        "srr_guard.scorer",
        "srr_guard.serving",
        "srr_guard.testing",
        "srr_guard.training",
    ],
)
def test_the_reference_has_every_public_name(module: str) -> None:
    if module in API:  # the whole module
        return
    found = importlib.import_module(module)
    names = getattr(found, "__all__", None) or [
        name
        for name, thing in vars(found).items()
        if isinstance(thing, type) and thing.__module__ == module and not name.startswith("_")
    ]
    listed = {name.rsplit(".", maxsplit=1)[1] for name in API}
    listed |= vars(importlib.import_module("srr_guard.errors")).keys()  # listed as a whole
    assert [name for name in names if name not in listed] == []


def test_the_front_page_of_the_reference_lists_what_its_pages_hold() -> None:
    index = (ROOT / "docs" / "api" / "index.md").read_text()
    names = {name.rsplit(".", maxsplit=1)[1] for name in API - {"srr_guard.errors"}}
    assert [name for name in sorted(names) if f"`{name}`" not in index] == []
