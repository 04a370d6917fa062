"""The promises, one sentence each, in the order of the matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

PROMISES = {
    "scored": "Everything that leaves is scored: text, reasoning, tool calls, fields beside",
    "unreadable": "What cannot be read is refused, raises, or passes as a counted bypass",
    "blank": "An answer without anything to read is failed and tried again, never preferred",
    "declined": "A refusal of the provider is an answer that refuses, filtered ones included",
    "best": "The best safe answer leaves, whole, with the usage of all and the decision on it",
    "closed": "Below the threshold and when scoring fails nothing leaves, but by a counted bypass",
    "isolated": "No text of a rejected answer reaches a callback, stream, event or trace",
    "repeatable": "What asks a human is refused by name",
    "asked": "The scorer sees all that the model was asked",
    "schema": "An answer that does not fit the schema asked for is a failed candidate",
    "errors": "All failing alike is also an error of that type; hopeless errors cost one call",
    "hooks": "A hook is called once a request, awaited if it is async; its error is the caller's",
    "limits": "Calls in flight stay within the limit, over all requests",
    "gated": "A prompt gate makes prompts cheaper, stricter or refused; one that fails is closed",
    "observed": "Observed requests get the first answer, whatever the guard would have done",
    "modes": "Read ahead or not, in one call or several: the same answer and the same counts",
    "model answers": "What code asks of the model is answered as the model would",
    "shared": "Doors that share a guard share its settings and its counts",
}


def promise(name: str) -> Callable[[Any], Any]:
    """Mark a test of a promise; it runs for every door that does not lack it."""
    assert name in PROMISES, name

    def mark(test: Any) -> Any:
        return pytest.mark.promise(name)(test)

    return mark
