"""States that a model records while it generates, so that scoring need not encode again.

Where the generator is the reference LLM itself, the states a scorer needs were computed once
already. Scorers subscribe to depths, generators record them, the scoring engine looks them up
before it encodes. Prompt and answer are found by their token ids, so a recorded state is what
an encoding would give.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from srr_guard.reference.template import PromptIds

if TYPE_CHECKING:
    from torch import Tensor, nn

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
        layers: Its decoder blocks.
        prompt: What all rows begin with.
    """

    def __init__(
        self, cache: StateCache, model: ModelKey, layers: nn.ModuleList, prompt: PromptIds
    ) -> None:
        self._cache = cache
        self._designs = cache.subscriptions(model)
        self._model = model
        self._layers = layers
        self._prompt = prompt
        self._depths = sorted({k for design in self._designs for k in design})
        self._paused = False
        self._next: list[int | None] = []
        self._fed: list[list[int]] = []
        self._start: dict[int, tuple[Tensor, Tensor]] = {}
        self._sums: dict[int, Tensor] = {}
        self._lasts: dict[int, Tensor] = {}

    @property
    def records(self) -> bool:
        """True if a scorer subscribed to this model."""
        return bool(self._depths)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Record what the model computes within the block."""
        handles = [self._layers[k - 1].register_forward_hook(self._hook(k)) for k in self._depths]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Record nothing within the block: another pass runs through the same blocks."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def next_tokens(self, rows: Sequence[list[int]], done: Sequence[bool]) -> None:
        """Say which tokens are fed next: the last of each row that is not done."""
        self._next = [None if d else row[-1] for row, d in zip(rows, done, strict=True)]

    def keep(self) -> None:
        """Hand the states of all answers to the cache."""
        import torch

        for i, fed in enumerate(self._fed):
            for design in self._designs if fed else ():
                states = [
                    (*self._start[k], self._sums[k][i] / len(fed), self._lasts[k][i])
                    for k in design
                ]
                stacked = (torch.stack(one).float().cpu() for one in zip(*states, strict=True))
                answer = RecordedAnswer(*stacked)
                self._cache.keep(self._model, design, self._prompt.ids, fed, answer)

    def _hook(self, depth: int) -> Any:
        import torch

        def take(_module: nn.Module, _args: Any, output: Any) -> None:
            if self._paused:
                return
            states: Tensor = output[0] if isinstance(output, tuple) else output
            if depth not in self._start:  # the prompt
                request = states[0, list(self._prompt.request)].float().mean(0)
                self._start[depth] = states[0, -1].float(), request
                zeros = states.new_zeros(states.shape[0], states.shape[2], dtype=torch.float32)
                self._sums[depth], self._lasts[depth] = zeros, zeros.clone()
                return
            if depth == self._depths[0]:
                self._feed()
            now = states[:, -1].float()
            alive = torch.tensor([t is not None for t in self._next], device=now.device)[:, None]
            self._sums[depth] += now * alive
            self._lasts[depth] = torch.where(alive, now, self._lasts[depth])

        return take

    def _feed(self) -> None:
        self._fed = self._fed or [[] for _ in self._next]
        for fed, token in zip(self._fed, self._next, strict=True):
            if token is not None:
                fed.append(token)
