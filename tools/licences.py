"""Write LICENCES.md: the licences of all packages in the environment.

    python tools/licences.py [--check]

`--check` fails where a dependency of the package itself has no licence that Apache-2.0 code may
depend on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

FILE = Path(__file__).parents[1] / "LICENCES.md"
ALLOWED = (
    "apache",
    "mit",
    "bsd",
    "psf",
    "python software",
    "mpl",
    "mozilla",
    "isc",
    "zlib",
    "0bsd",
)
HEAD = """\
# Licences of the dependencies

Written by `make licences` from what is installed in the development environment on Linux.
srr_guard and its extra `local` depend on the packages of the first table; the others come with
other extras, tests and tools. The model card lists the licences of the training data.

"""


def packages() -> dict[str, tuple[str, str]]:
    """Version and licence of each installed package."""
    command = [sys.executable, "-m", "piplicenses", "--format=json", "--from=mixed"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return {
        row["Name"].lower().replace("_", "-"): (row["Version"], row["License"].splitlines()[0])
        for row in listed
    }


def needed(name: str, found: set[str], *, extra: str = "") -> set[str]:
    """A package and all it depends on, with one of its extras or none."""
    name = name.lower().replace("_", "-")
    if name in found:
        return found
    try:
        lines = requires(name) or []
    except PackageNotFoundError:
        return found
    found.add(name)
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            needed(requirement.name, found)
    return found


def table(names: list[str], known: dict[str, tuple[str, str]]) -> str:
    """One row a package; a version would be out of date tomorrow."""
    rows = [f"| {name} | {known[name][1]} |" for name in names]
    return "\n".join(["| package | licence |", "| --- | --- |", *rows])


def main() -> None:
    """Write the file, or check the licences."""
    known = packages()
    own = sorted((needed("srr-guard", set(), extra="local") - {"srr-guard"}) & known.keys())
    if "--check" in sys.argv:
        odd = [n for n in own if not any(word in known[n][1].lower() for word in ALLOWED)]
        sys.exit(f"licences to look at: {[(n, known[n][1]) for n in odd]}" if odd else 0)
    others = sorted(known.keys() - set(own) - {"srr-guard"})
    FILE.write_text(
        f"{HEAD}## The package and its extra `local`\n\n{table(own, known)}\n\n"
        f"## Other extras, tests, tools\n\n{table(others, known)}\n"
    )


if __name__ == "__main__":
    main()
