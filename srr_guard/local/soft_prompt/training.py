"""Trains a soft prompt: a system prompt of vectors that a model follows (DRO, arXiv 2401.18018)."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from srr_guard.conversation import Conversation
from srr_guard.errors import ConfigurationError
from srr_guard.local.recipes.reverse_prompt import with_system
from srr_guard.local.recipes.soft_prompt import SoftPromptVectors
from srr_guard.local.recipes.tables import Fits
from srr_guard.local.soft_prompt.checkpoint import Checkpoint
from srr_guard.local.soft_prompt.compliance import Anchor, ComplianceOptions, judged
from srr_guard.local.soft_prompt.space import PromptSpace
from srr_guard.local.soft_prompt.states import SharedPrompts
from srr_guard.local.worker import text_generator
from srr_guard.protocols import ProgressCallback, ResponseScorer
from srr_guard.recipes import Plain
from srr_guard.reference.host import host
from srr_guard.reference.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

TEXT = (
    "You are a helpful and careful assistant. Answer as usefully as you can. If a request would "
    "harm somebody, decline it politely and say why; never decline one that only sounds harmful."
)
"""The system prompt that a soft prompt begins as, where none is given."""

_OTHER_TEXTS = (
    "You are a helpful assistant. Always put people's safety first: do not give content that is "
    "dangerous, hateful, deceitful or illegal, and say so openly where you decline.",
    "Help with care, respect and honesty. Avoid harmful or unfair content.",
)
"""Further system prompts under which the requests' states are measured."""

_BATCH = 50
_SAVE_EVERY = 5
_MEASURED_AT_A_TIME = 8


@dataclass(frozen=True, kw_only=True)
class SoftPromptOptions:
    """Settings of a training.

    Attributes:
        text: The system prompt that the vectors begin as.
        epochs: Passes over the requests, in batches of 50.
        learning_rate: Of AdamW.
        held_out: Share of the pairs of requests that is measured, not trained on, in [0, 1).
        samples: Answers to each request under each prompt, for the shares that comply.
        max_new_tokens: Most tokens of each.
        seed: Equal seeds give equal vectors.

    Raises:
        ConfigurationError: A value is out of range.

    Example:
        >>> SoftPromptOptions(epochs=10).learning_rate
        0.001
    """

    text: str = TEXT
    epochs: int = 40
    learning_rate: float = 1e-3
    held_out: float = 0.2
    samples: int = 4
    max_new_tokens: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ConfigurationError("text='' is no system prompt to begin with: give some words")
        if not 0.0 <= self.held_out < 1.0:
            raise ConfigurationError(f"held_out={self.held_out!r} is outside [0, 1)")
        for name in ("epochs", "samples", "max_new_tokens", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name}={getattr(self, name)!r} must be a number above 0")


@dataclass(frozen=True)
class Shift:
    """What a soft prompt does to requests of one kind, beside the text that it began as.

    Attributes:
        compliance: Mean change of the logit of compliance, as the probe reads it.
        rest: Length of the change outside the main directions, as a share of the whole state's.
    """

    compliance: float
    rest: float


@dataclass(frozen=True, eq=False)
class TrainedSoftPrompt:
    """The vectors, and how the training went.

    Attributes:
        vectors: For `SoftPromptVectors.write`.
        losses: One for each step that this run made.
        resumed_at: Step at which it went on; 0: from the beginning.
        shifts: By `trained` or `held out`, and `harmful` or `harmless`.
        held_out: The requests that were not trained on.
    """

    vectors: SoftPromptVectors
    losses: tuple[float, ...]
    resumed_at: int
    shifts: dict[tuple[str, str], Shift]
    held_out: tuple[Anchor, ...]


def train_soft_prompt(
    spec: ModelSpec,
    pairs: Sequence[tuple[str, str]],
    scorer: ResponseScorer,
    *,
    checkpoint: Path,
    options: SoftPromptOptions | None = None,
    resume: bool = True,
    progress: ProgressCallback = lambda stage, done, total, **figures: None,
) -> TrainedSoftPrompt:
    """Train a soft prompt for a model, which stays as it is.

    First the model answers all requests under no prompt and under three, and the scorer says what
    complies; then two probes are fitted to the prompts' last states, and AdamW moves the vectors
    (see `PromptSpace.loss`). Both stages go on where an interrupted run stopped.

    Args:
        spec: The model.
        pairs: A harmful request and a harmless one that is worded alike, each.
        scorer: Tells refusals and harm; it must give `p_refusal`.
        checkpoint: A file for what is under way; removed at the end.
        options: Settings.
        resume: Go on with this file.
        progress: Receives the stages `answers` and `training`.

    Raises:
        ConfigurationError: There are fewer than 4 pairs, the scorer cannot tell refusals, or the
            chat template has no place for it.
        ReferenceModelError: The model cannot be found or loaded.
    """
    options = options or SoftPromptOptions()
    if len(pairs) < 4:
        raise ConfigurationError(
            f"a soft prompt needs at least 4 pairs of requests; there are {len(pairs)}"
        )
    fits = host.submit(lambda: _fits(spec)).result()
    depends_on = asdict(options)
    del depends_on["epochs"]  # a longer training goes on with a shorter one
    settings = json.dumps([depends_on, asdict(fits), list(pairs)], sort_keys=True)
    saved = Checkpoint.open(
        checkpoint, hashlib.sha256(settings.encode()).hexdigest(), resume=resume
    )
    mixed = random.Random(f"{options.seed}, pairs").sample(list(pairs), len(pairs))
    out = min(round(options.held_out * len(mixed)), len(mixed) - 2)
    held, kept = (_anchors(part) for part in (mixed[:out], mixed[out:]))
    _measure(saved, spec, kept, scorer, options, progress)
    resumed_at = saved.step
    training = host.submit_long(lambda: _Training(spec, kept, held, saved, options)).result()
    losses = host.submit_long(lambda: training.run(progress)).result()
    found = host.submit_long(training.shifts).result()
    saved.remove()
    vectors = SoftPromptVectors(fits, options.text, saved.tensors["vectors"].detach().clone())
    return TrainedSoftPrompt(vectors, tuple(losses), resumed_at, found, tuple(held))


def _measure(
    saved: Checkpoint,
    spec: ModelSpec,
    anchors: Sequence[Anchor],
    scorer: ResponseScorer,
    options: SoftPromptOptions,
    progress: ProgressCallback,
) -> None:
    """Find which share of the answers complies: (prompts * requests,), one prompt after another."""
    import torch

    known = saved.tensors.get("compliance", torch.zeros(0)).tolist()
    total = len(anchors) * len(_conditions(options))
    while len(known) < total:
        condition, start = divmod(len(known), len(anchors))
        some = anchors[start : start + _MEASURED_AT_A_TIME]
        found = judged(
            spec,
            some,
            scorer,
            ComplianceOptions(
                samples=options.samples,
                max_new_tokens=options.max_new_tokens,
                seed=options.seed + start,
            ),
            recipe=Plain(system_prompt=_conditions(options)[condition]),
        )
        known += [one.complies for one in found]
        saved.tensors["compliance"] = torch.tensor(known)
        saved.save()
        progress("answers", len(known), total)


class _Training:
    """The vectors on their way; on the host's thread only."""

    def __init__(
        self,
        spec: ModelSpec,
        anchors: Sequence[Anchor],
        held_out: Sequence[Anchor],
        saved: Checkpoint,
        options: SoftPromptOptions,
    ) -> None:
        import torch

        self._spec, self._saved, self._options = spec, saved, options
        self._anchors, self._held_out = anchors, held_out
        model, template = host.model(spec).module, text_generator(spec).template
        begun = torch.tensor(template.text_ids(options.text), device=model.device)
        with torch.no_grad():
            embedded = model.get_input_embeddings()(begun).float()
        self._prompts = self._shared(anchors, options.text)
        conditions = [self._shared(anchors, text) for text in _conditions(options)]
        measured = [_all_states(prompts) for prompts in conditions]
        self._before = measured[_conditions(options).index(options.text)]
        self._harmless = torch.tensor([float(anchor.harmless) for anchor in anchors])
        self.space = PromptSpace.fit(
            torch.cat(measured),
            saved.tensors["compliance"],
            self._harmless.repeat(len(conditions)),
            seed=options.seed,
        )
        start = saved.tensors.setdefault("vectors", embedded)
        self.vectors = torch.nn.Parameter(start.clone())
        self._optimiser = torch.optim.AdamW([self.vectors], lr=options.learning_rate)
        if saved.step:
            self._optimiser.state[self.vectors] = {
                "step": torch.tensor(float(saved.step)),
                **{name: saved.tensors[name].clone() for name in ("exp_avg", "exp_avg_sq")},
            }

    def run(self, progress: ProgressCallback) -> list[float]:
        """Make the steps that are left; their losses."""
        import torch

        losses: list[float] = []
        batches = self._batches()
        for step, batch in enumerate(batches[self._saved.step :], self._saved.step + 1):
            self._optimiser.zero_grad()
            loss = self.loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_([self.vectors], 1.0)
            self._optimiser.step()
            losses.append(float(loss.detach()))
            progress("training", step, len(batches), loss=losses[-1])
            if step % _SAVE_EVERY == 0 or step == len(batches):
                self._save(step)
            host.give_way()
            if host.closing:
                break
        self._saved.tensors["vectors"] = self.vectors.detach()
        return losses

    def loss(self, batch: Sequence[int]) -> Tensor:
        """Loss on some of the requests."""
        z = self.space(self._prompts.states(batch, self.vectors))
        return self.space.loss(z, self.space(self._before[batch]), self._harmless[batch])

    def shifts(self) -> dict[tuple[str, str], Shift]:
        """What the vectors do to the requests that they were trained on, and to others."""
        found: dict[tuple[str, str], Shift] = {}
        for name, anchors in (("trained", self._anchors), ("held out", self._held_out)):
            if not anchors:
                continue
            prompts = self._shared(anchors, self._options.text)
            before, after = (
                self.space(_all_states(prompts, vectors))
                for vectors in (None, self.vectors.detach())
            )
            for kind, harmless in (("harmful", False), ("harmless", True)):
                own = [i for i, anchor in enumerate(anchors) if anchor.harmless is harmless]
                found[name, kind] = _shift(self.space, before[own], after[own])
        return found

    def _batches(self) -> list[list[int]]:
        found = []
        for epoch in range(self._options.epochs):
            order = list(range(len(self._anchors)))
            random.Random(f"{self._options.seed}, epoch {epoch}").shuffle(order)
            found += [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
        return found

    def _save(self, step: int) -> None:
        moments = self._optimiser.state[self.vectors]
        self._saved.step = step
        self._saved.tensors |= {
            "vectors": self.vectors.detach().clone(),
            **{name: moments[name].clone() for name in ("exp_avg", "exp_avg_sq")},
        }
        self._saved.save()

    def _shared(self, anchors: Sequence[Anchor], text: str | None) -> SharedPrompts:
        generator = text_generator(self._spec)
        talks = [Conversation.of(anchor.text) for anchor in anchors]
        if text is not None:
            talks = [with_system(talk, text) for talk in talks]
        prompts = [generator.template.prompt(talk, limit=1024).ids for talk in talks]
        at = size = 0
        if text is not None:
            ids = generator.template.text_ids(text)
            empty = SoftPromptVectors(Fits("", ""), text, _rows(len(ids)))
            at, size = empty.place(prompts[0], ids, Path(self._saved.path)), len(ids)
        return SharedPrompts(host.model(self._spec).module, prompts, at=at, size=size)


def _rows(count: int) -> Tensor:
    import torch

    return torch.zeros(count, 1)


def _all_states(prompts: SharedPrompts, vectors: Tensor | None = None) -> Tensor:
    """States of all prompts, without gradients."""
    import torch

    with torch.no_grad():
        return torch.cat(
            [
                prompts.states(range(start, min(start + _BATCH, len(prompts))), vectors)
                for start in range(0, len(prompts), _BATCH)
            ]
        )


def _shift(space: PromptSpace, before: Tensor, after: Tensor) -> Shift:
    logits = space.complies(after) - space.complies(before)
    k = len(space.complies.weight)
    rest = (after - before)[:, k:].norm(dim=1) / before.norm(dim=1)
    return Shift(float(logits.mean()), float(rest.mean()))


def _conditions(options: SoftPromptOptions) -> list[str | None]:
    """The system prompts under which requests are measured; None: there is none."""
    return list(dict.fromkeys([None, options.text, *_OTHER_TEXTS]))


def _anchors(pairs: Sequence[tuple[str, str]]) -> list[Anchor]:
    return [
        Anchor(text, harmless=harmless)
        for harmful, benign in pairs
        for text, harmless in ((harmful, False), (benign, True))
    ]


def _fits(spec: ModelSpec) -> Fits:
    return Fits(host.model(spec).source.digest(), text_generator(spec).template.digest)
