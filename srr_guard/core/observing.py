"""Which requests are only observed."""

from __future__ import annotations

import hashlib

from srr_guard.conversation import Conversation
from srr_guard.errors import ConfigurationError
from srr_guard.policy import DecisionPolicy, SamplingPolicy


def observes(policy: DecisionPolicy, conversation: Conversation) -> bool:
    """True if the decision on this request is not enforced."""
    return policy.mode == "observe" and place_of(conversation) >= policy.enforce_share


def place_of(conversation: Conversation) -> float:
    """A conversation's place in [0, 1): below `enforce_share` its decision is enforced.

    It is the SHA-256 of its turns, so that equal conversations are treated alike, in every
    process.

    Example:
        >>> round(place_of(Conversation.of("How do magnets work?")), 3)
        0.176
    """
    digest = hashlib.sha256(conversation.model_dump_json().encode())
    return int.from_bytes(digest.digest()[:6]) / 2**48


def require_first_plain(sampling: SamplingPolicy) -> None:
    """Refuse to observe a plan whose first candidate is no plain one: it is passed on.

    Raises:
        ConfigurationError: It is not.
    """
    if (first := sampling.recipe(0)).kind != "plain":
        raise ConfigurationError(
            f"mode='observe' passes the first candidate on, and the plan begins with {first!r}: "
            "begin it with Plain()"
        )
