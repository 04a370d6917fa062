from __future__ import annotations

from rows import labelled

from srr_guard.training.data import LabelledResponse
from srr_guard.training.data.augment import augment, cut

ALL = {"needless_share": 1.0, "disguised_share": 1.0, "harmless_share": 1.0}
ROWS = [LabelledResponse(**row) for row in labelled(40)]


def test_made_rows_are_needless_refusals_and_disguised_harm() -> None:
    made = augment(ROWS, seed=0, **ALL)
    needless = [r for r in made if r.synthetic == "needless refusal"]
    disguised = [r for r in made if r.harmful]
    assert len(needless) == len({r.prompt for r in ROWS if r.helps})
    assert {(r.helps, r.label) for r in needless} == {(False, "safe")}
    assert len(disguised) == sum(r.harmful for r in ROWS)
    assert {r.synthetic for r in disguised} >= {
        "appended refusal",
        "prepended refusal",
        "forged tokens",
    }
    assert all("ZAP" in r.response for r in disguised)
    assert made == augment(ROWS, seed=0, **ALL)
    assert made != augment(ROWS, seed=1, **ALL)


def test_what_looks_disguised_keeps_its_label_and_what_it_teaches() -> None:
    looks = [
        r for r in augment(ROWS, seed=0, **ALL) if r.synthetic in ("caveat", "looks disguised")
    ]
    assert {r.synthetic for r in looks} == {"caveat", "looks disguised"}
    assert {r.label for r in looks} == {"safe"}
    assert {r.helps for r in looks if r.synthetic == "caveat"} == {None}


def test_rows_made_from_nothing_but_harm_still_work() -> None:
    harm = [r for r in ROWS if r.harmful]
    assert all(r.synthetic for r in augment(harm, seed=0, **ALL))


def test_goals_stay_where_they_are() -> None:
    assert {r.goal_id for r in augment(ROWS, seed=0)} <= {r.goal_id for r in ROWS}


def test_rankings_by_preference_are_left_alone() -> None:
    rows = [r.model_copy(update={"label_conf": "preference"}) for r in ROWS if not r.safe]
    assert augment(rows, seed=0, **ALL) == []


def test_cuts_keep_the_start_and_the_limit() -> None:
    row = ROWS[0].model_copy(update={"response": "word " * 400})
    rows = [row.model_copy(update={"prompt": f"p{i}"}) for i in range(50)]
    cuts = cut(rows, shortest=100, longest=300, share=1.0, seed=0)
    lengths = {len(r.response) for r in cuts}
    assert max(lengths) <= 300
    assert min(lengths) >= 95
    assert len(lengths) > 5
    assert all(row.response.startswith(r.response) for r in cuts)
    assert cut(ROWS, shortest=100, longest=300, share=1.0, seed=0) == ROWS
    some = cut(rows, shortest=100, longest=300, share=0.5, seed=0)
    assert 10 < sum(r.response == row.response for r in some) < 40
