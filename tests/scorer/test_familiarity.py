from __future__ import annotations

import torch

from srr_guard.scorer.familiarity import Familiarity


def drawn(n: int, seed: int) -> torch.Tensor:
    """Requests that differ along three of ten directions."""
    generator = torch.Generator().manual_seed(seed)
    few = torch.randn(n, 3, generator=generator) @ torch.randn(
        3, 10, generator=torch.Generator().manual_seed(99)
    )
    return few + 0.1 * torch.randn(n, 10, generator=generator)


def fitted() -> Familiarity:
    familiarity = Familiarity(10, 3)
    familiarity.fit(drawn(400, 0), drawn(400, 1))
    return familiarity


def test_shares_of_requests_alike_are_even() -> None:
    shares = fitted()(drawn(1000, 2))
    assert 0.4 < float(shares.mean()) < 0.6
    assert 0.02 < float((shares < 0.1).float().mean()) < 0.2


def test_the_unusual_is_less_familiar() -> None:
    familiarity = fitted()
    requests = drawn(50, 3)
    assert bool((familiarity(requests * 10) <= familiarity(requests)).all())
    outside = requests + 3 * torch.randn(50, 10, generator=torch.Generator().manual_seed(4))
    assert float(familiarity(outside).max()) < 0.05


def test_shares_lie_between_0_and_1_whatever_comes() -> None:
    shares = fitted()(torch.stack([torch.zeros(10), torch.full((10,), 1e30), drawn(1, 5)[0]]))
    assert bool(((shares >= 0) & (shares <= 1)).all())


def test_it_is_saved_with_its_head() -> None:
    other = Familiarity(10, 3)
    other.load_state_dict(fitted().state_dict())
    torch.testing.assert_close(other(drawn(20, 6)), fitted()(drawn(20, 6)))
