"""Fit a head to features: pointwise probes by logistic regression, then calibration."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from srr_guard.errors import DataError
from srr_guard.protocols import ProgressCallback
from srr_guard.scorer.config import HeadConfig
from srr_guard.scorer.head import Probe, SRRHead
from srr_guard.training.calibration import fit_platt, verdict_bounds
from srr_guard.training.feature_store import Examples, judge_examples
from srr_guard.training.fit.listwise import fit_listwise
from srr_guard.training.fit.targets import (
    Target,
    answers_targets,
    harmful_request_targets,
    harmless_targets,
    preference_pairs,
    row_weights,
)
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
    epochs: int = 30,
    longest_list: int = 8,
    progress: ProgressCallback = silent,
) -> SRRHead:
    """Fit a head and calibrate it on the validation goals.

    Each pointwise probe is an L2-regularised logistic regression over windows; the penalty
    with the least validation loss is taken. Calibration is fitted on the validation goals,
    after which the probes are fitted once more on both sides with these penalties.

    Args:
        config: Design of the head; the examples have its depths.
        training: Rows to fit.
        validation: Rows of other goals, for penalties, the best epoch and calibration.
        seed: Makes the fit repeatable.
        penalties: L2 penalties to try.
        source_weights: Weight of each source; 1 where it is not named.
        harmful_sources: See `harmful_request_targets`.
        preference_weight: Weight of all pairs of preferences beside all labels, which have 1.
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
    lessons: dict[str, list[_Lesson]] = {}
    if config.pointwise:
        lessons = {
            name: [_lesson(head, name, s, source_weights, harmful_sources) for s in sides]
            for name in _PROBES[: 3 if config.graded else 1]
        }
    chosen: dict[str, float] = {}
    for name, (fitted, validated) in lessons.items():
        probe = head.get_submodule(name)
        assert isinstance(probe, Probe)
        tried: list[tuple[float, float, dict[str, Tensor]]] = []
        for i, penalty in enumerate(penalties):
            _fit_probe(probe, [fitted], penalty=penalty, preference_weight=preference_weight)
            loss = _loss(probe, validated)
            tried.append((loss, penalty, {k: t.clone() for k, t in probe.state_dict().items()}))
            progress(f"probe {name}", i + 1, len(penalties), penalty=penalty, loss=loss)
        _, chosen[name], best = min(tried, key=lambda one: one[0])
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
        head.familiarity.fit(*(_requests(head, side) for side in sides))
    _calibrate(head, validation, source_weights)
    for name, both in lessons.items():
        probe = head.get_submodule(name)
        assert isinstance(probe, Probe)
        _fit_probe(probe, both, penalty=chosen[name], preference_weight=preference_weight)
    return head.requires_grad_(False)


_PROBES = ("harmless", "answers", "harmful_request")


@dataclass(frozen=True, eq=False)
class _Lesson:
    """The targets of one probe on one side of the split.

    Attributes:
        x: (n, k) inputs.
        y: (n,) 0 or 1.
        weights: (n,) weights that sum to 1, half for each class.
        differences: (p, k) inputs of the better answer minus those of the worse one.
    """

    x: Tensor
    y: Tensor
    weights: Tensor
    differences: Tensor


def _lesson(
    head: SRRHead,
    name: str,
    side: Examples,
    source_weights: Mapping[str, float] | None,
    harmful_sources: Collection[str],
) -> _Lesson:
    rows = side.rows
    pairs: list[tuple[int, int]] = []
    if name == "harmless":
        targets = harmless_targets(rows)
        pairs = preference_pairs(rows)
    elif name == "answers":
        targets = answers_targets(rows)
    else:
        targets = harmful_request_targets(rows, harmful_sources=harmful_sources)
        source_weights = None
    if not {True, False} <= set(targets):
        raise DataError(
            f"the rows do not show both sides of {name.replace('_', ' ')!r}: give rows with "
            "`kind` benign-help, over-refusal, refusal and compliance"
        )
    of_request = name == "harmful_request"
    windows = _taught_windows(side, targets, first_only=of_request)
    x = _inputs(head, side, windows, of_request=of_request)
    owner = side.owner[windows]
    shares = torch.bincount(owner, minlength=len(rows))[owner]
    first = side.first
    better, worse = (torch.tensor(ends, dtype=torch.int64) for ends in _ends(pairs))
    return _Lesson(
        x=x,
        y=torch.tensor([float(targets[i] or False) for i in owner.tolist()]),
        weights=row_weights(rows, targets, source_weights)[owner] / shares,
        differences=_inputs(head, side, first[better], of_request=of_request)
        - _inputs(head, side, first[worse], of_request=of_request),
    )


def _ends(pairs: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [better for better, _ in pairs], [worse for _, worse in pairs]


def _taught_windows(side: Examples, targets: Sequence[Target], *, first_only: bool) -> Tensor:
    known = torch.tensor([t is not None for t in targets])
    if first_only:
        return side.first[known]
    return known[side.owner].nonzero().squeeze(1)


def _inputs(head: SRRHead, side: Examples, windows: Tensor, *, of_request: bool) -> Tensor:
    states = side.states(windows)
    return head.request_inputs(states) if of_request else head.candidate_inputs(states)


def _fit_probe(
    probe: Probe, lessons: Sequence[_Lesson], *, penalty: float, preference_weight: float
) -> None:
    """Fit a probe in place; pairs of preferences enter as differences, in both directions."""
    x = torch.cat([lesson.x for lesson in lessons])
    probe.offset.copy_(x.mean(0))
    probe.scale.copy_(x.std(0).clamp(min=1e-4))
    x = probe.standardised(x)
    y = torch.cat([lesson.y for lesson in lessons])
    weights = torch.cat([lesson.weights for lesson in lessons]) / len(lessons)
    pairs = torch.cat([lesson.differences for lesson in lessons])
    if len(pairs):
        ahead = (pairs / probe.scale).clamp(-8, 8)
        x = torch.cat([x, ahead, -ahead])
        y = torch.cat([y, torch.ones(len(pairs)), torch.zeros(len(pairs))])
        even = torch.full((2 * len(pairs),), preference_weight / (2 * len(pairs)))
        weights = torch.cat([weights, even])
    coefficients, intercept = logistic_regression(x, y, weights, penalty=penalty)
    probe.linear.weight.data.copy_(coefficients[None])
    probe.linear.bias.data.copy_(intercept)


def _requests(head: SRRHead, side: Examples) -> Tensor:
    """(n, request_inputs) of each different prompt."""
    seen: dict[str, int] = {}
    for i, row in enumerate(side.rows):
        seen.setdefault(row.prompt, i)
    windows = side.first[torch.tensor(list(seen.values()))]
    return _inputs(head, side, windows, of_request=True)


def _loss(probe: Probe, lesson: _Lesson) -> float:
    with torch.no_grad():
        logits = probe(lesson.x)
    return float(
        functional.binary_cross_entropy_with_logits(
            logits, lesson.y, weight=lesson.weights, reduction="sum"
        )
    )


def logistic_regression(
    x: Tensor, y: Tensor, weights: Tensor, *, penalty: float
) -> tuple[Tensor, Tensor]:
    """Weighted logistic regression with an L2 penalty, by L-BFGS.

    Args:
        x: (n, k) standardised inputs.
        y: (n,) 0 or 1.
        weights: (n,) weights that sum to about 1.
        penalty: Factor before the squared norm of the coefficients.

    Returns:
        (k,) coefficients and (1,) intercept.
    """
    parameters = torch.zeros(x.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = x @ parameters[:-1] + parameters[-1]
        loss = functional.binary_cross_entropy_with_logits(
            logits, y, weight=weights, reduction="sum"
        )
        loss = loss + penalty * parameters[:-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = parameters.detach()
    return found[:-1], found[-1:]


def _calibrate(
    head: SRRHead, validation: Examples, source_weights: Mapping[str, float] | None
) -> None:
    """Fit Platt scaling and the bounds on the rows of the data, as users will see them.

    Safe and unsafe rows weigh the same: a benign majority would make harm look safe.
    """
    judged = judge_examples(head, validation)
    rows = validation.rows
    keep = torch.tensor([r.absolute and r.synthetic == "" for r in rows])
    weights = row_weights(rows, harmless_targets(rows), source_weights)[keep]
    labels = torch.tensor([float(r.safe) for r in rows])[keep]
    logits = judged.probes.harmless[keep]
    head.calibration.copy_(fit_platt(logits, labels, weights))
    head.bounds = verdict_bounds(head.calibrated(logits), labels.bool())
