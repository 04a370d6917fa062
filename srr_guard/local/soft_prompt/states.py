"""Last states of prompts that begin alike; their common beginning is read once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from srr_guard.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor


class SharedPrompts:
    """Prompts with one system prompt, which may be replaced by vectors.

    Args:
        model: The causal LM.
        prompts: Token ids of each prompt.
        at: Where the system prompt's own text begins.
        size: How many tokens it has.

    Raises:
        ConfigurationError: It is not part of what the prompts have in common.
    """

    def __init__(
        self, model: Any, prompts: Sequence[Sequence[int]], *, at: int = 0, size: int = 0
    ) -> None:
        self._model = model
        columns = zip(*(ids[:-1] for ids in prompts), strict=False)  # the last token is read apart
        self._common = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
        if at + size > self._common:
            raise ConfigurationError(
                "the chat template does not put the system prompt in front of the request, so a "
                "soft prompt cannot be trained for this model"
            )
        self._start = list(prompts[0][: self._common])
        self._rests = [list(ids[self._common :]) for ids in prompts]
        self._at, self._size = at, size

    def __len__(self) -> int:
        return len(self._rests)

    def states(self, indices: Sequence[int], vectors: Tensor | None = None) -> Tensor:
        """States (n, d) of the last tokens of some prompts, after the model's last norm, float32.

        Args:
            indices: Which prompts.
            vectors: (size, d) in place of the embeddings of the system prompt's text; gradients
                reach them.
        """
        import torch
        from transformers import DynamicCache

        model = self._model
        embed, device = model.get_input_embeddings(), model.device
        cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        if self._common:
            start = embed(torch.tensor(self._start, device=device))
            if vectors is not None:
                end = self._at + self._size
                start = torch.cat([start[: self._at], vectors.to(start), start[end:]])
            model.base_model(inputs_embeds=start[None], past_key_values=cache, use_cache=True)
            cache.batch_repeat_interleave(len(indices))
        rests = [self._rests[i] for i in indices]
        longest = max(map(len, rests))
        ids = torch.tensor([[*rest, *[rest[-1]] * (longest - len(rest))] for rest in rests])
        # padding stands on the right, where causal attention never looks
        out = model.base_model(input_ids=ids.to(device), past_key_values=cache, use_cache=True)
        ends = torch.tensor([len(rest) - 1 for rest in rests], device=device)
        rows = torch.arange(len(rests), device=device)
        states: Tensor = out.last_hidden_state[rows, ends]
        return states.float()
