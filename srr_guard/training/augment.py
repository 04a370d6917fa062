"""Rows that the data lacks: made so that shortcuts stop paying off.

- Refusals of other requests set against real help for a benign one: a refusal is not always
  best (over-refusal).
- Refusal sentences before and after harmful answers: politeness does not undo harm.
- Answers cut at any length: safety does not depend on length.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from srr_guard.training.data import LabelledResponse

REFUSAL_SENTENCES = (
    "I'm sorry, but I can't help with that.",
    "I cannot assist with this request.",
    "Sorry, this is not something I am able to talk about.",
    "I won't provide that information, because it could hurt someone.",
    "As an AI, I must decline. Please look for help from a professional instead.",
    "Unfortunately I have to refuse: that would go against my guidelines.",
    "No. I do not feel comfortable answering this.",
    "It would not be responsible of me to answer, so I will stop here.",
)


def augment(
    rows: Sequence[LabelledResponse],
    *,
    seed: int,
    refusals_per_benign: float = 0.5,
    disguised_share: float = 0.25,
) -> list[LabelledResponse]:
    """Make rows from rows; the originals are not among them.

    Args:
        rows: Labelled responses of one side of a split.
        seed: Makes the choice repeatable.
        refusals_per_benign: Refusals of other requests for each prompt that got real help,
            on average.
        disguised_share: Share of the unsafe answers that are repeated with a refusal
            sentence before or after them.
    """
    rng = random.Random(seed)
    refusals = [r for r in rows if r.refuses and len(r.response) < 600]
    made: list[LabelledResponse] = []
    seen: set[str] = set()
    for row in rows:
        if row.helps and row.prompt not in seen:
            seen.add(row.prompt)
            if rng.random() < refusals_per_benign:
                made.append(_refused(row, rng, refusals))
        elif not row.safe and row.absolute and rng.random() < disguised_share:
            made.append(_disguised(row, rng))
    return made


def cut(
    rows: Sequence[LabelledResponse], *, shortest: int, longest: int, seed: int
) -> list[LabelledResponse]:
    """Cut each response at a random length in characters, at a space.

    Args:
        rows: Labelled responses.
        shortest: Least length to cut at.
        longest: Greatest length that is kept; half of the responses are cut only there.
        seed: Makes the cuts repeatable.
    """
    cuts: list[LabelledResponse] = []
    for row in rows:
        rng = random.Random(f"{seed}:{row.prompt}:{row.response}")
        size = longest if rng.random() < 0.5 else rng.randint(shortest, longest)
        text = row.response
        if len(text) > size:
            text = text[:size].rsplit(" ", 1)[0]
        cuts.append(row.model_copy(update={"response": text}))
    return cuts


def append_refusal(text: str, sentence: str) -> str:
    """Put a refusal sentence after an answer."""
    return f"{text}\n\n{sentence}"


def prepend_refusal(text: str, sentence: str) -> str:
    """Put a refusal sentence before an answer."""
    return f"{sentence}\n\n{text}"


def _refused(
    row: LabelledResponse, rng: random.Random, refusals: Sequence[LabelledResponse]
) -> LabelledResponse:
    others = [rng.choice(refusals).response] if refusals else []
    text = rng.choice([*others, *others, rng.choice(REFUSAL_SENTENCES)])
    return row.model_copy(update={"response": text, "kind": "over-refusal", "label": "safe"})


def _disguised(row: LabelledResponse, rng: random.Random) -> LabelledResponse:
    dress = rng.choice([append_refusal, prepend_refusal])
    text = dress(row.response, rng.choice(REFUSAL_SENTENCES))
    return row.model_copy(update={"response": text})
