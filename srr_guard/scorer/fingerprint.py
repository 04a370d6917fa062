"""Tells another file of the same reference LLM from another model.

A bundle keeps the features of a few fixed conversations. A model whose files have another digest is
accepted if it reproduces them: hub weights, another quantisation, another precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srr_guard.errors import CorruptBundleError

if TYPE_CHECKING:
    from torch import Tensor

    from srr_guard.reference import ReferenceLLM
    from srr_guard.reference.features import FeatureSpec
    from srr_guard.reference.source import ReferenceSource
    from srr_guard.reference.spec import Device

FILE = "fingerprint.safetensors"

TOLERANCE = 0.05
"""Largest distance that is accepted. Whatever was measured within it changes the first place of at
most one list in a hundred (docs/reference-model.md; `benchmarks/fingerprint.py` measures it)."""

TALKS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (
        "How do I keep basil alive through the winter?",
        (
            "Give it a bright window, water it when the soil feels dry, and pinch off the flowers.",
            "I'm sorry, but I can't help with gardening.",
        ),
    ),
    (
        [
            ("system", "You are a careful assistant. Answer in two sentences."),
            ("user", "My neighbour's dog barks all night. What can I do?"),
        ],
        (
            "Talk to your neighbour first, kindly and in daylight. If that fails, write down the "
            "hours and ask the town hall which rules apply.",
            "Put something into its food so that it stays quiet for good.",
        ),
    ),
    (
        [
            ("user", "Write a function that reverses a list."),
            ("assistant", "def reverse(items):\n    return items[::-1]"),
            ("user", "And one that removes duplicates but keeps the order?"),
        ],
        (
            "def unique(items):\n    return list(dict.fromkeys(items))",
            "Sorting first is easiest: return sorted(set(items)).",
        ),
    ),
    (
        "How can I open a lock without its key?",
        (
            "A tension wrench and a pick: push gently, and lift the pins one after the other until "
            "the cylinder turns.",
            "I won't help with getting into places that are not yours. A locksmith can help you "
            "with your own door.",
        ),
    ),
    (
        "Explain in simple words why the sky is blue.",
        (
            "Sunlight holds all colours, and air scatters the blue part of it most, so blue comes "
            "to us from every side.",
            "Because it mirrors the sea.",
        ),
    ),
    (
        "Write an insulting message to my former boss that will really hurt.",
        (
            "You are a coward who steals other people's work, and the whole office laughs at you.",
            "I'd rather help you write something honest that you won't regret: say what went wrong "
            "and what you would have needed.",
        ),
    ),
)
"""The fixed conversations, two answers each. Changing one makes all fingerprints useless."""


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Features of the fixed conversations.

    Attributes:
        states: `request` and `instruction`, (T, D, d) of T talks; `mean`, (2T, D, d). float32.
    """

    states: Mapping[str, Tensor]

    @classmethod
    def of(cls, llm: ReferenceLLM, spec: FeatureSpec) -> Fingerprint:
        """Encode the fixed conversations."""
        import torch

        found = llm.encode_many(TALKS, spec)
        return cls(
            {
                "request": torch.stack([features.request for features in found]),
                "instruction": torch.stack([features.instruction for features in found]),
                "mean": torch.cat([features.mean for features in found]),
            }
        )

    @classmethod
    def exact(
        cls, llm: ReferenceLLM, spec: FeatureSpec, *, source: ReferenceSource, device: Device
    ) -> Fingerprint:
        """Encode them in float32, for a bundle: other files of the model are compared with it.

        Args:
            llm: The reference LLM, in any precision.
            spec: Which states are read.
            source: Where it came from; it is loaded once more if it runs in another precision.
            device: Where it runs then.
        """
        if llm.dtype != "float32":
            depth = max(spec.depths)
            llm = type(llm).load(source, depth=depth, device=device, dtype="float32")
        return cls.of(llm, spec)

    @classmethod
    def load(cls, folder: Path) -> Fingerprint:
        """Read the fingerprint of a bundle.

        Raises:
            CorruptBundleError: It is missing, or holds numbers that cannot be used.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            states = load_file(folder / FILE)
        except (OSError, SafetensorError) as error:
            raise CorruptBundleError(
                f"the fingerprint of the scorer bundle {str(folder)!r} cannot be read "
                f"({str(error).strip()}): fetch or train it again"
            ) from error
        if states.keys() != {"request", "instruction", "mean"} or not all(
            bool(torch.isfinite(t).all()) for t in states.values()
        ):
            raise CorruptBundleError(
                f"the fingerprint of the scorer bundle {str(folder)!r} holds "
                f"{sorted(states)}, or numbers that are not finite: fetch or train it again"
            )
        return cls(states)

    def save(self, folder: Path) -> None:
        """Write it into a bundle."""
        from safetensors.torch import save_file

        save_file({name: t.contiguous() for name, t in self.states.items()}, folder / FILE)

    def distance(self, other: Fingerprint) -> float:
        """How far another model's states are from these, in units of what tells texts apart.

        For each kind of state and each depth: the norm of the difference, over the norm of these
        states around their mean. 0: the same; 1: as far apart as one text from another.

        Returns:
            The largest of them; infinity where shapes differ or numbers are not finite.
        """
        import torch

        worst = 0.0
        for name, ours in self.states.items():
            theirs = other.states.get(name)
            if theirs is None or theirs.shape != ours.shape:
                return float("inf")
            spread = (ours - ours.mean(dim=0)).norm(dim=(0, 2))
            apart = (ours - theirs).norm(dim=(0, 2)) / spread.clamp_min(1e-9)
            if not bool(torch.isfinite(apart).all()):
                return float("inf")
            worst = max(worst, float(apart.max()))
        return worst
