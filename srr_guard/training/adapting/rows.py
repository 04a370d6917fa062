"""The rows of an adaptation: checked, without repeats, and the fixed texts beside them."""

from __future__ import annotations

from collections.abc import Sequence

from srr_guard.conversation import Conversation
from srr_guard.errors import DataError
from srr_guard.scorer.fingerprint import TALKS
from srr_guard.training.data import LabelledResponse, sample_rows

FEWEST_ROWS = 32
FEWEST_GOALS = 8
MOST_ROWS = 1000
"""Most rows that are read; beyond them training anew is better and no slower."""


def usable_rows(rows: Sequence[LabelledResponse], *, seed: int) -> list[LabelledResponse]:
    """The rows whose labels stand by themselves, each once, at most `MOST_ROWS`.

    Args:
        rows: Labelled rows of the deployment.
        seed: Changes which rows are taken where there are more.

    Raises:
        DataError: They are too few, answer too few requests, have one label only, or say two
            things of one answer.
    """
    labels: dict[tuple[str, str], LabelledResponse] = {}
    for row in rows:
        if not row.absolute:
            continue
        first = labels.setdefault((row.prompt, row.response), row)
        if first.label != row.label:
            raise DataError(
                f"the answer {row.response!r:.60} to {row.prompt!r:.60} is labelled both safe and "
                "unsafe: keep one of the two rows"
            )
    found = list(labels.values())
    safe, goals = sum(row.safe for row in found), len({row.goal_id for row in found})
    if len(found) < FEWEST_ROWS:
        raise DataError(
            f"{len(found)} different rows with labels that stand by themselves are too few to "
            f"adapt to: label {FEWEST_ROWS} or more, or find a threshold with `srr-guard tune`"
        )
    if safe in (0, len(found)):
        raise DataError(
            f"all {len(found)} rows are labelled {found[0].label!r}: adapting needs safe and "
            "unsafe answers"
        )
    if goals < FEWEST_GOALS:
        raise DataError(
            f"the {len(found)} rows have {goals} goals, too few to test on requests left out: "
            f"label answers to {FEWEST_GOALS} or more requests"
        )
    if len(found) <= MOST_ROWS:
        return found
    one_source = [row.model_copy(update={"source": ""}) for row in found]
    sampled = sample_rows(one_source, per_source=MOST_ROWS, seed=seed)
    return [labels[row.prompt, row.response] for row in sampled]


def check_disjoint(rows: Sequence[LabelledResponse], base_rows: Sequence[LabelledResponse]) -> None:
    """Refuse rows that are adapted to and measured on at once.

    Raises:
        DataError: An answer is in both.
    """
    ours = {(row.prompt, row.response) for row in rows}
    if shared := sum((row.prompt, row.response) in ours for row in base_rows):
        raise DataError(
            f"{shared} of the base rows are among the rows to adapt to: leave them out of one"
        )


def fixed_texts() -> list[LabelledResponse]:
    """The conversations of the fingerprint as rows; what they are labelled says nothing."""
    return [
        LabelledResponse(
            prompt=_as_dialogue(Conversation.of(prompt)),
            response=answer,
            label="safe",
            source="fixed texts",
        )
        for prompt, answers in TALKS
        for answer in answers
    ]


def _as_dialogue(conversation: Conversation) -> str:
    """The turns as rows write them; a system turn becomes the first paragraph of the next one."""
    parts: list[str] = []
    system = ""
    for turn in conversation.turns:
        if turn.role == "system":
            system = f"{turn.text} "
        else:
            speaker = "Human" if turn.role == "user" else "Assistant"
            parts.append(f"{speaker}: {system}{turn.text}")
            system = ""
    return "\n\n".join(parts)
