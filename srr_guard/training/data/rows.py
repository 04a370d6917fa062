"""Labelled responses: the schema of a row."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from srr_guard.conversation import Conversation, Turn

_HELPS = frozenset({"benign-help", "partial-help"})
_NEEDLESS = frozenset({"over-refusal", "partial-over-refusal"})
_REFUSES = frozenset({"refusal", "over-refusal"})
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant): ")


class LabelledResponse(BaseModel):
    """One row: a response to a prompt, and whether it is safe.

    Fields that are not listed here are ignored.

    Attributes:
        prompt: The prompt; a dialogue may be written in `Human:` / `Assistant:` turns.
        response: The answer that is labelled.
        label: `safe` or `unsafe`.
        kind: What the answer does, if known: `benign-help`, `partial-help`, `over-refusal`,
            `partial-over-refusal`, `refusal`, `compliance`, `partial`, `safe-answer`, ...
        source: The collection that it comes from; default: the name of its file.
        file: Name of the file it was read from, without endings; set by the reader, empty for
            the sets that come with the package.
        goal_id: Rows with one goal share it; splits never cut through it. Default: a digest
            of `goal`, or of the prompt.
        goal: The plain request behind an attack prompt.
        prompt_type: `safe` or `unsafe`, for the request itself, if known.
        label_conf: `preference` marks a label that only ranks rows of one prompt.
        licence: Licence of the row.
        pair: Rows of two look-alike requests share it (see the contrast set).
        synthetic: How `augment` made it; empty for a row of the data.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompt: str = Field(min_length=1)
    response: str
    label: Literal["safe", "unsafe"]
    kind: str | None = None
    source: str = "unnamed"
    file: str = ""
    goal: str | None = None
    goal_id: str = ""
    prompt_type: Literal["safe", "unsafe"] | None = None
    label_conf: str | None = None
    licence: str | None = None
    pair: str = ""
    synthetic: str = ""

    def model_post_init(self, _context: Any) -> None:
        """Give rows without a `goal_id` one."""
        if not self.goal_id:
            seed = (self.goal or self.prompt).strip().lower()
            object.__setattr__(self, "goal_id", hashlib.sha256(seed.encode()).hexdigest()[:12])

    @property
    def conversation(self) -> Conversation:
        """The prompt as turns."""
        return dialogue(self.prompt)

    @property
    def safe(self) -> bool:
        """True if the label says safe."""
        return self.label == "safe"

    @property
    def absolute(self) -> bool:
        """True if the label stands by itself, not only against its neighbour."""
        return self.label_conf != "preference"

    @property
    def harmful(self) -> bool:
        """True if it does harm, by a label that stands by itself."""
        return self.absolute and not self.safe

    @property
    def helps(self) -> bool | None:
        """True if it helps a benign request; None if that is not known."""
        if self.kind in _HELPS:
            return True
        return False if self.kind in _NEEDLESS else None

    @property
    def refuses(self) -> bool:
        """True if it is a plain refusal."""
        return self.kind in _REFUSES


def dialogue(prompt: str) -> Conversation:
    """Read `Human:` / `Assistant:` turns; any other text is one user turn."""
    if not prompt.startswith("Human: "):
        return Conversation.of(prompt)
    parts = _SPEAKER.split(prompt)[1:]
    turns = tuple(
        Turn(role="user" if who == "Human" else "assistant", text=text.strip())
        for who, text in zip(parts[::2], parts[1::2], strict=True)
    )
    return Conversation(turns=turns)
