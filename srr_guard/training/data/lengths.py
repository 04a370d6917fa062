"""Brings long answers to the lengths of others, so that length tells nothing of the label."""

from __future__ import annotations

from collections.abc import Sequence

from srr_guard.training.data.rows import LabelledResponse


def with_lengths_of(
    rows: Sequence[LabelledResponse], others: Sequence[LabelledResponse]
) -> list[LabelledResponse]:
    """Cut answers so that none of their quantiles of length is above that of others.

    The shortest answer gets at most the length of the shortest of the others, and so on by rank;
    cuts are made at a space. Without others the rows stay as they are.

    Args:
        rows: Answers that tend to be long, such as those of a set of plain help.
        others: Answers whose lengths are followed, such as harmful ones.

    Example:
        >>> long, short = "one two three four", "five six"
        >>> row = LabelledResponse(prompt="a", prompt_type="safe", response=long, label="safe")
        >>> found = with_lengths_of([row], [row.model_copy(update={"response": short})])
        >>> [row.response for row in found]
        ['one two']
    """
    lengths = sorted(len(row.response) for row in others)
    if not lengths:
        return list(rows)
    ranked = sorted(range(len(rows)), key=lambda i: len(rows[i].response))
    found = list(rows)
    for rank, i in enumerate(ranked):
        most = lengths[(2 * rank + 1) * len(lengths) // (2 * len(rows))]
        found[i] = rows[i].model_copy(update={"response": _cut(rows[i].response, most)})
    return found


def _cut(text: str, most: int) -> str:
    """The text up to the last space within so many characters; never empty."""
    if len(text) <= most:
        return text
    head = text[: most + 1]
    end = max(head.rfind(space) for space in " \n\t")
    return head[: end if end > 0 else most].rstrip() or text[:most]
