"""Names of data sets on the Hugging Face hub."""

from __future__ import annotations

import re
from dataclasses import dataclass

from srr_guard.errors import DataError


@dataclass(frozen=True)
class HubName:
    """A data set on the hub, as a user writes it: `owner/name[/config][:split]`.

    Attributes:
        path: `owner/name`, or the name alone.
        config: Name of the config; None: the only one, or the default.
        split: Name of the split; may be a slice or a sum, as in `train[:100]+test`.

    Example:
        >>> HubName.parse("allenai/coconot/pref:train")
        HubName(path='allenai/coconot', config='pref', split='train')
    """

    path: str
    config: str | None = None
    split: str = "train"

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Read a name.

        Raises:
            DataError: It has another form.
        """
        place, _, split = text.partition(":")
        parts = place.split("/")
        if not 1 <= len(parts) <= 3 or not all(part.strip() for part in parts):
            raise DataError(
                f"{text!r} names no data set: write hf:owner/name, hf:owner/name:split or "
                "hf:owner/name/config:split"
            )
        config = parts[2] if len(parts) == 3 else None
        return cls("/".join(parts[:2]), config, split or "train")

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that are read, without slices, in lower case."""
        parts = self.split.lower().split("+")
        return tuple(re.sub(r"\[.*", "", part).strip() for part in parts)
