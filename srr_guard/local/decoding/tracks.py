"""Tracks: the sequences that a batch feeds to the model, and what runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from srr_guard.reference.cache.states import StateRecorder


@dataclass(frozen=True, eq=False)
class Prompt:
    """What some tracks of a batch begin with.

    Attributes:
        ids: Its token ids, at least one.
        vectors: (tokens, d) in place of the embeddings of ids; None: there are none.
        at: Position of the first token that `vectors` replace.
        recorder: Pools the states of the prompt and of its first tracks; None: nothing is
            recorded.
    """

    ids: Sequence[int]
    vectors: Tensor | None = None
    at: int = 0
    recorder: StateRecorder | None = None


@dataclass(frozen=True, eq=False)
class Steering:
    """Vectors added to the residual stream of some tracks, from the prompt's last token on.

    Attributes:
        vectors: Block index, from 0, to the vector (d,) that is added to its output.
    """

    vectors: dict[int, Tensor]


@dataclass(frozen=True, eq=False)
class Track:
    """One sequence of a batch.

    Attributes:
        prompt: Index of its prompt.
        strength: Factor of the steering vectors.
        steering: The vectors; None: the track is not steered.
    """

    prompt: int = 0
    strength: float = 0.0
    steering: Steering | None = None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The tracks of one call.

    Attributes:
        prompts: Their prompts.
        tracks: In the order of their prompts.
        room: Most tokens that a track gets after its prompt.
        pause: Called between the parts of a long prompt; may raise to end the call.
    """

    prompts: Sequence[Prompt]
    tracks: Sequence[Track]
    room: int
    pause: Callable[[], None] = lambda: None

    @property
    def reach(self) -> int:
        """Most tokens of a track, its prompt included."""
        return max(len(prompt.ids) for prompt in self.prompts) + self.room


class Run(Protocol):
    """A batch under way: every prompt is read up to its last token."""

    def step(self, tokens: Sequence[int], wanted: Sequence[int]) -> Tensor:
        """Feed one token to each track; on the first call the last of its prompt.

        Args:
            tokens: One for each track.
            wanted: Tracks whose logits are asked for.

        Returns:
            (wanted, vocabulary), float32.
        """
        ...

    def keep(self, tracks: Sequence[int]) -> None:
        """Go on with these tracks only: ascending, or of one prompt, and each as often as given."""
        ...


class Decoder(Protocol):
    """A way to run batches on one model.

    Attributes:
        name: What the log calls it.
        reach: Most tokens that a track may have, its prompt included; None: as many as the model
            takes.
    """

    name: str
    reach: int | None

    def begin(self, batch: Batch) -> Run:
        """Read the prompts."""
        ...


def groups(tracks: Sequence[Track]) -> list[tuple[int, int, int]]:
    """Runs of tracks with one prompt: its index, the first track, and the one after the last."""
    found: list[tuple[int, int, int]] = []
    for i, track in enumerate(tracks):
        if found and found[-1][0] == track.prompt:
            found[-1] = (track.prompt, found[-1][1], i + 1)
        else:
            found.append((track.prompt, i, i + 1))
    return found
