"""The host: one torch thread per process, and one copy of each model's weights.

Scoring and local generation run on the same thread and share the weights of a model that both
use. Work comes in two kinds. A *step* is short: one forward pass for all requests at hand. *Long*
work, such as sampling an answer, is a run of steps of its own and calls `give_way` between them,
so that a score waits for one token, not for an answer, and an answer for one pass, not for all.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from srr_guard.errors import ReferenceLoadError
from srr_guard.reference.cache.states import ModelKey, StateCache
from srr_guard.reference.source import REFERENCE_VARIABLE, ReferenceSource
from srr_guard.reference.spec import ModelSpec
from srr_guard.threads import reset_after_fork, settle

if TYPE_CHECKING:
    from srr_guard.reference.model import ReferenceLLM

T = TypeVar("T")
_Task = tuple["Future[Any]", Callable[[], Any]]


@dataclass(eq=False)
class HostedModel:
    """A causal LM on this machine, with its LM head.

    Attributes:
        key: Path of its weights, device and precision.
        source: Where it came from.
        module: The model of transformers, in evaluation mode.
        tokenizer: Its tokenizer.
    """

    key: ModelKey
    source: ReferenceSource
    module: Any
    tokenizer: Any


class Host:
    """The torch thread and the loaded models of a process. Use `host`, the only one.

    Attributes:
        states: What generators recorded for scorers.
        closing: The process ends: long work must end too.
    """

    def __init__(self) -> None:
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """Start anew, with no thread and no model."""
        self.states = StateCache()
        self.closing = False
        self._changed = threading.Condition()
        self._steps: deque[_Task] = deque()
        self._long: deque[_Task] = deque()
        self._thread: threading.Thread | None = None
        self._sharing = threading.RLock()
        self._shared: dict[Hashable, Any] = {}
        self._found: dict[tuple[ModelSpec, str | None], tuple[ReferenceSource, ModelKey]] = {}
        self._models: dict[ModelKey, HostedModel] = {}
        self._encoders: dict[ModelKey, ReferenceLLM] = {}

    # ---- work ----

    def submit(self, step: Callable[[], T]) -> Future[T]:
        """Run a step on the torch thread."""
        return self._add(self._steps, step)

    def submit_long(self, work: Callable[[], T]) -> Future[T]:
        """Run long work on the torch thread; it must call `give_way` between its steps."""
        return self._add(self._long, work)

    def give_way(self) -> None:
        """Run the steps that wait, once each. Called by long work, on the torch thread."""
        for _ in range(len(self._steps)):
            future, call = self._steps.popleft()
            settle(future, call)

    def close(self) -> None:
        """End the thread after its current step; at exit, a thread inside torch would crash."""
        self.closing = True
        with self._changed:
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """The process's one object under this key; made on first use, gone after a fork."""
        with self._sharing:
            if key not in self._shared:
                self._shared[key] = make()
            return cast("T", self._shared[key])

    # ---- models; on the torch thread only ----

    def model(self, spec: ModelSpec) -> HostedModel:
        """Load a whole causal LM, or return the one at hand.

        Raises:
            ReferenceNotFoundError: It is nowhere to be found.
            ReferenceLoadError: It cannot be loaded, or the device cannot be used.
        """
        from srr_guard.reference import weights

        source, key = self._find(spec)
        if key not in self._models:
            folder = weights.model_folder(source)
            device, dtype = weights.placement(spec)
            self._models[key] = HostedModel(
                key=key,
                source=source,
                module=weights.load_causal_lm(folder, device=device, dtype=dtype),
                tokenizer=weights.load_tokenizer(folder),
            )
            self._encoders.pop(key, None)  # the next one shares these weights
        return self._models[key]

    def encoder(self, spec: ModelSpec, *, depth: int) -> ReferenceLLM:
        """An encoder of at least this depth, on the weights at hand or on a cut model of its own.

        Raises:
            ReferenceNotFoundError: The model is nowhere to be found.
            ReferenceLoadError: It cannot be loaded, or the device cannot be used.
            InvalidInputError: It has fewer blocks than `depth`.
        """
        from srr_guard.reference.model import ReferenceLLM

        source, key = self._find(spec)
        encoder = self._encoders.get(key)
        if encoder is None or encoder.depth < depth:
            hosted = self._models.get(key)
            if hosted is None:
                encoder = ReferenceLLM.load(
                    source, depth=depth, device=spec.device, dtype=spec.dtype
                )
            else:
                encoder = ReferenceLLM.of(
                    hosted.module, hosted.tokenizer, source=source, depth=depth
                )
            self._encoders[key] = encoder
        return encoder

    def key(self, spec: ModelSpec) -> ModelKey:
        """Path of a model's weights, device and precision."""
        return self._find(spec)[1]

    def _find(self, spec: ModelSpec) -> tuple[ReferenceSource, ModelKey]:
        from srr_guard.reference.weights import placement

        named = spec, os.environ.get(REFERENCE_VARIABLE)
        if named in self._found:
            return self._found[named]
        source = spec.resolve()
        try:
            device, dtype = placement(spec)
        except RuntimeError as error:
            raise ReferenceLoadError(f"device={spec.device!r} cannot be used: {error}") from error
        key = str(source.path), str(device), str(dtype).removeprefix("torch.")
        self._found[named] = source, key
        return source, key

    # ---- the thread ----

    def _add(self, line: deque[_Task], call: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._changed:
            line.append((future, partial(copy_context().run, call)))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="srr-guard", daemon=True)
                self._thread.start()
            self._changed.notify()
        return future

    def _work(self) -> None:
        after_a_step = False
        while True:
            with self._changed:
                while not (self._steps or self._long or self.closing):
                    self._changed.wait()
                if self.closing:
                    return
                take_long = bool(self._long) and (after_a_step or not self._steps)
                future, call = (self._long if take_long else self._steps).popleft()
            after_a_step = not take_long
            settle(future, call)
            del future, call


host = Host()
"""The process's host."""

atexit.register(host.close)
