"""From windows of hidden states to scores: the worst window of a candidate counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from srr_guard.decision import PromptAssessment
from srr_guard.reference.features import Features
from srr_guard.scorer.head import Probes, SRRHead, States


@dataclass(frozen=True, eq=False)
class Judged:
    """n candidates, each judged by itself.

    Attributes:
        probes: (n,) each: harmless of the worst window, answers as the mean of the windows.
        p_safe: (n,) calibrated probability.
        states: (n, D, d) each, of the worst window.
    """

    probes: Probes
    p_safe: Tensor
    states: States


def judge(head: SRRHead, *, windows: States, prompt: States, owner: Tensor) -> Judged:
    """Judge candidates by themselves.

    Args:
        head: A trained head; D are its depths.
        windows: `mean` and `last`, (W, D, d) each, of W windows.
        prompt: `instruction` and `request`, (n, D, d) each, of every candidate's prompt.
        owner: (W,) int64, ascending: the candidate each window belongs to.
    """
    n = len(prompt["instruction"])
    states = {**windows, **{name: t.index_select(0, owner) for name, t in prompt.items()}}
    with torch.inference_mode():
        each = head.probe({name: t[:, None] for name, t in states.items()})[:, 0]
        worst = torch.tensor(_lowest(each.harmless.tolist(), owner.tolist(), n))
        answers = torch.zeros(n).index_add_(0, owner, each.answers)
        probes = Probes(
            harmless=each.harmless.index_select(0, worst),
            answers=answers / torch.bincount(owner, minlength=n),
            harmful_request=each.harmful_request.index_select(0, worst),
        )
        return Judged(
            probes=probes,
            p_safe=head.calibrated(probes),
            states={name: t.index_select(0, worst) for name, t in states.items()},
        )


def _lowest(values: Sequence[float], owner: Sequence[int], n: int) -> list[int]:
    """Index of each owner's lowest value; the first of equal ones."""
    found: dict[int, int] = {}
    for i, (value, one) in enumerate(zip(values, owner, strict=True)):
        if one not in found or value < values[found[one]]:
            found[one] = i
    return [found[one] for one in range(n)]


def list_scores(head: SRRHead, judged: Judged, indices: Sequence[int] | None = None) -> Tensor:
    """Listwise scores of the candidates `indices` as one list, (len(indices),)."""
    chosen = torch.arange(len(judged.p_safe)) if indices is None else torch.tensor(list(indices))
    with torch.inference_mode():
        scores = torch.zeros(len(chosen))
        if head.config.pointwise:
            scores = head.relevance(judged.probes[chosen])
        if head.config.listwise:
            listed = {name: t.index_select(0, chosen)[None] for name, t in judged.states.items()}
            scores = scores + head.listwise_scores(listed)[0]
        return scores


def request_familiarity(head: SRRHead, features: Features) -> float | None:
    """How familiar the request is, in [0, 1]; None where the head cannot tell."""
    return _familiarity(head, features.instruction, features.request)


def assess_prompt(head: SRRHead, *, instruction: Tensor, request: Tensor) -> PromptAssessment:
    """Assess a prompt by the request probe, before there are candidates.

    Args:
        head: A graded head; D are its depths.
        instruction: (D, d) states of the prompt's last token.
        request: (D, d) mean over the prompt's latest turn.
    """
    inputs = head.request_inputs({"instruction": instruction, "request": request})
    with torch.inference_mode():
        p_harmful = float(torch.sigmoid(head.harmful_request(inputs)))
    return PromptAssessment(
        p_harmful=p_harmful, familiarity=_familiarity(head, instruction, request)
    )


def _familiarity(head: SRRHead, instruction: Tensor, request: Tensor) -> float | None:
    if not head.config.familiar:
        return None
    inputs = head.request_inputs({"instruction": instruction, "request": request})
    with torch.inference_mode():
        return float(head.familiarity(inputs))
