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
        return self._read(states)[0]

    def reward(self, states: RecordedAnswer) -> float:
        """Worth of a beginning: 2 S + S H, as in STAIR, section 3.2.

        S is its safety and H its help, in [-1, 1]: safety decides the sign, help the size. H is 0
        where the scorer cannot tell.
        """
        p_safe, p_help = self._read(states)
        safety, help_ = 2 * p_safe - 1, 0.0 if p_help is None else 2 * p_help - 1
        return 2 * safety + safety * help_

    def _read(self, states: RecordedAnswer) -> tuple[float, float | None]:
        import torch

        named = ("instruction", "request", "mean", "last")
        with torch.inference_mode():
            probes = self.head.probe({name: getattr(states, name)[None, None] for name in named})
            p_safe = float(self.head.calibrated(probes)[0, 0])
            return p_safe, float(probes.p_help[0, 0]) if self.head.config.graded else None
