from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from srr_guard.local.decoding.sampling import Draw, draw


def draws(count: int, temperature: float, top_p: float, seed: int = 0) -> list[Draw]:
    return [Draw(temperature, top_p, random.Random(seed + i)) for i in range(count)]


def test_greedy_and_sampled_rows_side_by_side() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    mixed = draws(4, 1.0, 0.9)
    mixed[1] = mixed[3] = Draw(0.0, 1.0, random.Random(0))
    tokens = draw(logits, mixed)
    assert [tokens[i] for i in (1, 3)] == logits[[1, 3]].argmax(-1).tolist()
    alone = draws(4, 1.0, 0.9)
    assert tokens[2] == draw(logits[2:3], alone[2:3])[0]


@pytest.mark.parametrize("top_p", [1.0, 0.99, 0.6, 1e-9])
@pytest.mark.parametrize("spread", [0.1, 2.0, 20.0])
def test_only_the_likeliest_tokens_are_drawn(top_p: float, spread: float) -> None:
    numbers = torch.Generator().manual_seed(1)
    row = torch.randn(2000, generator=numbers) * spread
    found = Counter(draw(row.expand(500, -1), draws(500, 1.0, top_p)))
    values, order = row.double().softmax(-1).sort(descending=True)
    kept = int((values.cumsum(0) - values < top_p).sum()) if top_p < 1.0 else len(values)
    assert set(found) <= set(order[: max(kept, 1)].tolist())
    if kept > 100 and spread < 10.0:  # tokens past the first ones that are sorted are drawn too
        assert len(found) > 50


def test_tokens_of_no_probability_are_never_drawn() -> None:
    row = torch.full((1000,), -torch.inf)
    row[[3, 700]] = torch.tensor([0.0, 1.0])
    for top_p in (1.0, 0.999):
        assert set(draw(row.expand(200, -1), draws(200, 1.0, top_p))) == {3, 700}


def test_each_row_uses_one_number_a_token() -> None:
    row = torch.randn(1, 1000, generator=torch.Generator().manual_seed(2))
    for temperature, top_p in ((1.0, 1.0), (0.1, 0.5), (5.0, 0.99)):
        used, beside = random.Random(7), random.Random(7)
        draw(row, [Draw(temperature, top_p, used)])
        beside.random()
        assert used.random() == beside.random()
