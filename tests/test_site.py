"""The site builds without a warning, search finds things, nothing is loaded from outside."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
pytest.importorskip("mkdocstrings_handlers.python", reason="the extra `docs` is not installed")

ROOT = Path(__file__).parent.parent
HOOKS = runpy.run_path(str(ROOT / "tools" / "site_hooks.py"))
CHECK = runpy.run_path(str(ROOT / "tools" / "check_site.py"))
FIGURES = ROOT / "docs" / "figures"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    for command in (
        ["-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        ["tools/check_site.py", str(tmp_path)],
    ):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "WARNING" not in done.stderr
    index = json.loads((tmp_path / "search" / "search_index.json").read_text())["docs"]
    without = [{**entry, "text": re.sub("(?i)tune", "", entry["text"])} for entry in index]
    assert any("'tune'" in said for said in CHECK["search_problems"](without))


@pytest.mark.parametrize(
    ("path", "site", "link", "moved"),
    [
        ("docs/method.md", "method.md", "../data/contrast/README.md", "evidence/contrast.md"),
        ("docs/method.md", "method.md", "sampling.md#x", "sampling.md#x"),
        ("docs/api/index.md", "api/index.md", "../releasing.md", "../releasing.md"),
        ("SECURITY.md", "project/security-policy.md", "docs/tracing.md", "../tracing.md"),
        ("integrations/README.md", "integrations.md", "../docs/adapters.md", "adapters.md"),
        (
            "docs/index.md",
            "index.md",
            "https://example.org/docs/a.md",
            "https://example.org/docs/a.md",
        ),
        ("docs/index.md", "index.md", "../examples/tour.ipynb", "../examples/tour.ipynb"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(
    path: str, site: str, link: str, moved: str
) -> None:
    assert HOOKS["with_site_links"](f"[a]({link})", path=path, site=site) == f"[a]({moved})"


def test_the_two_pictures_differ_in_their_colours_alone() -> None:
    light, dark = (
        re.sub("#[0-9a-f]{6}", "", (FIGURES / f"flow-{name}.svg").read_text())
        for name in ("light", "dark")
    )
    assert light == dark
