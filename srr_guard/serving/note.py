"""What is noted of a request while it is served: for its log line and metrics, never its text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from srr_guard.decision import Decision
from srr_guard.serving.config import KeyConfig

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass
class Note:
    """A request, as far as it has come.

    Attributes:
        id: Its id; the client's own where that is harmless.
        endpoint: A path that the gateway knows, or `other`.
        method: An HTTP method; `HTTP` for one that nobody knows.
        key: Whose request it is; None where no keys are configured.
        policy: Name of the policy that it is served by.
        status: HTTP status of the answer; 499 where the client hung up first.
        decision: What was decided last.
        error: Type of what went wrong.
    """

    id: str
    endpoint: str
    key: KeyConfig | None = None
    policy: str | None = None
    status: int = 0
    decision: Decision | None = None
    error: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"

    def record(self) -> dict[str, Any]:
        """The fields of its log line; no text of anybody is among them."""
        found: dict[str, Any] = {"request": self.id, "endpoint": self.endpoint}
        found["key"] = self.key.name if self.key else None
        found |= {"policy": self.policy, "status": self.status, "error": self.error}
        if self.decision is not None:
            summary = self.decision.summary()
            for name in ("reason", "p_safe", "sampled", "failed", "distinct"):
                found[name] = summary[name]
        return {name: value for name, value in found.items() if value is not None}


note_of_request: ContextVar[Note | None] = ContextVar("srr_guard_note", default=None)
"""The note of the request that this task serves."""


def current_note() -> Note:
    """The note of the request that this task serves."""
    note = note_of_request.get()
    if note is None:
        raise RuntimeError("no request is being served here")
    return note


def request_id(given: str | None) -> str:
    """The client's id where it is harmless in headers and logs; a new one otherwise.

    A new one is a UUID, for there are servers that refuse any other (`starlette-context`).
    """
    return given if given and _ID.fullmatch(given) else str(uuid4())
