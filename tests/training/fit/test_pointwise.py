from __future__ import annotations

import torch
from planted import CONFIG, WIDTH

from srr_guard.scorer.head import Probe, SRRHead
from srr_guard.training.data import LabelledResponse
from srr_guard.training.feature_store import Examples
from srr_guard.training.fit.lessons import lesson
from srr_guard.training.fit.linear import fit_class_means, fit_logistic
from srr_guard.training.fit.pointwise import fit_head

KINDS = ("benign-help", "over-refusal", "compliance", "refusal")


def examples(n: int, seed: int) -> Examples:
    """Rows of all kinds; what is asked shows in the request's first features."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        LabelledResponse(
            prompt=f"{seed} {i}",
            response=KINDS[i % 4],
            label="unsafe" if KINDS[i % 4] == "compliance" else "safe",
            kind=KINDS[i % 4],
            prompt_type="safe" if i % 4 < 2 else "unsafe",
        )
        for i in range(n)
    ]
    harmful = torch.tensor([float(i % 4 >= 2) for i in range(n)])
    requests = torch.randn(n, 1, WIDTH, generator=generator)
    requests[:, 0, :3] += harmful[:, None]
    answers = torch.randn(n, 1, WIDTH, generator=generator)
    answers[:, 0, 3] += torch.tensor([float(i % 4 in (0, 2)) for i in range(n)])
    answers[:, 0, 4] -= torch.tensor([float(i % 4 == 2) for i in range(n)])
    return Examples(
        rows=rows,
        prompt={"instruction": requests, "request": requests + answers.mean()},
        windows={"mean": answers, "last": answers},
        owner=torch.arange(n),
    )


def direction(probe: Probe) -> torch.Tensor:
    weight = probe.linear.weight.detach()[0]
    return weight / weight.norm()


def test_the_request_is_read_by_class_means_and_answers_by_logistic_regression() -> None:
    sides = [examples(400, 0), examples(200, 1)]
    head = fit_head(CONFIG, *sides, seed=0, penalties=(0.01,))
    both = [lesson(SRRHead(CONFIG), "harmful_request", side, None) for side in sides]
    expected, logistic = Probe(CONFIG.request_inputs), Probe(CONFIG.request_inputs)
    fit_class_means(expected, both)
    fit_logistic(logistic, both, penalty=0.01, preference_weight=0.0)
    torch.testing.assert_close(direction(head.harmful_request), direction(expected))
    assert not torch.allclose(direction(head.harmful_request), direction(logistic), atol=1e-2)
    other = fit_head(CONFIG, *sides, seed=0, penalties=(0.01,), class_means=False)
    torch.testing.assert_close(direction(other.harmful_request), direction(logistic))
    torch.testing.assert_close(other.harmless.linear.weight, head.harmless.linear.weight)


def test_the_request_probe_is_calibrated_on_goals_it_was_not_fitted_on() -> None:
    head = fit_head(CONFIG, examples(400, 0), examples(200, 1), seed=0, penalties=(0.01,))
    unseen = lesson(head, "harmful_request", examples(2000, 2), None)
    with torch.no_grad():
        p = torch.sigmoid(head.harmful_request(unseen.x))
    for low, high in ((0.1, 0.4), (0.6, 0.9)):
        inside = (p > low) & (p < high)
        assert abs(float(p[inside].mean() - unseen.y[inside].mean())) < 0.1
