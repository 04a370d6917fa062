"""Hidden states that a model records while it generates, so that ranking need not read again.

Where the generator is the reference LLM itself, the states that a scorer needs have been computed
once already. Scorers say which depths they read (`want`), `LocalChatModel` records them, and the
scoring engine asks for them before it encodes (`recall`). Prompt and answer are found by their
token ids, so what is recalled is what an encoding would give.
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

_MOST = 512
"""Answers that are kept."""

Model = tuple[str, str, str]
"""Path of the weights, device and precision."""


@dataclass(frozen=True, eq=False)
class RecordedAnswer:
    """States of an answer and its prompt, (D, d) each; see `Features`."""

    instruction: Tensor
    request: Tensor
    mean: Tensor
    last: Tensor


_Key = tuple[Model, tuple[int, ...], tuple[int, ...], tuple[int, ...]]
_lock = threading.Lock()
_wanted: dict[Model, set[tuple[int, ...]]] = {}
_answers: OrderedDict[_Key, RecordedAnswer] = OrderedDict()


def want(model: Model, depths: Sequence[int]) -> None:
    """Have generators of this model record these depths from now on."""
    with _lock:
        _wanted.setdefault(model, set()).add(tuple(depths))


def recall(
    model: Model, depths: Sequence[int], prompt: Sequence[int], answer: Sequence[int]
) -> RecordedAnswer | None:
    """What was recorded of an answer; None if nothing was."""
    with _lock:
        return _answers.get((model, tuple(depths), tuple(prompt), tuple(answer)))


class Recorder:
    """Pools the states of one batched call of a generator; made for each call.

    Args:
        model: Which model it is.
        layers: Its decoder blocks.
        prompt: What all rows begin with.
    """

    def __init__(self, model: Model, layers: nn.ModuleList, prompt: PromptIds) -> None:
        with _lock:
            self._designs = sorted(_wanted.get(model, ()))
        self._model = model
        self._layers = layers
        self._prompt = prompt
        self._depths = sorted({k for design in self._designs for k in design})
        self._next: list[int | None] = []
        self._fed: list[list[int]] = []
        self._start: dict[int, tuple[Tensor, Tensor]] = {}
        self._sums: dict[int, Tensor] = {}
        self._lasts: dict[int, Tensor] = {}

    @property
    def records(self) -> bool:
        """Whether a scorer wants anything of this model."""
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

    def next_tokens(self, rows: Sequence[list[int]], done: Sequence[bool]) -> None:
        """Say which tokens are fed next: the last of each row that is not done."""
        self._next = [None if d else row[-1] for row, d in zip(rows, done, strict=True)]

    def keep(self) -> None:
        """Keep the answers for `recall`."""
        for i, fed in enumerate(self._fed):
            for design in self._designs if fed else ():
                states = [
                    (*self._start[k], self._sums[k][i] / len(fed), self._lasts[k][i])
                    for k in design
                ]
                self._remember(design, tuple(fed), states)

    def _remember(
        self, design: tuple[int, ...], answer: tuple[int, ...], states: Sequence[tuple[Tensor, ...]]
    ) -> None:
        import torch

        stacked = (torch.stack(one).float().cpu() for one in zip(*states, strict=True))
        key = (self._model, design, tuple(self._prompt.ids), answer)
        with _lock:
            _answers[key] = RecordedAnswer(*stacked)
            _answers.move_to_end(key)
            while len(_answers) > _MOST:
                _answers.popitem(last=False)

    def _hook(self, depth: int) -> Any:
        import torch

        def take(_module: nn.Module, _args: Any, output: Any) -> None:
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
