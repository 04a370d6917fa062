"""The last way to decode: `generate` of transformers, one call for the rows of one prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from srr_guard.local.decoding.rows import Row, grow

if TYPE_CHECKING:
    from torch import Tensor


def generate(
    model: Any,
    ids: Sequence[int],
    rows: Sequence[Row],
    *,
    after_step: Callable[[], None],
    on_done: Callable[[Row], None],
) -> None:
    """Grow rows of one prompt to their ends; each has its own random numbers here too.

    Args:
        model: The causal LM.
        ids: The prompt.
        rows: The rows, each of one track that is not steered.
        after_step: Called after each token.
        on_done: Receives each row once it is done.
    """
    import torch

    def choose(_ids: Tensor, scores: Tensor) -> Tensor:
        asking = [i for i, row in enumerate(rows) if not row.done]
        grow([rows[i] for i in asking], scores[asking].float())
        chosen = torch.full_like(scores, -torch.inf)
        last = torch.tensor([row.ids[-1] for row in rows], device=scores.device)
        return chosen.scatter(1, last[:, None], 0.0)

    told: set[Row] = set()

    def finished(input_ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        for row in rows:
            if row.done and row not in told:
                told.add(row)
                on_done(row)
        after_step()
        return input_ids.new_tensor([row.done or row.given_up for row in rows]).bool()

    prompt = torch.tensor([list(ids)] * len(rows), device=model.device)
    model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=max(row.limit for row in rows),
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        eos_token_id=None,
        pad_token_id=0,
        logits_processor=[choose],
        stopping_criteria=[finished],
    )
