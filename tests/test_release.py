"""What a release is made of: one version, packages with the right files, a changelog to act on."""

from __future__ import annotations

import json
import re
import runpy
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import srr_guard
from srr_guard.cli import app
from srr_guard.scorer import ScorerBundle
from srr_guard.serving import GatewayConfig, create_app
from srr_guard.testing import FakeScorer

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NUMBER = re.compile(r"\d+\.\d+\.\d+")


# ---- one version ----


def test_the_version_is_written_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert "version" not in PROJECT["project"]
    place = ROOT / PROJECT["tool"]["hatch"]["version"]["path"]
    assert place.samefile(srr_guard.__file__)
    assert NUMBER.fullmatch(srr_guard.__version__)


def test_everybody_says_the_same_version() -> None:
    assert version("srr-guard") == srr_guard.__version__
    said = CliRunner().invoke(app, ["--version"]).stdout
    assert said == f"srr-guard {srr_guard.__version__}\n"
    gateway = create_app(GatewayConfig(), scorer=FakeScorer(lambda prompt, answer: 0.9))
    document = TestClient(gateway).get("/openapi.json").json()
    assert document["info"]["version"] == srr_guard.__version__


def test_the_shipped_bundle_is_not_of_a_later_version() -> None:
    (name,) = ScorerBundle.shipped()
    folder = Path(srr_guard.__file__).parent / "bundles" / name
    made_by = json.loads((folder / "config.json").read_text())["made_by"]
    assert _parts(made_by) <= _parts(srr_guard.__version__)


def _parts(text: str) -> list[int]:
    return [int(part) for part in text.split(".")]


# ---- the changelog ----

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
TOP = re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1]
HEADINGS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Upgrade notes"]


def test_the_top_section_is_of_this_version() -> None:
    assert TOP.splitlines()[0].startswith(srr_guard.__version__)


def test_its_parts_are_the_usual_ones() -> None:
    found = re.findall(r"^### (.+)$", TOP, re.MULTILINE)
    assert found
    assert [heading for heading in found if heading.split(":")[0] not in HEADINGS] == []
    assert "Upgrade notes" in found


def test_each_entry_stands_once() -> None:
    entries = [" ".join(entry.split()) for entry in re.split(r"^- ", TOP, flags=re.MULTILINE)[1:]]
    assert len(entries) == len(set(entries))


# ---- wheel and sdist ----

DIST = runpy.run_path(str(ROOT / "tools" / "check_dist.py"))
INFO = {
    f"srr_guard-1.dist-info/{end}"
    for end in ("METADATA", "RECORD", "entry_points.txt", "licenses/LICENSE")
}


def in_wheel() -> set[str]:
    return {*DIST["package_files"](), *INFO}


def test_the_right_wheel_has_no_problems() -> None:
    files = DIST["package_files"]()
    assert list(DIST["wheel_problems"](in_wheel(), 1, files)) == []
    assert "srr_guard/py.typed" in files
    assert not [name for name in files if "/probe/" in name]


@pytest.mark.parametrize(
    ("lost", "added", "size", "said"),
    [
        ("srr_guard/bundles/smollm2-135m/model.safetensors", None, 1, "lacks srr_guard/bundles"),
        ("srr_guard/py.typed", None, 1, "lacks srr_guard/py.typed"),
        ("srr_guard-1.dist-info/licenses/LICENSE", None, 1, "lacks licenses/LICENSE"),
        (None, "tests/conftest.py", 1, "holds tests/conftest.py"),
        (None, "srr_guard/bundles/smollm2-135m/probe/config.json", 1, "holds srr_guard/bundles"),
        (None, "srr_guard/__pycache__/x.cpython-311.pyc", 1, "holds srr_guard/__pycache__"),
        (None, None, 10**9, "1,000,000,000 bytes"),
    ],
)
def test_a_wrong_wheel_is_told(lost: str | None, added: str | None, size: int, said: str) -> None:
    names = (in_wheel() - {lost}) | ({added} if added else set())
    problems = list(DIST["wheel_problems"](names, size, DIST["package_files"]()))
    assert any(said in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("lost", "added", "said"),
    [
        ("LICENSE", None, "lacks LICENSE"),
        (None, "shared/data/train/rows.jsonl.gz", "holds shared/data"),
        (None, "tests/__pycache__/x.pyc", "holds tests/__pycache__"),
        (None, "site/index.html", "holds site/index.html"),
        (None, "rows.jsonl.gz", "holds rows.jsonl.gz"),
    ],
)
def test_a_wrong_sdist_is_told(lost: str | None, added: str | None, said: str) -> None:
    names = ({*DIST["NEEDED_IN_SDIST"]} - {lost}) | ({added} if added else set())
    assert list(DIST["sdist_problems"]({*DIST["NEEDED_IN_SDIST"]}, 1)) == []
    assert any(said in problem for problem in DIST["sdist_problems"](names, 1))
