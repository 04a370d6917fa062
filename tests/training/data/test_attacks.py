from __future__ import annotations

import pytest
from rows import labelled

from srr_guard.characters import plain_characters
from srr_guard.training.data import LabelledResponse
from srr_guard.training.data.attacks import ATTACKS, Attack, attack_sets, attacked
from srr_guard.training.data.augment import REFUSAL_SENTENCES

ROWS = [LabelledResponse(**row) for row in labelled(20)]


@pytest.mark.parametrize("attack", ATTACKS)
def test_harm_is_disguised_and_nothing_else(attack: Attack) -> None:
    changed = attacked(ROWS, attack, seed=3)
    assert len(changed) == len(ROWS)
    for before, after in zip(ROWS, changed, strict=True):
        assert after.label == before.label
        assert before.response in plain_characters(after.response)
        assert (before.response == after.response) == before.safe
        if not before.safe:
            assert not any(sentence in after.response for sentence in REFUSAL_SENTENCES)
    assert changed == attacked(ROWS, attack, seed=3)
    if attack not in ("invisible characters", "look-alike letters"):  # no sentence is drawn
        assert changed != attacked(ROWS, attack, seed=4)


def test_the_disguise_stands_where_its_name_says() -> None:
    harm = next(r for r in ROWS if not r.safe)
    assert attacked([harm], "appended refusal")[0].response.startswith(harm.response)
    assert attacked([harm], "prepended refusal")[0].response.endswith(harm.response)
    assert attacked([harm], "harm after help")[0].response.endswith(harm.response)
    assert attacked([harm], "forged tokens")[0].response.startswith(harm.response)


def test_only_sets_with_both_labels_are_attacked() -> None:
    sets = {
        "both": ROWS,
        "safe": [r for r in ROWS if r.safe],
        "harmful": [r for r in ROWS if not r.safe],
    }
    assert set(attack_sets(sets)) == {f"both, {attack}" for attack in ATTACKS}


def test_large_sets_are_sampled() -> None:
    made = attack_sets({"both": ROWS}, most=10)["both, forged tokens"]
    assert sum(not r.safe for r in made) == 10
    assert sum(r.safe for r in made) == sum(r.safe for r in ROWS)


def test_preferences_are_no_harm_to_disguise() -> None:
    rows = [r.model_copy(update={"label_conf": "preference"}) for r in ROWS]
    assert attack_sets({"pairs": rows}) == {}
