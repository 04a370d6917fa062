"""Public data sets that are for measuring only: no training run may read them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from srr_guard.errors import DataError
from srr_guard.training.data.hub_names import HubName


@dataclass(frozen=True)
class HeldOut:
    """A public test set, by patterns that match its whole hub id, config and split.

    Attributes:
        path: Pattern of the hub id, in lower case.
        config: Pattern of the config.
        split: Pattern of the split.

    Example:
        >>> HeldOut(r".*/xstest.*").holds(HubName.parse("Paul/XSTest"))
        True
    """

    path: str
    config: str = ".*"
    split: str = ".*"

    def holds(self, name: HubName) -> bool:
        """True if the name is of this set, or of a part of it."""
        return (
            re.fullmatch(self.path, name.path.lower()) is not None
            and re.fullmatch(self.config, (name.config or "").lower()) is not None
            and any(s == "all" or re.fullmatch(self.split, s) for s in name.splits)
        )


HELD_OUT = (
    HeldOut(r"toxicityprompts/polyguardprompts"),  # its English part is WildGuardTest
    HeldOut(r".*wildguardtest.*"),
    HeldOut(r"allenai/wildguardmix", config="wildguardtest"),
    HeldOut(r"jailbreakbench/jbb-behaviors"),
    HeldOut(r".*xstest.*"),
    HeldOut(r"nvidia/aegis-ai-content-safety-dataset-2\.0", split="test"),
    HeldOut(r"nvidia/nemotron-safety-guard-dataset-v3", split="test"),  # translates that
    HeldOut(r"pku-alignment/pku-saferlhf.*", split="test"),
    HeldOut(r"pku-alignment/beavertails", split=r"(.*_)?test"),
    HeldOut(r"allenai/coconot", config="contrast"),
    HeldOut(r"allenai/coconot", split="test"),
    HeldOut(r"bench-llms?/or-bench", config="or-bench-(hard-1k|toxic)"),
    HeldOut(r"amazonscience/falsereject", split="test"),
    HeldOut(r"allenai/reward-bench.*"),
    HeldOut(r"qwen/qwen3guardtest"),
    HeldOut(r".*harmbench.*"),
    HeldOut(r".*strongreject.*"),
    HeldOut(r".*sorry-bench.*"),
    HeldOut(r"lmsys/toxic-chat", split="test"),
)
"""Sets with published figures. A scorer that was trained on one cannot be compared on it."""


def refuse_held_out(items: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse data that is for measuring only.

    Args:
        items: What a training run is to read; only `hf:` names are looked at.

    Raises:
        DataError: One of them is a public test set.
    """
    for item in items:
        if isinstance(item, str) and item.startswith("hf:"):
            name = HubName.parse(item.removeprefix("hf:"))
            if any(held.holds(name) for held in HELD_OUT):
                raise DataError(
                    f"{item!r} is a public test set and is never trained on: figures on it would "
                    "mean nothing; leave it out, or measure on it with `srr-guard evaluate`"
                )
