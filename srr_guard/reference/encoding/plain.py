"""The plain way to encode: every window in a row of its own, after its own copy of the prompt.

It asks nothing of the model but to be causal, so it serves architectures whose attention cannot
be replaced, and it is what the packed way is checked against when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from srr_guard.reference.encoding.packed import Part

if TYPE_CHECKING:
    from torch import Tensor

Forward = Callable[["Tensor"], "Tensor"]
"""From token ids (B, T) to states (D, B, T, d)."""


def encode_plainly(
    parts: Sequence[Part], forward: Forward, *, batch_tokens: int
) -> tuple[Tensor, Tensor]:
    """Encode the windows of the parts, and their prompts where these are new.

    Padding needs no mask: no token attends to what comes after it.

    Args:
        parts: Prompts and windows.
        forward: Runs the model.
        batch_tokens: Most tokens of one call, padding included.

    Returns:
        `mean` and `last` of all windows, (windows, D, d) each, float32 on the CPU.
    """
    import torch

    means: list[Tensor] = []
    lasts: list[Tensor] = []
    for part in parts:
        prompt, prefix = part.prefix.prompt, part.prefix
        windows = [list(window.ids) for window in part.windows] or [[]]
        longest = len(prompt.ids) + max(map(len, windows))
        size = max(1, batch_tokens // longest)
        for batch in (windows[i : i + size] for i in range(0, len(windows), size)):
            rows = [[*prompt.ids, *w, *[0] * (longest - len(prompt.ids) - len(w))] for w in batch]
            states = forward(torch.tensor(rows)).float().cpu()
            if not prefix.encoded:
                prefix.instruction = states[:, 0, len(prompt.ids) - 1].clone()
                prefix.request = states[:, 0, list(prompt.request)].mean(1)
            for row, window in enumerate(batch if part.windows else ()):
                own = states[:, row, len(prompt.ids) : len(prompt.ids) + len(window)]
                means.append(own.mean(1))
                lasts.append(own[:, -1].clone())
    if not means:
        return torch.empty(0), torch.empty(0)
    return torch.stack(means), torch.stack(lasts)
