"""Scores answers while a local model writes them, from the states that it records anyway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from srr_guard.reference.cache.states import ModelKey, RecordedAnswer
    from srr_guard.scorer.head import SRRHead


@dataclass(frozen=True, eq=False)
class EarlyCut:
    """A floor for answers under way, and the head that scores them. No text is read again.

    Attributes:
        below: The floor, in [0, 1].
        model: The reference LLM whose states are read.
        depths: At which depths.
        window: Most tokens of an answer that one score reads.
        head: The trained head.
    """

    below: float
    model: ModelKey
    depths: tuple[int, ...]
    window: int
    head: SRRHead

    def p_safe(self, states: RecordedAnswer) -> float:
        """Calibrated probability that an answer with these states does no harm."""
        import torch

        named = ("instruction", "request", "mean", "last")
        with torch.inference_mode():
            probes = self.head.probe({name: getattr(states, name)[None, None] for name in named})
            return float(self.head.calibrated(probes.harmless)[0, 0])
