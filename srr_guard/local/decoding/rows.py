"""Rows: the answers of a batch while they grow, and the loop that grows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from srr_guard.local.decoding.sampling import Draw, draw
from srr_guard.local.decoding.tracks import Run, Track

if TYPE_CHECKING:
    from torch import Tensor

    from srr_guard.reference.cache.states import StateRecorder


class RowProcessor:
    """How a row is made from its tracks; this one takes the logits of its one track as they are."""

    def mix(self, logits: Tensor) -> Tensor:
        """Logits (vocabulary,) of the row, from those of its tracks (tracks, vocabulary)."""
        return logits[0]

    def token(self, step: int, logits: Tensor) -> int | None:
        """The token to take at this step, from 0; None leaves it to the draw."""
        return None


class Row:
    """One answer while it grows.

    Args:
        tracks: What is fed for it.
        draw: How its tokens are drawn.
        limit: Most tokens.
        ends: Tokens that end it.
        stopped: Asked after each token; True ends it.
        cancelled: Asked after each token; True gives it up.
        processor: How it is made from its tracks; None: of one track, as it is.
        recorder: Pools its states; None: nothing is recorded.
        on_ids: Receives the tokens so far after each.
        low: Asked once all of its tokens were read; True cuts it off. Needs a recorder.

    Attributes:
        limit: Most tokens.
        ids: Its tokens so far.
        done: True if no token will follow.
        cut: True if it was cut off.
        spent: Tokens that were generated for it where it was searched for; 0: its own.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        draw: Draw,
        *,
        limit: int,
        ends: frozenset[int],
        stopped: Callable[[list[int]], bool],
        cancelled: Callable[[], bool],
        processor: RowProcessor | None = None,
        recorder: StateRecorder | None = None,
        on_ids: Callable[[list[int]], None] | None = None,
        low: Callable[[Row], bool] | None = None,
    ) -> None:
        self.tracks = tracks
        self.draw = draw
        self.processor = processor
        self.recorder = recorder
        self.limit = limit
        self.ids: list[int] = []
        self.done = self.cut = False
        self.spent = 0
        self._low = low
        self._ends = ends
        self._stopped = stopped
        self._cancelled = cancelled
        self._on_ids = on_ids

    @property
    def ended(self) -> bool:
        """True if its last token is one that ends an answer."""
        return bool(self.ids) and self.ids[-1] in self._ends

    @property
    def to_be_read(self) -> bool:
        """True if its last token belongs to the states that are recorded."""
        return self.recorder is not None and not self.ended and not self.cut

    @property
    def given_up(self) -> bool:
        """True if nobody waits for it any more."""
        return self._cancelled()

    def judge(self) -> bool:
        """Cut it off if its tokens so far are reason to; True if so."""
        if self._low is not None and self.ids and self._low(self):
            self.cut = self.done = True
        return self.cut

    def take(self, token: int) -> None:
        """Add a token."""
        self.ids.append(token)
        self.done = self.ended or len(self.ids) == self.limit or self._stopped(self.ids)
        if self._on_ids is not None:
            self._on_ids(self.ids)


class Layout:
    """Which track of a run belongs to which row: by prompts, and recorded rows first.

    Attributes:
        rows: The rows that are left.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        owners = [(row, track) for row in rows for track in row.tracks]
        self._owners = sorted(owners, key=lambda o: (o[1].prompt, o[0].recorder is None))

    @property
    def tracks(self) -> list[Track]:
        """The tracks, in the order in which they are fed."""
        return [track for _, track in self._owners]

    def places(self, rows: Sequence[Row]) -> list[int]:
        """Places of the tracks of these rows, row by row."""
        at = {track: i for i, (_, track) in enumerate(self._owners)}
        return [at[track] for row in rows for track in row.tracks]

    def next_tokens(self) -> list[int]:
        """The token that each track is fed next; the recorders are told."""
        recorders = {row.recorder for row in self.rows if row.recorder is not None}
        for recorder in recorders:
            fed = [row for row, _ in self._owners if row.recorder is recorder]
            recorder.feed(fed, [row.ids[-1] for row in fed])
        return [row.ids[-1] for row, _ in self._owners]

    def drop(self, gone: Sequence[Row]) -> list[int]:
        """Go on without these rows; the places of the tracks that are left."""
        kept = [i for i, (row, _) in enumerate(self._owners) if row not in gone]
        self._owners = [self._owners[i] for i in kept]
        self.rows = [row for row in self.rows if row not in gone]
        return kept


def decode(
    run: Run,
    layout: Layout,
    first: Sequence[int],
    *,
    after_step: Callable[[], None],
    on_done: Callable[[Row], None],
) -> None:
    """Grow all rows to their ends.

    Args:
        run: The batch, with the tracks of the layout.
        layout: The rows.
        first: The last token of each track's prompt.
        after_step: Called after each step.
        on_done: Receives each row once it is done and all of it that is recorded was read.
    """
    tokens = list(first)
    closing: list[Row] = []  # done, but their last token is to be read
    while layout.rows:
        asking = [row for row in layout.rows if not row.done]
        logits = run.step(tokens, layout.places(asking))
        judged = [row.judge() for row in asking]
        if any(judged):
            owners = [row for row in asking for _ in row.tracks]
            logits = logits[[i for i, row in enumerate(owners) if not row.cut]]
        grow([row for row in asking if not row.cut], logits)
        finished = closing + [row for row in asking if row.done and not row.to_be_read]
        closing = [row for row in asking if row.done and row.to_be_read]
        for row in finished:
            on_done(row)
        after_step()
        gone = finished + [row for row in layout.rows if row.given_up and row not in finished]
        if gone and (kept := layout.drop(gone)):
            run.keep(kept)
        tokens = layout.next_tokens()


def grow(rows: Sequence[Row], logits: Tensor) -> None:
    """Give each row its next token, from the logits (tracks, vocabulary) of its tracks."""
    import torch

    if not rows:
        return
    if any(row.processor for row in rows):
        parts = torch.split(logits, [len(row.tracks) for row in rows])
        logits = torch.stack(
            [r.processor.mix(p) if r.processor else p[0] for r, p in zip(rows, parts, strict=True)]
        )
    tokens = draw(logits, [row.draw for row in rows])
    for i, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        own = row.processor.token(len(row.ids), logits[i]) if row.processor else None
        row.take(token if own is None else own)
