"""The house: no import runs upward, no circle, no file too long, no hand in a stranger's pocket."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "srr_guard"
LONGEST = 600

# From the ground up. A file may import from its own floor (but see the circles) and from those
# below it. A folder stands for all of its files.
FLOORS = [
    (
        "errors",
        "extras",
        "threads",
        "settings",
        "blocks",
        "breaker",
        "characters",
        "filters",
        "json_lines",
        "kept_connections",
        "parquet",
        "raw",
        "reading",
        "replay",
        "recipes",
        "retry_after",
        "values",
        "visible",
    ),
    ("conversation", "decision"),
    ("policy", "protocols"),
    ("runnables",),
    ("reference",),
    ("gates",),
    ("scorer",),
    ("core",),
    ("testing", "observability", "audit", "bulk", "formats", "terminal"),
    ("local",),
    ("sources",),
    ("wrappers",),
    ("serving",),
    ("training",),
    ("playground",),
    ("cli",),
]
# Floors inside folders that have some.
INNER = {
    "reference": [
        ("cache_folder",),
        ("hub", "features", "rendering", "template", "_private"),
        ("source",),
        ("spec",),
        ("weights", "cache"),
        ("encoding",),
        ("model",),
        ("host",),
    ],
    "serving": [
        ("config",),
        ("config_file", "health", "keys", "note", "policies", "problems", "routes", "streams"),
        ("front", "logs", "metrics", "spans", "upstreams"),
        ("backends",),
        ("local_backend",),
        ("gateway",),
        ("decisions", "generation", "scores"),
        ("litellm",),
        ("app",),
        ("server",),
    ],
    "playground": [
        ("requests", "examples", "door"),
        ("kept", "words"),
        ("runs",),
        ("bench", "history"),
        ("app",),
        ("server",),
    ],
    "training": [
        ("progress", "data"),
        ("calibration", "feature_store", "tuning"),
        ("fit",),
        ("evaluation",),
        ("run", "adapting"),
    ],
    "runnables": [
        ("_private", "redaction", "cache"),
        ("tree",),
        ("state", "inputs"),
        ("tracing",),
        ("isolation",),
    ],
}


def modules() -> Iterator[tuple[str, Path]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = list(file.relative_to(PACKAGE).with_suffix("").parts)
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def imports(file: Path, *, lazy: bool = True) -> set[str]:
    """Modules of the package that a file imports; those for type checkers are left out."""
    tree = ast.parse(file.read_text())
    found = set()
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    nodes = ast.walk(tree) if lazy else tree.body
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in skipped:
            base, _, rest = node.module.partition(".")
            if base == "srr_guard":
                for alias in node.names:
                    inner = f"{rest}.{alias.name}" if rest else alias.name
                    found.add(inner if is_module(inner) else rest)
    return found


def is_module(name: str) -> bool:
    path = PACKAGE / Path(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def floor_of(part: str, floors: list[tuple[str, ...]]) -> int:
    return next(i for i, floor in enumerate(floors) if part in floor)


def test_every_part_has_a_floor() -> None:
    parts = {name.split(".")[0] for name, _ in modules()} - {""}
    assert parts == {part for floor in FLOORS for part in floor}


@pytest.mark.parametrize(
    ("name", "file"), list(modules()), ids=[n or "srr_guard" for n, _ in modules()]
)
def test_no_import_runs_upward(name: str, file: Path) -> None:
    if not name:
        return  # the package itself names what it exports
    for other in imports(file):
        if not other:
            continue  # the package itself, for its version
        own, theirs = name.split("."), other.split(".")
        if own[0] != theirs[0]:
            above = floor_of(theirs[0], FLOORS) > floor_of(own[0], FLOORS)
            assert not above, f"{name} imports {other}, which stands above it"
        elif own[0] in INNER and len(own) > 1 and len(theirs) > 1 and own[1] != theirs[1]:
            floors = INNER[own[0]]
            above = floor_of(theirs[1], floors) > floor_of(own[1], floors)
            assert not above, f"{name} imports {other}, which stands above it"


def test_no_two_files_import_each_other() -> None:
    """No circle of any length, lazy imports included."""
    graph = {name: imports(file) - {name} for name, file in modules() if name}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_no_file_is_too_long() -> None:
    folders = ("srr_guard", "integrations", "examples", "tests", "benchmarks")
    lengths = {
        str(file.relative_to(ROOT)): len(file.read_text().splitlines())
        for folder in folders
        for file in (ROOT / folder).rglob("*.py")
    }
    assert {file: n for file, n in lengths.items() if n > LONGEST} == {}


def test_adapters_stand_on_public_seams() -> None:
    """They build on what the package exports, on core, formats, protocols and errors."""
    allowed = {
        "",
        "errors",
        "formats",
        "core",
        "policy",
        "protocols",
        "reading",  # which deliveries return
        "replay",
        "runnables.tracing",
        "serving",
        "wrappers.settings",
    }
    for file in (ROOT / "integrations").rglob("*.py"):
        for other in imports(file):
            assert other in allowed or other.split(".")[0] in allowed, (file.name, other)


def own_private_names(tree: ast.AST) -> dict[int, set[str]]:
    """For each node inside a class, the private names that the class defines."""
    names: dict[int, set[str]] = defaultdict(set)
    for cls in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        own = set()
        for node in ast.walk(cls):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in ("self", "cls"):
                own.add(node.attr)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                own.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                own.add(node.target.id)
        for node in ast.walk(cls):
            names[id(node)] |= own
    return names


@pytest.mark.parametrize("folder", ["srr_guard", "integrations"])
def test_nobody_touches_private_attributes_of_others(folder: str) -> None:
    """Private names of other libraries live in `_private.py`; other classes' are not used."""
    touched = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        if file.name == "_private.py":
            continue
        tree = ast.parse(file.read_text())
        own = own_private_names(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                mine = node.attr in own[id(node)] or getattr(node.value, "id", "") in (
                    "self",
                    "cls",
                )
                inherited = isinstance(node.value, ast.Call)  # super()._name
                documented = ast.unparse(node) == "os._exit"
                if not (node.attr.startswith("__") or mine or inherited or documented):
                    touched.append(f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                private = [a.name for a in node.names if a.name[0] == "_" and a.name[1] != "_"]
                if private or any(
                    p.startswith("_") and p not in ("__future__", "_private")
                    for p in module.split(".")
                ):
                    touched.append(f"{file.relative_to(ROOT)}:{node.lineno}: from {module}")
    assert touched == []
