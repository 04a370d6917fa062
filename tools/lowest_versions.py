"""Print the lowest version of each direct dependency that pyproject.toml allows, as constraints.

    python tools/lowest_versions.py [EXTRA ...] > lowest.txt

torch is left out: constraints.txt pins it, so that a CPU build is taken.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]


def lowest(requirements: Iterable[str]) -> Iterator[str]:
    """The pins of these requirements, and of the project's own extras among them."""
    for requirement in map(Requirement, requirements):
        if requirement.name == PROJECT["name"]:
            for extra in sorted(requirement.extras):
                yield from lowest(PROJECT["optional-dependencies"][extra])
        elif requirement.name != "torch":
            (bound,) = (spec for spec in requirement.specifier if spec.operator == ">=")
            yield f"{requirement.name}=={bound.version}"


def main() -> None:
    """Print the pins of the dependencies and of the extras named."""
    extras = f"{PROJECT['name']}[{','.join(sys.argv[1:])}]"
    print(
        "\n".join(
            lowest([*PROJECT["dependencies"], extras] if sys.argv[1:] else PROJECT["dependencies"])
        )
    )


if __name__ == "__main__":
    main()
