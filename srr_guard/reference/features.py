"""Features: which hidden states describe a conversation and its candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from srr_guard.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_WINDOW = 256
DEFAULT_OVERLAP = 64
DEFAULT_PROMPT_LIMIT = 2048


@dataclass(frozen=True)
class FeatureSpec:
    """Which states are read of a request, and how its candidates are cut.

    Attributes:
        depths: Depths to read, ascending.
        window: Tokens in one window of a candidate.
        overlap: Tokens that neighbouring windows share.
        prompt_limit: Most tokens of the prompt (see `PromptTemplate.prompt`).

    Raises:
        InvalidInputError: The windows make no sense.
    """

    depths: tuple[int, ...]
    window: int = DEFAULT_WINDOW
    overlap: int = DEFAULT_OVERLAP
    prompt_limit: int = DEFAULT_PROMPT_LIMIT

    def __post_init__(self) -> None:
        if self.window < 1 or not 0 <= self.overlap < self.window:
            raise InvalidInputError(
                f"window={self.window!r} and overlap={self.overlap!r} make no sense: the overlap "
                "must be shorter than the window"
            )


@dataclass(frozen=True, eq=False)
class Features:
    """Hidden states of one conversation and its candidates, in windows.

    "Depth k" is the residual stream after decoder block k, counted from 1, before any final
    norm. A candidate longer than a window has several; each is encoded right after the
    prompt. D depths, W windows, width d; float32 on the CPU.

    Attributes:
        instruction: (D, d), the last token of the prompt, before the answer begins.
        request: (D, d), mean over the tokens of the prompt's latest turn.
        mean: (W, D, d), mean over the window's tokens.
        last: (W, D, d), the window's last token.
        owner: (W,) int64, which candidate each window belongs to, ascending.
        lengths: (W,) int64, tokens in each window; an empty candidate has one window of 0
            tokens, and the instruction's states.
    """

    instruction: Tensor
    request: Tensor
    mean: Tensor
    last: Tensor
    owner: Tensor
    lengths: Tensor
