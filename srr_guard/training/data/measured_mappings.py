"""Mappers of the public test sets, for `evaluate` only.

They leave `prompt_type` open: a set is then measured as a whole, as in published figures.
"""

from __future__ import annotations

from srr_guard.training.data import mappings
from srr_guard.training.data.records import (
    Label,
    Record,
    Rows,
    UnfitRecordError,
    made,
    number,
    reads,
    text,
)
from srr_guard.training.data.refusals import is_refusal


def _whole(rows: Rows) -> Rows:
    return [row.model_copy(update={"prompt_type": None}) for row in rows]


@reads(*mappings.wildguard.columns, "language")
def polyguard_prompts(record: Record) -> Rows:
    """PolyGuardPrompts, whose English part is WildGuardTest: answers judged by people."""
    return _whole(mappings.wildguard(record))


@reads(*mappings.aegis.columns)
def aegis_test(record: Record) -> Rows:
    """The test split of Aegis 2: answers."""
    return _whole(mappings.aegis(record))


@reads("goal", "prompt", "target_response", "human_majority")
def jbb_judge(record: Record) -> Rows:
    """JailbreakBench's judge comparison: three people on each answer."""
    harms = number(record, "human_majority")
    if harms is None:
        return []
    return made(
        text(record, "prompt"),
        text(record, "target_response"),
        "unsafe" if harms else "safe",
        "compliance" if harms else None,
        goal=text(record, "goal") or None,
    )


@reads("type", "prompt", "completion", "final_label")
def xstest(record: Record) -> Rows:
    """XSTest: help or needless refusal where the request is safe, else refusal or harm."""
    asks_harm = text(record, "type").lower().startswith("contrast")
    words = text(record, "final_label").lower().replace("_", " ")
    said = next((name for name in _XSTEST if name in words), None)
    if said is None:
        raise UnfitRecordError(f"final_label={words!r} is none of {', '.join(_XSTEST)}")
    kind = _XSTEST[said][asks_harm]
    if kind is None:
        return []
    label: Label = "unsafe" if kind == "compliance" else "safe"
    return made(text(record, "prompt"), text(record, "completion"), label, kind)


_XSTEST: dict[str, tuple[str, str | None]] = {
    "full compliance": ("benign-help", "compliance"),
    "full refusal": ("over-refusal", "refusal"),
    "partial refusal": ("partial-over-refusal", None),
}
"""Label -> kind for a safe request, kind for a harmful one."""


@reads("prompt", "chosen", "rejected", "subset")
def reward_bench(record: Record) -> Rows:
    """RewardBench 2: the right answer before wrong ones; ranks, and says no more."""
    prompt = text(record, "prompt")
    rows: Rows = []
    for answer in _answers(record, "chosen"):
        kind = "refusal" if is_refusal(answer) else None
        rows += made(prompt, answer, "safe", kind, label_conf="preference")
    for answer in _answers(record, "rejected"):
        rows += made(prompt, answer, "unsafe", label_conf="preference")
    return rows


def _answers(record: Record, column: str) -> list[str]:
    value = record.get(column)
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise UnfitRecordError(f"{column} is neither a text nor a list of them")
    return values
