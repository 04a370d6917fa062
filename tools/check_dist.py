"""Check what is in the wheel and the sdist of a folder, and how large they are.

    python tools/check_dist.py dist

The wheel must hold every file of the two packages and nothing else; the sdist what is needed to
build, test and document, and nothing that was made or downloaded on the way.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
PACKAGES = {"srr_guard": ROOT, "srr_guard_integrations": ROOT / "integrations"}

WHEEL_BYTES = 1_500_000
SDIST_BYTES = 5_000_000

NEEDED_IN_WHEEL = (
    "srr_guard/py.typed",
    "srr_guard_integrations/py.typed",
    "srr_guard/bundles/smollm2-135m/README.md",
    "srr_guard/bundles/smollm2-135m/config.json",
    "srr_guard/bundles/smollm2-135m/fingerprint.safetensors",
    "srr_guard/bundles/smollm2-135m/model.safetensors",
)
NEEDED_IN_SDIST = (
    "LICENSE",
    "PKG-INFO",
    "README.md",
    "CHANGELOG.md",
    "Makefile",
    "pyproject.toml",
    "constraints.txt",
    "mkdocs.yml",
    "docs/index.md",
    "tests/conftest.py",
    "tools/check_dist.py",
    "data/contrast/README.md",
    *(f"integrations/{n}" if "integrations" in n else n for n in NEEDED_IN_WHEEL),
)
MADE = frozenset(
    {"__pycache__", ".venv", ".git", "site", "dist", "runs", "shared", ".mypy_cache", ".ruff_cache"}
)
NEVER = (".pyc", ".gz", ".parquet", ".env", ".gguf", ".log")


def package_files() -> set[str]:
    """Every file of the packages that ships, as its path in the wheel."""
    found = {
        str(path.relative_to(parent))
        for name, parent in PACKAGES.items()
        for path in (parent / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return {path for path in found if not is_left_out(path)}


def is_left_out(path: str) -> bool:
    """True of the linear probe beside a scorer, which only evaluation reads."""
    parts = PurePosixPath(path).parts
    return parts[:2] == ("srr_guard", "bundles") and "probe" in parts


def wheel_problems(names: set[str], size: int, expected: set[str]) -> Iterator[str]:
    """What is wrong with a wheel of these files."""
    info = {name for name in names if ".dist-info/" in name}
    yield from (f"the wheel lacks {name}" for name in sorted(expected - names))
    yield from (f"the wheel holds {name}" for name in sorted(names - expected - info))
    yield from (f"the wheel lacks {name}" for name in NEEDED_IN_WHEEL if name not in names)
    for end in ("METADATA", "RECORD", "entry_points.txt", "licenses/LICENSE"):
        if not any(name.endswith(f".dist-info/{end}") for name in info):
            yield f"the wheel lacks {end}"
    if size > WHEEL_BYTES:
        yield f"the wheel has {size:,} bytes, more than {WHEEL_BYTES:,}"


def sdist_problems(names: set[str], size: int) -> Iterator[str]:
    """What is wrong with an sdist of these files, named without its top folder."""
    yield from (f"the sdist lacks {name}" for name in NEEDED_IN_SDIST if name not in names)
    for name in sorted(names):
        path = PurePosixPath(name)
        if MADE & set(path.parts) or name.endswith(NEVER):
            yield f"the sdist holds {name}"
    if size > SDIST_BYTES:
        yield f"the sdist has {size:,} bytes, more than {SDIST_BYTES:,}"


def main() -> None:
    """Check the one wheel and the one sdist of a folder."""
    folder = Path(sys.argv[1])
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if not name.endswith("/")}
    with tarfile.open(sdist) as archive:
        in_sdist = {member.name.split("/", 1)[1] for member in archive if member.isfile()}
    problems = [
        *wheel_problems(in_wheel, wheel.stat().st_size, package_files()),
        *sdist_problems(in_sdist, sdist.stat().st_size),
    ]
    if problems:
        sys.exit("\n".join(problems))
    print(f"{wheel.name}: {len(in_wheel)} files, {wheel.stat().st_size:,} bytes, as it should be")
    print(f"{sdist.name}: {len(in_sdist)} files, {sdist.stat().st_size:,} bytes, as it should be")


if __name__ == "__main__":
    main()
