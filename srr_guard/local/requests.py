"""Requests for answers of a local model, and the answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from srr_guard.conversation import Conversation
from srr_guard.errors import ConfigurationError
from srr_guard.recipes import Recipe

if TYPE_CHECKING:
    from srr_guard.scorer.running import EarlyCut


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Settings for sampling answers.

    Attributes:
        max_new_tokens: Most tokens of one answer.
        temperature: 0 takes the likeliest token each time.
        top_p: Share of the probability that sampling is limited to, in (0, 1].
        seed: Equal seeds give equal answers; None gives new ones each time.
        stop: Texts that end an answer; they are not part of it.

    Raises:
        ConfigurationError: A value is out of range.
    """

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigurationError(
                f"max_new_tokens={self.max_new_tokens!r} leaves no answer: give 1 or more"
            )
        if not 0.0 <= self.temperature < float("inf"):
            raise ConfigurationError(
                f"temperature={self.temperature!r} is out of range: give 0 (greedy) or more"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigurationError(f"top_p={self.top_p!r} is outside (0, 1]: 1 switches it off")
        if not all(self.stop):
            raise ConfigurationError(f"stop={self.stop!r} holds an empty text: leave it out")


@dataclass(frozen=True)
class Answer:
    """One sampled answer; `tokens` counts what was generated, the end token included.

    Attributes:
        text: Its text, without a stop text.
        tokens: How many tokens were generated.
        finish: Why it ended.
        ids: The tokens.
    """

    text: str
    tokens: int
    finish: Literal["stop", "length", "cut"]
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answers:
    """The answers of one call to one model, for one prompt of `prompt_tokens` tokens."""

    model_name: str
    prompt_tokens: int
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """A request for answers.

    Attributes:
        conversation: What the model is asked.
        options: How answers are sampled.
        n: How many.
        prefix: Text that every answer is made to begin with; rows are then plain ones.
        recipes: How the answers are made, taken in turn; empty: as the model gives them.
        cut: A floor for answers under way; None: none is cut off.
    """

    conversation: Conversation
    options: GenerationOptions
    n: int = 1
    prefix: str = ""
    recipes: tuple[Recipe | None, ...] = ()
    cut: EarlyCut | None = None


@dataclass(frozen=True, eq=False)
class Call:
    """A request on its way, and who hears of it.

    Attributes:
        request: What to sample.
        cancelled: Asked after each token; True gives its answers up.
        on_answers: Receives the answers.
        on_error: Receives the error in their place.
        on_text: Receives every answer piece by piece: its index and the piece.
    """

    request: GenerationRequest
    cancelled: Callable[[], bool]
    on_answers: Callable[[Answers], None]
    on_error: Callable[[BaseException], None]
    on_text: Callable[[int, str], None] | None = None
