"""Files that belong to one model: named by its digests, checked when they are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from srr_guard.errors import ConfigurationError

SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class Fits:
    """The model and template that a file was made with.

    Attributes:
        reference: SHA-256 over the model's files (see `ReferenceSource.digest`).
        template: Digest of its chat template (see `PromptTemplate.digest`).
    """

    reference: str
    template: str

    def check(self, made_for: Fits, path: Path, mend: str) -> None:
        """Refuse a file that was made for another model or template.

        Raises:
            ConfigurationError: It was.
        """
        for what, ours, theirs in (
            ("model", self.reference, made_for.reference),
            ("chat template", self.template, made_for.template),
        ):
            if ours != theirs:
                raise ConfigurationError(
                    f"{str(path)!r} was made for another {what} (digest {theirs[:12]!r}, this one "
                    f"has {ours[:12]!r}): {mend}"
                )


def shipped(kind: str, reference: str, ending: str) -> Path | None:
    """The file of a kind that is shipped for a model; None if there is none."""
    found = SHIPPED / f"{kind}-{reference[:16]}.{ending}"
    return found if found.is_file() else None
