"""What the reference LLM says of one conversation and its candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


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
