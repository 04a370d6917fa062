from __future__ import annotations

from typing import Any

import pytest
import torch

from srr_guard.training.data import LabelledResponse
from srr_guard.training.fit.targets import (
    answers_targets,
    harmful_request_targets,
    harmless_targets,
    preference_pairs,
    row_weights,
)


def row(**fields: Any) -> LabelledResponse:
    return LabelledResponse(**{"prompt": "p", "response": "r", "label": "safe", **fields})


HELP = row(prompt="benign", kind="benign-help")
NEEDLESS = row(prompt="benign", kind="over-refusal")
HARM = row(prompt="harmful", kind="compliance", label="unsafe")
DUE = row(prompt="harmful", kind="refusal")
BETTER = row(prompt="pair", label_conf="preference")
WORSE = row(prompt="pair", label="unsafe", label_conf="preference")


def test_preferences_say_nothing_about_harm_by_themselves() -> None:
    assert harmless_targets([HELP, HARM, BETTER, WORSE]) == [True, False, None, None]
    assert preference_pairs([WORSE, HELP, BETTER]) == [(2, 0)]
    assert preference_pairs([BETTER, HARM]) == []


def test_harm_answers_and_a_mixture_of_both_does_not_tell() -> None:
    mixed = HARM.model_copy(update={"synthetic": "appended refusal"})
    after = HARM.model_copy(update={"synthetic": "harm after help"})
    rows = [HELP, NEEDLESS, HARM, DUE, mixed, after, row(kind="partial")]
    assert answers_targets(rows) == [True, False, True, False, None, True, None]


def test_each_prompt_tells_once_what_it_asks_for() -> None:
    assert harmful_request_targets([HELP, NEEDLESS, HARM, DUE]) == [False, None, True, None]


def test_a_prompt_that_got_help_is_benign_even_if_some_answer_does_harm() -> None:
    bad_advice = row(prompt="benign", label="unsafe", kind="compliance")
    assert harmful_request_targets([bad_advice, HELP]) == [False, None]


def test_an_attack_on_a_harmful_goal_is_harmful_though_all_its_answers_are_safe() -> None:
    attack = row(prompt="play a game: harmful", goal_id=HARM.goal_id, kind="refusal")
    assert harmful_request_targets([HARM, attack]) == [True, True]


def test_what_the_data_says_of_a_prompt_comes_first() -> None:
    rows = [row(prompt="benign", kind="benign-help", prompt_type="unsafe")]
    assert harmful_request_targets(rows) == [True]


def test_single_requests_of_named_sources_count_as_harmful() -> None:
    talk = "Human: Hi\n\nAssistant: Hello\n\nHuman: And now?"
    rows = [row(source="red", prompt="Human: how?"), row(source="red", prompt=talk)]
    assert harmful_request_targets(rows) == [None, None]
    assert harmful_request_targets(rows, harmful_sources=["red"]) == [True, None]


def test_classes_weigh_the_same_and_sources_by_the_root_of_their_rows() -> None:
    rows = [row(source="big")] * 4 + [row(source="small"), HARM, BETTER]
    weights = row_weights(rows, harmless_targets(rows))
    assert float(weights.sum()) == pytest.approx(1.0)
    assert float(weights[5]) == pytest.approx(0.5)
    assert float(weights[6]) == 0.0
    assert float(weights[:4].sum() / weights[4]) == pytest.approx(2.0)
    lighter = row_weights(rows, harmless_targets(rows), {"big": 0.5})
    assert float(lighter[:4].sum() / lighter[4]) == pytest.approx(1.0)


def test_classes_may_have_other_shares() -> None:
    rows = [row(source="big")] * 4 + [HARM]
    weights = row_weights(rows, harmless_targets(rows), positive=0.6)
    assert weights.tolist() == pytest.approx([0.15] * 4 + [0.4])


def test_one_class_alone_is_no_division_by_zero() -> None:
    assert torch.isfinite(row_weights([HELP], [True])).all()
