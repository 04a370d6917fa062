"""Fit the published listwise block: KL loss, AdamW, the settings of the paper."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from srr_guard.protocols import ProgressCallback
from srr_guard.scorer.head import SRRHead
from srr_guard.training.data import LabelledResponse
from srr_guard.training.feature_store import Examples
from srr_guard.training.fit.loss import listwise_kl_loss

_LISTS_PER_GOAL = 4
_LISTS_PER_EPOCH = 4000
_BATCH = 32


def fit_listwise(
    head: SRRHead,
    training: Examples,
    validation: Examples,
    *,
    epochs: int,
    seed: int,
    longest: int,
    progress: ProgressCallback,
) -> None:
    """Train projection and block in place; the epoch with the least validation loss is kept.

    AdamW with learning rate 1e-3 and weight decay 1e-4, as published (arXiv 2505.15710).

    Args:
        head: A head with a listwise block.
        training: Rows to fit.
        validation: Rows of other goals.
        epochs: Passes over the goals, with new lists each time.
        seed: Makes the lists repeatable.
        longest: Most candidates of a list; lists have 2 to this many.
        progress: Receives the validation loss of every epoch.
    """
    parameters = [*head.projection.parameters(), *head.block.parameters()]
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-4)
    validation_lists = _lists(validation, head, random.Random(seed), longest=longest)
    best: tuple[float, dict[str, Tensor]] | None = None
    for epoch in range(epochs):
        head.train()
        lists = _lists(training, head, random.Random(f"{seed}:{epoch}"), longest=longest)
        for start in range(0, len(lists), _BATCH):
            loss = _list_loss(head, training, lists[start : start + _BATCH])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        head.eval()
        with torch.no_grad():
            loss_value = float(_list_loss(head, validation, validation_lists))
        if best is None or loss_value < best[0]:
            best = loss_value, {k: v.clone() for k, v in head.state_dict().items()}
        progress("listwise block", epoch + 1, epochs, loss=loss_value)
    assert best is not None
    head.load_state_dict(best[1])


def _lists(
    examples: Examples, head: SRRHead, rng: random.Random, *, longest: int
) -> list[list[int]]:
    """Lists of 2 to `longest` rows of one goal, each with a good and a bad one."""
    goals: defaultdict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for i, row in enumerate(examples.rows):
        goals[row.goal_id][0 if _is_good(row, head) else 1].append(i)
    lists: list[list[int]] = []
    for good, bad in goals.values():
        for _ in range(_LISTS_PER_GOAL if good and bad else 0):
            size = rng.randint(2, longest)
            some = rng.sample(good, min(len(good), rng.randint(1, size - 1)))
            lists.append(some + rng.sample(bad, min(len(bad), size - len(some))))
    rng.shuffle(lists)
    return lists[:_LISTS_PER_EPOCH]


def _is_good(row: LabelledResponse, head: SRRHead) -> bool:
    """True if a row should win its list; for a head that is not graded, all safe ones do."""
    return row.safe and not (head.config.graded and row.helps is False)


def _list_loss(head: SRRHead, examples: Examples, lists: Sequence[Sequence[int]]) -> Tensor:
    longest = max(map(len, lists))
    index = torch.tensor([[*row, *[row[0]] * (longest - len(row))] for row in lists])
    mask = torch.tensor([[k < len(row) for k in range(longest)] for row in lists])
    relevant = torch.tensor(
        [[_is_good(examples.rows[i], head) for i in row] for row in index.tolist()]
    )
    output = head(examples.states(examples.first[index]), mask)
    return listwise_kl_loss(output.scores, relevant, mask)
