from __future__ import annotations

import math

import torch

from srr_guard.training.fit.loss import listwise_kl_loss


def test_it_is_the_divergence_from_the_uniform_ideal() -> None:
    scores = torch.tensor([[1.0, 0.0, -1.0]])
    relevant = torch.tensor([[True, True, False]])
    p = torch.softmax(scores[0], 0)
    expected = sum(0.5 * math.log(0.5 / float(p[i])) for i in (0, 1))
    assert math.isclose(float(listwise_kl_loss(scores, relevant)), expected, rel_tol=1e-5)


def test_padding_adds_nothing_to_loss_or_gradient() -> None:
    relevant = torch.tensor([[True, False, True]])
    plain = torch.tensor([[0.3, 0.9, -0.2]], requires_grad=True)
    listwise_kl_loss(plain, relevant).backward()
    padded = torch.tensor([[0.3, 0.9, -0.2, 50.0]], requires_grad=True)
    mask = torch.tensor([[True, True, True, False]])
    loss = listwise_kl_loss(padded, torch.tensor([[True, False, True, True]]), mask)
    loss.backward()
    torch.testing.assert_close(loss, listwise_kl_loss(plain, relevant))
    torch.testing.assert_close(padded.grad[:, :3], plain.grad)
    assert padded.grad[0, 3] == 0


def test_a_uniform_prediction_over_the_relevant_ones_costs_nothing() -> None:
    scores = torch.tensor([[20.0, 20.0, -20.0]])
    assert float(listwise_kl_loss(scores, torch.tensor([[True, True, False]]))) < 1e-6


def test_lists_of_one_kind_are_left_out() -> None:
    scores = torch.randn(3, 2, requires_grad=True)
    relevant = torch.tensor([[True, True], [False, False], [True, False]])
    loss = listwise_kl_loss(scores, relevant)
    torch.testing.assert_close(loss, listwise_kl_loss(scores[2:], relevant[2:]))
    nothing = listwise_kl_loss(scores[:2], relevant[:2])
    nothing.backward()
    assert nothing.item() == 0.0
    assert torch.isfinite(scores.grad).all()
