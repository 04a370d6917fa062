"""Fit a head to features: pointwise probes, the listwise block, then calibration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from srr_guard.errors import DataError
from srr_guard.protocols import ProgressCallback
from srr_guard.scorer.config import HeadConfig
from srr_guard.scorer.head import Probe, SRRHead
from srr_guard.training.calibration import fit_platt, verdict_bounds
from srr_guard.training.feature_store import Examples, judge_examples
from srr_guard.training.fit.lessons import Lesson, ProbeName, lesson, requests
from srr_guard.training.fit.linear import fit_class_means, fit_logistic, loss_of, rescale
from srr_guard.training.fit.listwise import fit_listwise
from srr_guard.training.fit.targets import SAFE_SHARE, harmless_targets, row_weights
from srr_guard.training.progress import silent

PENALTIES = (0.01, 0.03, 0.1)
"""L2 penalties that are tried; weaker ones fit unseen goals better and unseen sources worse."""


def fit_head(
    config: HeadConfig,
    training: Examples,
    validation: Examples,
    *,
    seed: int,
    penalties: Sequence[float] = PENALTIES,
    source_weights: Mapping[str, float] | None = None,
    harmful_sources: Collection[str] = (),
    preference_weight: float = 0.1,
    class_means: bool = True,
    compliance: bool = True,
    epochs: int = 30,
    longest_list: int = 8,
    progress: ProgressCallback = silent,
) -> SRRHead:
    """Fit a head and calibrate it on the validation goals.

    The pointwise probes of answers are L2-regularised logistic regressions over windows; the
    penalty with the least validation loss is taken. Calibration is fitted on the validation goals,
    after which the probes are fitted once more on both sides with these penalties.

    The request's probe is fitted by class means, which holds better on requests never seen
    (`docs/method.md`).

    Args:
        config: Design of the head; the examples have its depths.
        training: Rows to fit.
        validation: Rows of other goals, for penalties, the best epoch and calibration.
        seed: Makes the fit repeatable.
        penalties: L2 penalties to try.
        source_weights: Weight of each source; 1 where it is not named.
        harmful_sources: See `harmful_request_targets`.
        preference_weight: Weight of all pairs of preferences beside all labels, which have 1.
        class_means: The request's probe is a linear discriminant (see `class_mean_probe`);
            False: a logistic regression as the others.
        compliance: `p_safe` of a graded head counts compliance (see `SRRHead.safety`); False:
            it comes from p(harmless) alone.
        epochs: Passes over the goals for the listwise block.
        longest_list: Most candidates of a list for the listwise block.
        progress: Called as the work goes on.

    Raises:
        DataError: There is not one safe and one unsafe row on both sides, or a graded head has
            no refusals, no answers, no benign or no harmful requests to learn from.
    """
    for name, side in (("training", training), ("validation", validation)):
        if len({r.safe for r in side.rows if r.absolute}) < 2:
            raise DataError(f"the {name} rows need safe and unsafe ones: give more data")
    torch.manual_seed(seed)
    head = SRRHead(config)
    sides = [training, validation]
    lessons: dict[ProbeName, list[Lesson]] = {}
    for name in _PROBES[: 3 if config.graded else 1] if config.pointwise else ():
        weights = None if name == "harmful_request" else source_weights
        lessons[name] = [
            lesson(head, name, side, weights, harmful_sources=harmful_sources) for side in sides
        ]
    fits: dict[ProbeName, _Fit] = {}
    for name, (fitted, validated) in lessons.items():
        if name == "harmful_request" and class_means:
            fits[name] = _class_means(head.harmful_request, fitted, validated)
            progress(f"probe {name}", 1, 1, loss=loss_of(head.harmful_request, validated))
            continue
        probe = head.get_submodule(name)
        assert isinstance(probe, Probe)
        tried: list[tuple[float, _Fit, dict[str, Tensor]]] = []
        for i, penalty in enumerate(penalties):
            fit = partial(fit_logistic, penalty=penalty, preference_weight=preference_weight)
            fit(probe, [fitted])
            loss = loss_of(probe, validated)
            tried.append((loss, fit, {k: t.clone() for k, t in probe.state_dict().items()}))
            progress(f"probe {name}", i + 1, len(penalties), penalty=penalty, loss=loss)
        _, fits[name], best = min(tried, key=lambda one: one[0])
        probe.load_state_dict(best)
    if config.listwise:
        fit_listwise(
            head,
            training,
            validation,
            epochs=epochs,
            seed=seed,
            longest=longest_list,
            progress=progress,
        )
    head.eval()
    if config.familiar:
        head.familiarity.fit(*(requests(head, side) for side in sides))
    _calibrate(head, validation, source_weights, compliance=compliance and config.graded)
    for name, both in lessons.items():
        probe = head.get_submodule(name)
        assert isinstance(probe, Probe)
        fits[name](probe, both)
    return head.requires_grad_(False)


_Fit = Callable[[Probe, Sequence[Lesson]], None]
_PROBES: tuple[ProbeName, ...] = ("harmless", "answers", "harmful_request")


def _class_means(probe: Probe, fitted: Lesson, validated: Lesson) -> _Fit:
    """Fit the request's probe by class means, calibrated; the way to fit it once more."""
    fit_class_means(probe, [fitted])
    with torch.no_grad():
        scale = fit_platt(probe(validated.x), validated.y, validated.weights)[:2]
    rescale(probe, scale)

    def again(probe: Probe, lessons: Sequence[Lesson]) -> None:
        fit_class_means(probe, lessons)
        rescale(probe, scale)

    return again


def _calibrate(
    head: SRRHead,
    validation: Examples,
    source_weights: Mapping[str, float] | None,
    *,
    compliance: bool,
) -> None:
    """Fit `p_safe` and its bounds on the rows of the data, as users will see them.

    Safe and unsafe rows have fixed shares: a benign majority would make harm look safe.
    """
    judged = judge_examples(head, validation)
    rows = validation.rows
    keep = torch.tensor([r.absolute and r.synthetic == "" for r in rows])
    targets = harmless_targets(rows)
    weights = row_weights(rows, targets, source_weights, positive=SAFE_SHARE)[keep]
    labels = torch.tensor([float(r.safe) for r in rows])[keep]
    probes = judged.probes[keep]
    against = probes.compliance if compliance else None
    fitted = fit_platt(probes.harmless, labels, weights, against=against)
    head.calibration.copy_(fitted[:2])
    head.compliance.copy_(fitted[2])
    head.bounds = verdict_bounds(head.calibrated(probes), labels.bool())
