from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from srr_guard.scorer.config import HeadConfig
from srr_guard.scorer.head import Probes, SRRHead
from srr_guard.scorer.inference import judge, list_scores

WIDTH = 16


def make_head(*, pointwise: bool, listwise: bool, depths: tuple[int, ...] = (1, 2)) -> SRRHead:
    torch.manual_seed(0)
    config = HeadConfig(
        width=WIDTH,
        depths=depths,
        poolings=("mean", "last", "instruction"),
        pointwise=pointwise,
        graded=pointwise,
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
    """One list of n candidates, all of one prompt."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(1, n, 2, WIDTH, generator=generator)  # noqa: E731
    prompt = torch.Generator().manual_seed(9)
    shared = lambda: torch.randn(1, 1, 2, WIDTH, generator=prompt).expand(1, n, -1, -1)  # noqa: E731
    return {"mean": draw(), "last": draw(), "instruction": shared(), "request": shared()}


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 8), seed=st.integers(0, 1000), data=st.data())
def test_permuting_candidates_permutes_scores(n: int, seed: int, data: st.DataObject) -> None:
    head = make_head(pointwise=True, listwise=True)
    order = data.draw(st.permutations(range(n)))
    given_ = states(n, seed)
    straight = head(given_)
    permuted = head({k: v[:, order] for k, v in given_.items()})
    torch.testing.assert_close(permuted.scores, straight.scores[:, order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(permuted.p_safe, straight.p_safe[:, order], atol=1e-5, rtol=1e-4)


def test_p_safe_does_not_depend_on_the_list(head: SRRHead) -> None:
    many = states(8)
    listed = head(many).p_safe[0]
    for i in range(8):
        alone = head({k: v[:, i : i + 1] for k, v in many.items()}).p_safe[0, 0]
        torch.testing.assert_close(alone, listed[i], atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing(head: SRRHead) -> None:
    real = states(3)
    noise = states(5, seed=1)
    padded = {k: torch.cat([real[k], 100 * noise[k][:, :2]], dim=1) for k in real}
    mask = torch.tensor([[True, True, True, False, False]])
    with_padding = head(padded, mask)
    without = head(real)
    torch.testing.assert_close(with_padding.scores[:, :3], without.scores, atol=1e-5, rtol=1e-4)
    assert torch.isneginf(with_padding.scores[:, 3:]).all()


def test_candidates_of_the_listwise_block_see_each_other() -> None:
    head = make_head(pointwise=False, listwise=True)
    many = states(3)
    fewer = {k: v[:, :2] for k, v in many.items()}
    assert not torch.allclose(head(many).scores[:, :2], head(fewer).scores)


def test_equal_candidates_tie(head: SRRHead) -> None:
    one = states(1)
    three = {k: v.expand(1, 3, -1, -1) for k, v in one.items()}
    scores = head(three).scores[0]
    torch.testing.assert_close(scores, scores[:1].expand(3), atol=1e-6, rtol=1e-6)


def test_the_worst_window_counts() -> None:
    head = make_head(pointwise=True, listwise=False)
    windows = states(4)
    owner = torch.tensor([0, 1, 1, 2])
    judged = judge(
        head,
        windows={k: windows[k][0] for k in ("mean", "last")},
        prompt={k: windows[k][0, :3] for k in ("instruction", "request")},
        owner=owner,
    )
    each = head(windows).p_safe[0]
    torch.testing.assert_close(judged.p_safe[1], each[1:3].min())
    torch.testing.assert_close(judged.p_safe[[0, 2]], each[[0, 3]])
    assert len(list_scores(head, judged, [2, 0])) == 2


def test_the_published_design_is_small_and_as_described() -> None:
    config = HeadConfig.preset("published", width=4096, blocks=32)
    assert config.depths == (8,)
    assert config.poolings == ("last",)
    assert (config.pointwise, config.listwise, config.dropout) == (False, True, 0.1)
    assert sum(p.numel() for p in SRRHead(config).parameters()) < 5_000_000


def logits(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def test_help_comes_before_a_refusal_where_help_is_due() -> None:
    head = make_head(pointwise=True, listwise=False)
    harmless, answers = logits(4.0, 4.0, -8.0), logits(-5.0, 5.0, 5.0)
    benign = head.relevance(Probes(harmless, answers, logits(-5.0, -5.0, -5.0)))
    assert benign.argsort(descending=True).tolist() == [1, 0, 2]


def test_a_refusal_comes_before_harm_where_harm_is_asked_for() -> None:
    head = make_head(pointwise=True, listwise=False)
    harmless, answers = logits(4.0, -1.0), logits(-5.0, 5.0)
    harmful = head.relevance(Probes(harmless, answers, logits(5.0, 5.0)))
    assert harmful.argmax() == 0


@settings(max_examples=50, deadline=None)
@given(h=st.floats(-60, 60), a=st.floats(-60, 60), q=st.floats(-60, 60), more=st.floats(0.1, 60))
def test_more_harmless_is_never_worse_and_relevance_is_a_probability(
    h: float, a: float, q: float, more: float
) -> None:
    head = make_head(pointwise=True, listwise=False)
    less, better = (head.relevance(Probes(*map(logits, (x, a, q)))) for x in (h, h + more))
    assert torch.isfinite(less).all()
    assert less <= better + 1e-4
    assert better <= 1e-4


def with_evidence(weight: float) -> SRRHead:
    head = make_head(pointwise=True, listwise=False)
    return SRRHead(head.config.model_copy(update={"evidence": weight})).requires_grad_(False)


def test_many_doubtful_answers_make_the_request_look_harmful() -> None:
    head = with_evidence(1.0)
    harmless, answers = logits(3.0, *[-0.5] * 7), logits(-5.0, *[5.0] * 7)
    unfamiliar = Probes(harmless, answers, logits(*[-1.0] * 8))
    assert head.relevance(unfamiliar).argmax() == 0
    assert with_evidence(0.0).relevance(unfamiliar).argmax() != 0
    one_of_each = unfamiliar[torch.tensor([0, 1])]
    plain = Probes(logits(3.0, 3.0), one_of_each.answers, one_of_each.harmful_request)
    assert head.relevance(plain).argmax() == 1


def test_refusals_say_nothing_about_their_request() -> None:
    head = with_evidence(1.0)
    probes = Probes(logits(4.0, -4.0), logits(-40.0, -40.0), logits(0.5, 0.5))
    torch.testing.assert_close(head.request_in_view_of(probes), logits(0.5, 0.5))


def test_padding_is_no_evidence() -> None:
    head = with_evidence(1.0)
    probes = Probes(*(torch.randn(2, 4, generator=torch.manual_seed(k)) for k in range(3)))
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    padded = head.relevance(probes, mask)
    alone = head.relevance(probes[0, :2])
    torch.testing.assert_close(padded[0, :2], alone)
    torch.testing.assert_close(padded[1], head.relevance(probes[1]))


@settings(max_examples=50, deadline=None)
@given(
    lists=st.lists(st.tuples(*[st.floats(-60, 60)] * 2), min_size=1, max_size=8),
    q=st.floats(-60, 60),
    data=st.data(),
)
def test_evidence_knows_no_order_and_stays_finite(
    lists: list[tuple[float, float]], q: float, data: st.DataObject
) -> None:
    head = with_evidence(1.0)
    h, a = (torch.tensor(column) for column in zip(*lists, strict=True))
    order = data.draw(st.permutations(range(len(lists))))
    probes = Probes(h, a, torch.full_like(h, q))
    straight = head.relevance(probes)
    assert torch.isfinite(straight).all()
    permuted = head.relevance(probes[torch.tensor(order)])
    torch.testing.assert_close(permuted, straight[order], atol=1e-3, rtol=1e-4)


def test_p_refusal_is_the_other_side_of_answers() -> None:
    probes = Probes(logits(0.0, 0.0), logits(9.0, -9.0), logits(0.0, 0.0))
    assert probes.p_refusal.round().tolist() == [0.0, 1.0]


def test_p_help_needs_an_answer_and_a_benign_request() -> None:
    probes = Probes(logits(0.0, 0.0, 0.0), logits(9.0, 9.0, -9.0), logits(-9.0, 9.0, -9.0))
    assert probes.p_help.round().tolist() == [1.0, 0.0, 0.0]


def test_an_answer_to_a_harmful_request_is_less_safe_and_most_of_all_one_that_complies() -> None:
    head = make_head(pointwise=True, listwise=False)
    complies, refuses, helps = range(3)
    probes = Probes(logits(1.0, 1.0, 1.0), logits(9.0, -9.0, 9.0), logits(9.0, 9.0, -9.0))
    assert probes.compliance.mul(2).round().tolist() == [2.0, 1.0, 0.0]
    assert len(set(head.calibrated(probes).tolist())) == 1
    head.compliance.fill_(2.0)
    p_safe = head.calibrated(probes)
    expected = torch.sigmoid(logits(-1.0, 0.0, 1.0))
    torch.testing.assert_close(p_safe[[complies, refuses, helps]], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        {"pointwise": False, "listwise": False},
        {"pointwise": False, "graded": True},
        {"refusal_worth": 1.5},
        {"evidence": -0.1},
        {"familiar": -1},
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
