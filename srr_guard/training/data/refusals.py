"""Finds refusals by their words, where no label says so."""

from __future__ import annotations

import re

_REFUSAL_WORDS = re.compile(
    r"\b(sorry|apologi[sz]e|as an ai|i'?m unable|i am unable|not able to|i (?:can|can ?not|can't|"
    r"could|couldn't|will|won't) ?(?:not|n't)? (?:assist|help|provide|fulfil|fulfill|support|"
    r"comply|create|write|generate|engage|answer)|i must decline|i (?:cannot|can't|won't)|"
    r"against my|not appropriate|inappropriate|unethical|illegal|not ethical|harmful)\b",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Find one of the usual words of refusal in the opening of a text."""
    return bool(_REFUSAL_WORDS.search(text.replace("\u2019", "'")[:300]))
