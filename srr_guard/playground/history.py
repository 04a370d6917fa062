"""The history of runs, for the page and as rows for `srr-guard tune`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from srr_guard.errors import InvalidInputError
from srr_guard.playground.requests import Label
from srr_guard.playground.runs import Run

_ROW: dict[Label, dict[str, str]] = {
    "helps": {"label": "safe", "kind": "benign-help"},
    "declines": {"label": "safe", "kind": "refusal"},
    "unsafe": {"label": "unsafe", "kind": "compliance"},
}
"""What each label says of a row (see `LabelledResponse`)."""


def listed(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The runs in short, in the order given."""
    return [
        {
            "run": run.id,
            "prompt": run.request.prompt,
            "answers": len(run.answers.made),
            "labels": len(run.labels),
            "outcomes": [
                {name: outcome.get(name) for name in ("reason", "held", "chosen")}
                for outcome in run.outcomes
            ],
        }
        for run in runs
    ]


def told(run: Run) -> dict[str, Any]:
    """A run as a whole, for the page to show again."""
    events = [run.candidate_event(index) for index in sorted(run.answers.made)]
    events += run.gate_events()
    return {
        "run": run.id,
        "request": run.request.model_dump(mode="json"),
        "events": events,
        "columns": [settings.model_dump(mode="json") for settings in run.columns],
        "outcomes": run.outcomes,
        "labels": run.labels,
    }


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each labelled answer, oldest first."""
    return [
        {
            "prompt": run.request.prompt,
            "response": run.text(index),
            **_ROW[label],
            "source": "playground",
        }
        for run in reversed(runs)
        for index, label in sorted(run.labels.items())
    ]


def as_json_lines(runs: Sequence[Run]) -> str:
    """The labelled answers as JSON Lines, ready for `srr-guard tune --data`.

    Raises:
        InvalidInputError: None is labelled.
    """
    found = rows(runs)
    if not found:
        raise InvalidInputError("no answer is labelled yet: label some on the page, then export")
    return "".join(json.dumps(row) + "\n" for row in found)
