from __future__ import annotations

from rows import labelled

from srr_guard.training.augment import REFUSAL_SENTENCES, augment, cut
from srr_guard.training.data import LabelledResponse

ROWS = [LabelledResponse(**row) for row in labelled(40)]


def test_made_rows_are_needless_refusals_and_disguised_harm() -> None:
    made = augment(ROWS, seed=0, refusals_per_benign=1.0, disguised_share=1.0)
    refusals = [r for r in made if r.helps is False]
    disguised = [r for r in made if not r.safe]
    assert len(refusals) == len({r.prompt for r in ROWS if r.helps})
    assert len(disguised) == sum(not r.safe for r in ROWS)
    assert all(any(s in r.response for s in REFUSAL_SENTENCES) for r in disguised)
    assert all("ZAP" in r.response for r in disguised)
    assert made == augment(ROWS, seed=0, refusals_per_benign=1.0, disguised_share=1.0)


def test_goals_stay_where_they_are() -> None:
    assert {r.goal_id for r in augment(ROWS, seed=0)} <= {r.goal_id for r in ROWS}


def test_rankings_by_preference_are_left_alone() -> None:
    rows = [r.model_copy(update={"label_conf": "preference"}) for r in ROWS if not r.safe]
    assert augment(rows, seed=0, disguised_share=1.0) == []


def test_cuts_keep_the_start_and_the_limit() -> None:
    row = ROWS[0].model_copy(update={"response": "word " * 400})
    rows = [row.model_copy(update={"prompt": f"p{i}"}) for i in range(50)]
    cuts = cut(rows, shortest=100, longest=300, seed=0)
    lengths = {len(r.response) for r in cuts}
    assert max(lengths) <= 300
    assert min(lengths) >= 95
    assert len(lengths) > 5
    assert all(row.response.startswith(r.response) for r in cuts)
    assert cut(ROWS, shortest=100, longest=300, seed=0) == ROWS
