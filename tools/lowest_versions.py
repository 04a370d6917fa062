"""Print the lowest version of each direct dependency that pyproject.toml allows, as constraints.

    python tools/lowest_versions.py [EXTRA ...] [--but EXTRA] > lowest.txt

`--but` leaves out an extra that others hold. torch is left out: constraints.txt pins it, so that a
CPU build is taken.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]


def lowest(requirements: Iterable[str], but: str | None) -> Iterator[str]:
    """The pins of these requirements, and of the project's own extras among them but one."""
    for requirement in map(Requirement, requirements):
        if requirement.name == PROJECT["name"]:
            for extra in sorted(requirement.extras - {but}):
                yield from lowest(PROJECT["optional-dependencies"][extra], but)
        elif requirement.name != "torch":
            (bound,) = (spec for spec in requirement.specifier if spec.operator == ">=")
            yield f"{requirement.name}=={bound.version}"


def main() -> None:
    """Print the pins of the dependencies and of the extras named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*")
    parser.add_argument("--but")
    given = parser.parse_args()
    extras = [f"{PROJECT['name']}[{','.join(given.extras)}]"] if given.extras else []
    print("\n".join(sorted(set(lowest([*PROJECT["dependencies"], *extras], given.but)))))


if __name__ == "__main__":
    main()
