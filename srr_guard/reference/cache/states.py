"""States that a model records while it generates, so that scoring need not encode again.

Where the generator is the reference LLM itself, the states a scorer needs were computed once
already. Scorers subscribe to depths, generators record them, the scoring engine looks them up
before it encodes. Prompt and answer are found by their token ids, so a recorded state is what
an encoding would give.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from srr_guard.reference.template import PromptIds

if TYPE_CHECKING:
    from torch import Tensor

ModelKey = tuple[str, str, str]
"""Path of the weights, device and precision."""

_Key = tuple[ModelKey, tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class RecordedAnswer:
    """States of an answer and its prompt, (D, d) each; see `Features`."""

    instruction: Tensor
    request: Tensor
    mean: Tensor
    last: Tensor


class StateCache:
    """The states of the most recent answers; safe for several threads.

    Args:
        most: Answers that are kept.
    """

    def __init__(self, most: int = 512) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._subscribed: dict[ModelKey, set[tuple[int, ...]]] = {}
        self._answers: OrderedDict[_Key, RecordedAnswer] = OrderedDict()

    def subscribe(self, model: ModelKey, depths: Sequence[int]) -> None:
        """Have generators of this model record these depths from now on."""
        with self._lock:
            self._subscribed.setdefault(model, set()).add(tuple(depths))

    def subscriptions(self, model: ModelKey) -> list[tuple[int, ...]]:
        """The depths that scorers subscribed to."""
        with self._lock:
            return sorted(self._subscribed.get(model, ()))

    def lookup(
        self, model: ModelKey, depths: Sequence[int], prompt: Sequence[int], answer: Sequence[int]
    ) -> RecordedAnswer | None:
        """Find the recorded states of an answer, by token ids."""
        with self._lock:
            return self._answers.get((model, tuple(depths), tuple(prompt), tuple(answer)))

    def keep(
        self,
        model: ModelKey,
        depths: Sequence[int],
        prompt: Sequence[int],
        answer: Sequence[int],
        states: RecordedAnswer,
    ) -> None:
        """Keep the states of one answer; drop the oldest ones."""
        key = (model, tuple(depths), tuple(prompt), tuple(answer))
        with self._lock:
            self._answers[key] = states
            self._answers.move_to_end(key)
            while len(self._answers) > self._most:
                self._answers.popitem(last=False)

    def clear(self) -> None:
        """Forget all answers; subscriptions stay."""
        with self._lock:
            self._answers.clear()

    def __iter__(self) -> Iterator[tuple[_Key, RecordedAnswer]]:
        with self._lock:
            return iter(list(self._answers.items()))

    def __len__(self) -> int:
        return len(self._answers)


class StateRecorder:
    """Pools the states of one batched call of a generator; made for each call.

    Args:
        cache: Takes the states.
        model: Which model it is.
        prompt: What all rows begin with.
    """

    def __init__(self, cache: StateCache, model: ModelKey, prompt: PromptIds) -> None:
        self._cache = cache
        self._designs = cache.subscriptions(model)
        self._model = model
        self._prompt = prompt
        self.depths = sorted({k for design in self._designs for k in design})
        self._rows: list[Hashable] = []
        self._fed: dict[Hashable, list[int]] = {}
        self._request: dict[int, Tensor] = {}
        self._instruction: dict[int, Tensor] = {}
        self._sums: dict[tuple[int, Hashable], Tensor] = {}
        self._lasts: dict[tuple[int, Hashable], Tensor] = {}

    @property
    def records(self) -> bool:
        """True if a scorer subscribed to this model."""
        return bool(self.depths)

    def read_prompt(self, depth: int, start: int, states: Tensor) -> None:
        """Pool the states (tokens, d) of the prompt's tokens from position `start` on."""
        request = self._prompt.request
        begin, end = max(request.start - start, 0), min(request.stop - start, len(states))
        if begin < end:
            total = states[begin:end].float().sum(0)
            self._request[depth] = self._request.get(depth, 0) + total
        if start + len(states) == len(self._prompt.ids):
            self._instruction[depth] = states[-1].float().clone()

    def feed(self, rows: Sequence[Hashable], tokens: Sequence[int]) -> None:
        """Say which token of their answers the first rows of the next step are."""
        self._rows = list(rows)
        for row, token in zip(rows, tokens, strict=True):
            self._fed.setdefault(row, []).append(token)

    def copy(self, row: Hashable, to: Hashable) -> None:
        """Give a row the tokens and states of another."""
        self._fed[to] = list(self._fed.get(row, ()))
        for pooled in (self._sums, self._lasts):
            pooled.update({(k, to): state for (k, one), state in pooled.items() if one is row})

    def read(self, depth: int, states: Tensor) -> None:
        """Pool the states (rows, d) of a step; the first step reads the prompt's last token."""
        if depth not in self._instruction:
            self.read_prompt(depth, len(self._prompt.ids) - 1, states[:1])
            return
        for row, state in zip(self._rows, states.float(), strict=False):
            self._sums[depth, row] = self._sums.get((depth, row), 0) + state
            self._lasts[depth, row] = state.clone()

    def keep(self, row: Hashable) -> None:
        """Hand the states of one answer to the cache, under the tokens that were read."""
        ids = self._fed.get(row, [])
        for design in self._designs if ids else ():
            answer = self.running(row, design)
            self._cache.keep(self._model, design, self._prompt.ids, ids, answer)

    def running(self, row: Hashable, depths: Sequence[int]) -> RecordedAnswer:
        """States of an answer so far: of the tokens that were read, one at least."""
        import torch

        count = len(self._fed[row])
        states = [
            (
                self._instruction[k],
                self._request[k] / len(self._prompt.request),
                self._sums[k, row] / count,
                self._lasts[k, row],
            )
            for k in depths
        ]
        return RecordedAnswer(
            *(torch.stack(one).float().cpu() for one in zip(*states, strict=True))
        )
