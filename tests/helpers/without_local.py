"""Leaves out the tests that need the extra `local` where it is not installed, and says so.

A module is left out if it imports torch or the like, or a part of srr_guard that is made of it; a
test if it is marked `local` or `model`, or uses a fixture that holds a model. Nothing is imported
to find out: a part of the base that imports torch fails its tests, it does not skip them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from srr_guard.errors import MissingExtraError
from srr_guard.extras import require_local

PACKAGES = ("torch", "transformers", "safetensors", "tokenizers", "huggingface_hub", "tiny")
PARTS = (
    "srr_guard.scorer.head",
    "srr_guard.scorer.inference",
    "srr_guard.training",
)
LIGHT = ("srr_guard.training.data",)
FIXTURES = frozenset({"tiny_folder", "tiny_llm", "tiny_bundle"})


def missing_package() -> str | None:
    """The first package of the extra `local` that is not installed; None if all are."""
    try:
        require_local("the tests")
    except MissingExtraError as error:
        return error.package
    return None


def needed_by(file: Path) -> str | None:
    """What a module imports at its top that needs the extra; None if there is nothing."""
    for name in _imported(ast.parse(file.read_text())):
        if name.split(".")[0] in PACKAGES:
            return name.split(".")[0]
        if _is_in(name, PARTS) and not _is_in(name, LIGHT) and name != "srr_guard.training":
            return name  # that package by itself is light: its names are resolved on first use
    return None


class WithoutLocal:
    """A pytest plugin for environments without the extra.

    Args:
        package: One that is missing.
    """

    def __init__(self, package: str) -> None:
        self._package = package
        self._modules: dict[str, str] = {}
        self._tests = 0

    def pytest_ignore_collect(self, collection_path: Path, config: pytest.Config) -> bool | None:
        if not (collection_path.name.startswith("test_") and collection_path.suffix == ".py"):
            return None
        needed = needed_by(collection_path)
        if needed is None:
            return None
        self._modules[str(collection_path.relative_to(config.rootpath))] = needed
        return True

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        left_out = [item for item in items if _needs_local(item)]
        self._tests = len(left_out)
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if not _needs_local(item)]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("without the extra local")
        for module, needed in sorted(self._modules.items()):
            terminalreporter.write_line(f"left out: {module} (imports {needed})")
        terminalreporter.write_line(
            f"left out: {len(self._modules)} modules, and {self._tests} tests of others, because "
            f"{self._package} is not installed; `make test` runs them"
        )


def _needs_local(item: pytest.Item) -> bool:
    marked = any(item.get_closest_marker(name) for name in ("local", "model"))
    return marked or not FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_in(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)
