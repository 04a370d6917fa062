from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from srr_guard.scorer.config import HeadConfig
from srr_guard.scorer.head import SRRHead
from srr_guard.scorer.inference import judge, list_scores

WIDTH = 16


def make_head(*, pointwise: bool, listwise: bool, depths: tuple[int, ...] = (1, 2)) -> SRRHead:
    torch.manual_seed(0)
    config = HeadConfig(
        width=WIDTH,
        depths=depths,
        poolings=("mean", "last", "instruction"),
        pointwise=pointwise,
        listwise=listwise,
        projection=8,
        heads=2,
        feedforward=16,
    )
    return SRRHead(config).eval().requires_grad_(False)


@pytest.fixture(params=[(True, False), (False, True), (True, True)], ids=str)
def head(request: pytest.FixtureRequest) -> SRRHead:
    pointwise, listwise = request.param
    return make_head(pointwise=pointwise, listwise=listwise)


def states(n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(1, n, 2, WIDTH, generator=generator)  # noqa: E731
    return {"mean": draw(), "last": draw()}


def instruction(n: int) -> torch.Tensor:
    return torch.randn(1, 1, 2, WIDTH, generator=torch.Generator().manual_seed(9)).expand(
        1, n, -1, -1
    )


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 8), seed=st.integers(0, 1000), data=st.data())
def test_permuting_candidates_permutes_scores(n: int, seed: int, data: st.DataObject) -> None:
    head = make_head(pointwise=True, listwise=True)
    order = data.draw(st.permutations(range(n)))
    given_ = states(n, seed)
    straight = head(given_, instruction(n))
    permuted = head({k: v[:, order] for k, v in given_.items()}, instruction(n))
    torch.testing.assert_close(permuted.scores, straight.scores[:, order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(permuted.p_safe, straight.p_safe[:, order], atol=1e-5, rtol=1e-4)


def test_p_safe_does_not_depend_on_the_list(head: SRRHead) -> None:
    many = states(8)
    listed = head(many, instruction(8)).p_safe[0]
    for i in range(8):
        alone = head({k: v[:, i : i + 1] for k, v in many.items()}, instruction(1)).p_safe[0, 0]
        torch.testing.assert_close(alone, listed[i], atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing(head: SRRHead) -> None:
    real = states(3)
    noise = states(5, seed=1)
    padded = {k: torch.cat([real[k], 100 * noise[k][:, :2]], dim=1) for k in real}
    mask = torch.tensor([[True, True, True, False, False]])
    lists = torch.cat([instruction(3), 100 * torch.ones(1, 2, 2, WIDTH)], dim=1)
    with_padding = head(padded, lists, mask)
    without = head(real, instruction(3))
    torch.testing.assert_close(with_padding.scores[:, :3], without.scores, atol=1e-5, rtol=1e-4)
    assert torch.isneginf(with_padding.scores[:, 3:]).all()


def test_candidates_of_the_listwise_block_see_each_other() -> None:
    head = make_head(pointwise=False, listwise=True)
    many = states(3)
    fewer = {k: v[:, :2] for k, v in many.items()}
    assert not torch.allclose(
        head(many, instruction(3)).scores[:, :2], head(fewer, instruction(2)).scores
    )


def test_equal_candidates_tie(head: SRRHead) -> None:
    one = states(1)
    three = {k: v.expand(1, 3, -1, -1) for k, v in one.items()}
    scores = head(three, instruction(3)).scores[0]
    torch.testing.assert_close(scores, scores[:1].expand(3), atol=1e-6, rtol=1e-6)


def test_the_worst_window_counts() -> None:
    head = make_head(pointwise=True, listwise=False)
    windows = states(4)
    owner = torch.tensor([0, 1, 1, 2])
    judged = judge(
        head,
        mean=windows["mean"][0],
        last=windows["last"][0],
        instruction=instruction(3)[0],
        owner=owner,
    )
    each = head(windows, instruction(4)).p_safe[0]
    torch.testing.assert_close(judged.p_safe[1], each[1:3].min())
    torch.testing.assert_close(judged.p_safe[[0, 2]], each[[0, 3]])
    assert len(list_scores(head, judged, [2, 0])) == 2


def test_the_published_design_is_small_and_as_described() -> None:
    config = HeadConfig.preset("published", width=4096, blocks=32)
    assert config.depths == (8,)
    assert config.poolings == ("last",)
    assert (config.pointwise, config.listwise, config.dropout) == (False, True, 0.1)
    assert sum(p.numel() for p in SRRHead(config).parameters()) < 5_000_000


def test_helpfulness_orders_what_is_equally_harmless() -> None:
    head = make_head(pointwise=True, listwise=False)
    harmless = torch.tensor([4.0, 4.0, -4.0])
    help_ = torch.tensor([-5.0, 5.0, 5.0])
    assert head.relevance(harmless, help_).argsort(descending=True).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"pointwise": False, "listwise": False},
        {"depths": (3, 1)},
        {"depths": (0,)},
        {"depths": ()},
        {"projection": 7, "heads": 2},
        {"temperature": 0.0},
        {"unknown": 1},
    ],
)
def test_designs_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    sound = {"width": 8, "depths": (1,), "poolings": ("mean",), "pointwise": True, "listwise": True}
    with pytest.raises(ValidationError):
        HeadConfig(**{**sound, **change})  # type: ignore[arg-type]
