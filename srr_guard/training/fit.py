"""Fit a head to features: two logistic regressions, and the published listwise block."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from srr_guard.errors import DataError
from srr_guard.scorer.calibration import fit_platt
from srr_guard.scorer.config import HeadConfig
from srr_guard.scorer.head import SRRHead
from srr_guard.scorer.inference import judge
from srr_guard.scorer.loss import listwise_kl_loss
from srr_guard.training.data import LabelledResponse
from srr_guard.training.features import Examples

Progress = Callable[[str, int, int], None]
"""Called with the stage, steps done and steps in all."""


def fit_head(
    config: HeadConfig,
    training: Examples,
    validation: Examples,
    *,
    seed: int,
    penalties: Sequence[float] = (0.003, 0.01, 0.03, 0.1),
    source_weights: Mapping[str, float] | None = None,
    epochs: int = 30,
    progress: Progress | None = None,
) -> SRRHead:
    """Fit a head and calibrate it on the validation goals.

    The pointwise path is two L2-regularised logistic regressions (the penalty with the least
    validation loss is taken); the listwise block is trained with the published settings:
    KL loss, AdamW with learning rate 1e-3 and weight decay 1e-4.

    Args:
        config: Design of the head; the examples have its depths.
        training: Rows to fit.
        validation: Rows of other goals, for the penalty, the best epoch and calibration.
        seed: Makes the fit repeatable.
        penalties: L2 penalties to try.
        source_weights: Weight of each source; 1 where it is not named.
        epochs: Passes over the goals for the listwise block.
        progress: Called as the work goes on.

    Raises:
        DataError: There is not one safe and one unsafe row on both sides.
    """
    for name, side in (("training", training), ("validation", validation)):
        if len({r.safe for r in side.rows if r.absolute}) < 2:
            raise DataError(f"the {name} rows need safe and unsafe ones: give more data")
    torch.manual_seed(seed)
    head = SRRHead(config)
    report = progress or (lambda *_: None)
    if config.pointwise:
        _fit_pointwise(head, training, validation, penalties, source_weights or {}, report)
    if config.listwise:
        _fit_listwise(head, training, validation, epochs=epochs, seed=seed, report=report)
    head.eval()
    _calibrate(head, validation, source_weights or {})
    return head.requires_grad_(False)


def row_weights(rows: Sequence[LabelledResponse], source_weights: Mapping[str, float]) -> Tensor:
    """(n,) weights: a source counts by the square root of its size, its labels evenly."""
    sources = Counter(r.source for r in rows)
    cells = Counter((r.source, r.label) for r in rows)
    labels = {s: sum(1 for source, _ in cells if source == s) for s in sources}
    return torch.tensor(
        [
            source_weights.get(r.source, 1.0)
            * sources[r.source] ** 0.5
            / (labels[r.source] * cells[r.source, r.label])
            for r in rows
        ]
    )


def _fit_pointwise(
    head: SRRHead,
    training: Examples,
    validation: Examples,
    penalties: Sequence[float],
    source_weights: Mapping[str, float],
    report: Progress,
) -> None:
    x = _raw_inputs(head, training)
    head.offset.copy_(x.mean(0))
    head.scale.copy_(x.std(0).clamp(min=1e-4))
    del x
    sides = [
        (_inputs(head, side), side.rows, row_weights(side.rows, source_weights))
        for side in (training, validation)
    ]
    targets = ((head.harmless, _harmless_target), (head.help, _help_target))
    for stage, (linear, target) in enumerate(targets):
        known = []
        for inputs, rows, weights in sides:
            labels = [target(r) for r in rows]
            keep = torch.tensor([y is not None for y in labels])
            y = torch.tensor([y for y in labels if y is not None])
            known.append((inputs[keep], y, _balanced(weights[keep], y)))
        if any(len(set(y.tolist())) < 2 for _, y, _ in known):
            linear.weight.data.zero_()
            linear.bias.data.zero_()
            continue
        best = None
        for i, penalty in enumerate(penalties):
            weight, bias = logistic_regression(*known[0], penalty=penalty)
            logits = known[1][0] @ weight + bias
            loss = functional.binary_cross_entropy_with_logits(
                logits, known[1][1], weight=known[1][2], reduction="sum"
            )
            if best is None or loss < best[0]:
                best = (loss, weight, bias)
            report("pointwise path", stage * len(penalties) + i + 1, 2 * len(penalties))
        assert best is not None
        linear.weight.data.copy_(best[1][None])
        linear.bias.data.copy_(best[2])


def _harmless_target(row: LabelledResponse) -> float | None:
    return float(row.safe) if row.absolute else None


def _help_target(row: LabelledResponse) -> float | None:
    """Whether it helps where help is due: what does harm is never help."""
    if row.absolute and not row.safe:
        return 0.0
    return None if row.helps is None else float(row.helps)


def logistic_regression(
    x: Tensor, y: Tensor, weights: Tensor, *, penalty: float
) -> tuple[Tensor, Tensor]:
    """Weighted logistic regression with an L2 penalty, by L-BFGS.

    Args:
        x: (n, k) standardised inputs.
        y: (n,) 0 or 1.
        weights: (n,) weights that sum to 1.
        penalty: Factor before the squared norm of the coefficients.

    Returns:
        (k,) coefficients and (1,) intercept.
    """
    parameters = torch.zeros(x.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=150, line_search_fn="strong_wolfe")

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


def _fit_listwise(
    head: SRRHead,
    training: Examples,
    validation: Examples,
    *,
    epochs: int,
    seed: int,
    report: Progress,
) -> None:
    parameters = [*head.projection.parameters(), *head.block.parameters()]
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-4)
    held_back = _lists(validation, head.config, random.Random(seed), per_goal=4)
    best: tuple[float, dict[str, Tensor]] | None = None
    for epoch in range(epochs):
        head.train()
        lists = _lists(training, head.config, random.Random(f"{seed}:{epoch}"), per_goal=4)
        for start in range(0, len(lists), 32):
            loss = _list_loss(head, training, lists[start : start + 32])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        head.eval()
        with torch.no_grad():
            loss_value = float(_list_loss(head, validation, held_back))
        if best is None or loss_value < best[0]:
            best = loss_value, {k: v.clone() for k, v in head.state_dict().items()}
        report("listwise block", epoch + 1, epochs)
    assert best is not None
    head.load_state_dict(best[1])


def _lists(
    examples: Examples,
    config: HeadConfig,
    rng: random.Random,
    *,
    per_goal: int,
    longest: int = 8,
) -> list[list[int]]:
    """Lists of 2 to `longest` rows of one goal, each with a good and a bad one."""
    goals: defaultdict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for i, row in enumerate(examples.rows):
        goals[row.goal_id][0 if _is_good(row, config) else 1].append(i)
    lists: list[list[int]] = []
    for good, bad in goals.values():
        for _ in range(per_goal if good and bad else 0):
            size = rng.randint(2, longest)
            some = rng.sample(good, min(len(good), rng.randint(1, size - 1)))
            lists.append(some + rng.sample(bad, min(len(bad), size - len(some))))
    rng.shuffle(lists)
    return lists


def _is_good(row: LabelledResponse, config: HeadConfig) -> bool:
    """Whether a row should win its list; a head that does not weigh help takes all safe ones."""
    return row.safe and (config.help_weight == 0 or row.helps is not False)


def _list_loss(head: SRRHead, examples: Examples, lists: Sequence[Sequence[int]]) -> Tensor:
    longest = max(map(len, lists))
    index = torch.tensor([[*row, *[row[0]] * (longest - len(row))] for row in lists])
    mask = torch.tensor([[k < len(row) for k in range(longest)] for row in lists])
    relevant = torch.tensor(
        [[_is_good(examples.rows[i], head.config) for i in row] for row in index.tolist()]
    )
    window = examples.first[index]
    output = head(
        {"mean": examples.mean[window], "last": examples.last[window]},
        examples.instruction[index],
        mask,
    )
    return listwise_kl_loss(output.scores, relevant, mask)


def _calibrate(head: SRRHead, validation: Examples, source_weights: Mapping[str, float]) -> None:
    judged = judge(
        head,
        mean=validation.mean,
        last=validation.last,
        instruction=validation.instruction,
        owner=validation.owner,
    )
    keep = torch.tensor([r.absolute for r in validation.rows])
    labels = torch.tensor([float(r.safe) for r in validation.rows])[keep]
    weights = row_weights(validation.rows, source_weights)[keep]
    head.calibration.copy_(fit_platt(judged.harmless[keep], labels, weights))


def _raw_inputs(head: SRRHead, examples: Examples) -> Tensor:
    parts = {
        "mean": examples.mean[examples.first],
        "last": examples.last[examples.first],
        "instruction": examples.instruction,
    }
    return torch.cat([parts[p].flatten(1) for p in head.config.poolings], dim=1)


def _inputs(head: SRRHead, examples: Examples) -> Tensor:
    first = examples.first
    states = {"mean": examples.mean[first], "last": examples.last[first]}
    return head.pointwise_inputs(states, examples.instruction)


def _balanced(weights: Tensor, y: Tensor) -> Tensor:
    """Scale weights so that both classes have half of the total, which is 1."""
    for label in (0.0, 1.0):
        own = y == label
        weights = torch.where(own, weights / (2 * weights[own].sum()), weights)
    return weights
