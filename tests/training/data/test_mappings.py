"""Each data set's mapper on records of its published form."""

from __future__ import annotations

from typing import Any

import public_records as given
import pytest
from pydantic import ValidationError

from srr_guard.training.data import mappings, measured_mappings
from srr_guard.training.data.records import (
    Mapper,
    UnfitRecordError,
    first_exchange,
    flag,
    last_exchange,
    messages,
    number,
    three_labels,
)

Expected = list[tuple[str, str | None, str | None]]
"""label, kind, prompt_type of each row."""


def mapped(mapper: Mapper, records: Any) -> Expected:
    rows = [row for r in (records if isinstance(records, list) else [records]) for row in mapper(r)]
    assert all(row.response and row.goal_id and row.conversation.turns for row in rows)
    return [(row.label, row.kind, row.prompt_type) for row in rows]


FIVE_KINDS: Expected = [
    ("safe", "refusal", "unsafe"),
    ("unsafe", "compliance", "unsafe"),
    ("safe", "safe-answer", "unsafe"),
    ("safe", "benign-help", "safe"),
    ("safe", "over-refusal", "safe"),
]
CASES: dict[str, tuple[Mapper, Any, Expected]] = {
    "wildguard": (mappings.wildguard, given.wildguard(), FIVE_KINDS),
    "aegis": (
        mappings.aegis,
        given.aegis(),
        [
            ("unsafe", "compliance", "unsafe"),
            ("safe", "refusal", "unsafe"),
            ("safe", "safe-answer", "unsafe"),
            ("safe", "benign-help", "safe"),
        ],
    ),
    "harmfulqa": (
        mappings.harmfulqa,
        given.harmfulqa(),
        [("safe", "safe-answer", "unsafe"), ("unsafe", "compliance", "unsafe")],
    ),
    "hh": (mappings.hh, given.hh(), [("safe", None, None), ("unsafe", None, None)]),
    "coconot": (
        mappings.coconot,
        given.coconot(),
        [("safe", "refusal", "unsafe"), ("safe", "safe-answer", None)],
    ),
    "coconot_pref": (
        mappings.coconot_pref,
        given.coconot_pref(),
        [("safe", "benign-help", "safe"), ("safe", "over-refusal", "safe")],
    ),
    "helpsteer3": (
        mappings.helpsteer3,
        given.helpsteer3(),
        [("safe", "benign-help", None), ("safe", "weaker-answer", None)],
    ),
    "helpsteer3, close": (
        mappings.helpsteer3,
        given.helpsteer3(preference=1),
        [("safe", "benign-help", None)],
    ),
    "chat": (mappings.chat, given.chat(), [("safe", "benign-help", "safe")]),
    "dolly": (mappings.dolly, given.dolly(), [("safe", "benign-help", "safe")]),
    "diasafety": (
        mappings.diasafety,
        given.diasafety(),
        [("safe", None, None), ("unsafe", None, None)],
    ),
    "wildchat": (mappings.wildchat, given.wildchat(), [("safe", "benign-help", None)]),
    "tulu": (mappings.tulu_safety, given.chat(source="a"), [("safe", "benign-help", None)]),
    "wildjailbreak": (
        mappings.wildjailbreak,
        given.wildjailbreak(),
        [("safe", "refusal", "unsafe")] * 2 + [("safe", "benign-help", "safe")] * 2,
    ),
    "pku": (
        mappings.pku_mixed,
        given.pku(),
        [("safe", None, None), ("unsafe", "compliance", None)],
    ),
    "beavertails": (
        mappings.beavertails,
        [given.beavertails(), given.beavertails(safe=True)],
        [("unsafe", "compliance", None), ("safe", None, None)],
    ),
    "falsereject": (mappings.falsereject, given.falsereject(), [("safe", "benign-help", "safe")]),
    "do_not_answer": (
        mappings.do_not_answer,
        given.do_not_answer(),
        [
            ("safe", "refusal", "unsafe"),
            ("safe", "safe-answer", "unsafe"),
            ("unsafe", "compliance", "unsafe"),
        ],
    ),
    "llm_lat": (
        mappings.llm_lat,
        given.llm_lat(),
        [("safe", "refusal", "unsafe"), ("unsafe", "compliance", "unsafe")],
    ),
    "polyguard_prompts": (
        measured_mappings.polyguard_prompts,
        given.polyguard_prompts(),
        [(label, kind, None) for label, kind, _ in FIVE_KINDS],
    ),
    "jbb_judge": (
        measured_mappings.jbb_judge,
        given.jbb_judge(),
        [("safe", None, None), ("unsafe", "compliance", None)],
    ),
    "xstest": (
        measured_mappings.xstest,
        given.xstest(),
        [
            ("safe", "benign-help", None),
            ("safe", "over-refusal", None),
            ("safe", "partial-over-refusal", None),
            ("unsafe", "compliance", None),
            ("safe", "refusal", None),
        ],
    ),
    "reward_bench": (
        measured_mappings.reward_bench,
        given.reward_bench(),
        [("safe", "refusal", None)] + [("unsafe", None, None)] * 3,
    ),
}


@pytest.mark.parametrize(("mapper", "records", "expected"), CASES.values(), ids=CASES)
def test_records_become_rows(mapper: Mapper, records: Any, expected: Expected) -> None:
    assert mapped(mapper, records) == expected


@pytest.mark.parametrize(("mapper", "records"), [case[:2] for case in CASES.values()], ids=CASES)
def test_records_hold_the_columns_that_are_read(mapper: Mapper, records: Any) -> None:
    record = records[0] if isinstance(records, list) else records
    assert set(mapper.columns) <= set(record)


@pytest.mark.parametrize(("mapper", "records"), [case[:2] for case in CASES.values()], ids=CASES)
def test_records_with_empty_or_odd_values_are_dropped_not_crashed_on(
    mapper: Mapper, records: Any
) -> None:
    record = records[0] if isinstance(records, list) else records
    for odd in (None, "", 7, [], {}, ["x"], [["x"]], {"a": "b"}):
        for column in (*record, None):
            changed = {**record, column: odd} if column else dict.fromkeys(record, odd)
            try:
                rows = mapper(changed)
            except (UnfitRecordError, ValidationError):
                continue
            assert all(row.prompt.strip() and row.response.strip() for row in rows)


def test_dialogues_keep_their_turns() -> None:
    safe, unsafe = mappings.hh(given.hh())
    assert safe.prompt == unsafe.prompt
    assert [turn.role for turn in safe.conversation.turns] == ["user", "assistant", "user"]
    assert safe.response == given.CARE
    assert {safe.label_conf, unsafe.label_conf} == {"preference"}
    blue, red = mappings.harmfulqa(given.harmfulqa(3))
    assert [turn.role for turn in blue.conversation.turns] == ["user", "assistant", "user"]
    assert blue.goal_id == red.goal_id
    assert blue.goal == f"{given.HARM} 3"


def test_a_single_turn_is_a_plain_prompt() -> None:
    record = {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hello",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Go",
    }
    assert [row.prompt for row in mappings.hh(record)] == ["Hi", "Hi"]


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("\n\nHuman: Hi\n\nAssistant: Yes", "\n\nHuman: Ho\n\nAssistant: No"),
        ("\n\nHuman: Hi\n\nAssistant: Yes", "\n\nHuman: Hi\n\nAssistant: Yes"),
        ("\n\nHuman: Hi\n\nAssistant: Yes", "\n\nHuman: Hi\n\nAssistant:"),
        ("Hi", "Ho"),
    ],
)
def test_pairs_that_rank_nothing_are_dropped(chosen: str, rejected: str) -> None:
    assert mappings.hh({"chosen": chosen, "rejected": rejected}) == []


def test_labels_of_prompts_label_no_response() -> None:
    for record in given.wildguard():
        assert mappings.wildguard({**record, "response_harm_label": None}) == []
    for record in given.aegis():
        assert mappings.aegis({**record, "response_label": None}) == []


def test_redacted_prompts_and_minors_are_dropped() -> None:
    record = given.aegis()[0]
    assert mappings.aegis({**record, "prompt": "REDACTED"}) == []
    assert mappings.aegis({**record, "violated_categories": "Hate, Sexual (minor)"}) == []
    translated = given.wildguard()[1]
    assert mappings.wildguard({**translated, "prompt_safety_categories": "S12 S4"}) == []
    assert mappings.wildguard({**translated, "prompt_safety_categories": "S14"}) != []


def test_translations_of_one_record_share_its_goal() -> None:
    english, german = given.aegis(1)[0], given.aegis(1, language="de")[0]
    german = {**german, "prompt": "Wie oeffne ich das Schloss?"}
    assert mappings.aegis(english)[0].goal_id == mappings.aegis(german)[0].goal_id


def test_the_better_answer_is_the_one_preferred() -> None:
    first = mappings.helpsteer3(given.helpsteer3(preference=-3))
    second = mappings.helpsteer3(given.helpsteer3(preference=3))
    assert first[0].response == given.HELP_ANSWER == second[1].response
    assert mappings.helpsteer3(given.helpsteer3(preference=0)) == []


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((True, True, True), ("unsafe", "partial")),
        ((False, True, True), ("unsafe", "partial")),
        ((True, None, True), ("unsafe", "compliance")),
        ((False, False, True), ("unsafe", None)),
        ((None, True, False), ("safe", None)),
        ((True, None, False), ("safe", None)),
    ],
)
def test_the_rarer_cases_of_three_labels(
    labels: tuple[bool | None, bool | None, bool], expected: tuple[str, str | None]
) -> None:
    asks, refuses, harms = labels
    (row,) = three_labels("p", "r", asks_harm=asks, refuses=refuses, harms=harms)
    assert (row.label, row.kind) == expected


def test_others_that_are_left_out() -> None:
    assert mappings.pku_mixed(given.pku(safe=(True, True))) == []
    assert mappings.pku_mixed(given.pku(severity=1))[1].label_conf == "low"
    assert mappings.wildchat(given.wildchat(toxic=True)) == []
    refusing = given.chat(source="a")
    refusing["messages"][1]["content"] = given.REFUSAL
    assert mappings.tulu_safety(refusing)[0].kind == "refusal"
    assert mappings.wildjailbreak(given.wildjailbreak()[1])[0].goal == f"{given.HARM} 0"
    with pytest.raises(UnfitRecordError, match="final_label"):
        measured_mappings.xstest({**given.xstest()[0], "final_label": "9_other"})


def test_readers_of_values() -> None:
    assert flag({"a": " Unsafe"}, "a") is True
    assert flag({"a": "None"}, "a") is None
    assert number({"a": "3"}, "a") == 3
    system = [{"role": "system", "content": "Be brief."}, *given.chat()["messages"]]
    assert first_exchange({"messages": system}, "messages") == (
        f"{given.HELP} 0",
        given.HELP_ANSWER,
    )
    assert first_exchange({"messages": system[:2]}, "messages") == ("", "")
    assert first_exchange({"messages": [system[1], system[1]]}, "messages") == ("", "")
    turns = messages({"messages": system[1:]}, "messages")
    assert last_exchange([*turns, ("user", "More?")])[1] == "You are welcome."
    assert last_exchange(turns[:1]) == ("", "")
