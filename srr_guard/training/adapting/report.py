"""Figures of an adaptation, and the doubts that come with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict

from srr_guard.training.adapting.views import Part
from srr_guard.training.evaluation.metrics import Figure, Metric
from srr_guard.training.tuning import Tuning

FEW_OF_A_LABEL = 16
MANY_ROWS = 500
_LOSS = 0.01


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Drift(_Frozen):
    """How far a probability moved on texts that are not yours.

    Attributes:
        texts: How many texts.
        mean: Mean absolute change.
        largest: Largest absolute change.
    """

    texts: int
    mean: float
    largest: float


class ProbeStep(_Frozen):
    """What became of one probe.

    Attributes:
        moved: True if the new bundle has the step; False: the base's probe was kept.
        strength: Logits that a typical row may move by the prior; 0: only the calibration moves.
        scale: Share of the step that was made, so that other texts drift no further than allowed.
        gain: Log loss saved on held-out rows, both sides weighing the same.
        drift: Change of the probability on the fixed texts and the base rows.
    """

    moved: bool
    strength: float
    scale: float
    gain: Figure
    drift: Drift


class BeforeAfter(_Frozen):
    """Figures of the base, and of the adapted scorer.

    Attributes:
        rows: How many rows.
        before: Of the base.
        after: Of the adapted scorer.
    """

    rows: int
    before: Mapping[Metric, Figure]
    after: Mapping[Metric, Figure]

    def lost(self, metric: Metric) -> float:
        """How much lower a metric is afterwards; 0 where it was not measured."""
        if metric not in self.before or metric not in self.after:
            return 0.0
        return self.before[metric].value - self.after[metric].value


class AdaptationReport(_Frozen):
    """What was adapted, and what it brings and costs.

    Attributes:
        base: Name of the base.
        base_digest: SHA-256 of the base's weights.
        rows: Labelled answers that were used.
        safe: How many of them are safe.
        goals: How many requests they answer.
        left_out: Rows that were not used: repeated ones, preferences, and those beyond the most
            that are read.
        steps: What became of each probe that the rows say something about.
        calibration: Slope and intercept of `p_safe` before and after.
        held_out: Figures on your rows; each was judged by a head that was fitted without it.
        base_sets: Figures on the base rows, by source.
        most_drift: Largest mean drift that was allowed.
        tuning: Operating points on your held-out rows; None if none of them is helpful.
        tuning_before: The base's, for comparison.
        chosen_by_hand: True if the strength was given.
    """

    base: str
    base_digest: str
    rows: int
    safe: int
    goals: int
    left_out: int
    steps: Mapping[Part, ProbeStep]
    calibration: tuple[tuple[float, float], tuple[float, float]]
    held_out: BeforeAfter
    base_sets: Mapping[str, BeforeAfter]
    most_drift: float
    tuning: Tuning | None
    tuning_before: Tuning | None
    chosen_by_hand: bool

    @property
    def is_moved(self) -> bool:
        """True if the head differs from the base's."""
        return any(step.moved for step in self.steps.values())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before you rely on it."""
        return (*self._of_rows(), *self._of_steps(), *self._of_losses())

    def _of_rows(self) -> Iterator[str]:
        fewer, name = min((self.safe, "safe"), (self.rows - self.safe, "unsafe"))
        if fewer < FEW_OF_A_LABEL:
            yield f"only {fewer} rows are {name}: label {FEW_OF_A_LABEL} or more to be surer"
        if self.rows > MANY_ROWS:
            yield f"{self.rows} rows are many: `srr-guard train` learns more from them"
        if self.left_out:
            yield (
                f"{self.left_out} rows were not used: repeated ones, preferences, or more than "
                "are read"
            )
        if self.tuning is None:
            yield "none of the rows is a helpful answer, so the threshold is the default one"
        elif not self.tuning.is_sure:
            rate = self.tuning.chosen.help_held_back
            yield (
                f"the threshold rests on {rate.rows} helpful answers: on new ones it may hold back "
                f"up to {rate.high:.1%}"
            )

    def _of_steps(self) -> Iterator[str]:
        if not self.is_moved:
            yield "held-out rows show no gain, so the head is the base's; only the threshold is new"
        for part, step in self.steps.items():
            name, gain = part.replace("_", " "), step.gain
            if not step.moved:
                continue
            if gain.value <= 0:
                yield f"the probe {name!r} was moved as you asked, and got worse on held-out rows"
            elif gain.low <= 0:
                yield f"the gain of the probe {name!r} is not certain: its interval includes none"
            if step.scale < 1:
                yield (
                    f"only {step.scale:.0%} of the step of the probe {name!r} was made: other "
                    f"texts would have drifted by more than {self.most_drift:g}"
                )

    def _of_losses(self) -> Iterator[str]:
        if (lost := self.held_out.lost("auroc")) > _LOSS:
            yield f"on your held-out rows AUROC fell by {lost:.3f}, though log loss improved"
        for name, found in self.base_sets.items():
            if (lost := found.lost("auroc")) > _LOSS:
                yield f"on the base rows of {name!r} AUROC fell by {lost:.3f}"
