"""Search over steps: the best beginnings are gone on with, each in several ways (after STAIR)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from srr_guard.local.decoding.rows import Row, grow
from srr_guard.local.decoding.tracks import Run

if TYPE_CHECKING:
    from srr_guard.reference.cache.states import StateRecorder

OPENING = 128
"""Most tokens of an answer in which its key sentence is looked for."""


@dataclass(frozen=True, kw_only=True)
class StepSearch:
    """A search for one answer, on tracks of one prompt.

    Attributes:
        beams: Beginnings that are kept after each step.
        continuations: Ways in which each is gone on with.
        step_tokens: Tokens of a step.
        begin: Starts a run of so many tracks; its recorder is the one below, emptied.
        last: The prompt's last token.
        recorder: Pools the states of the branches.
        branch: Makes a branch with random numbers of its own, told by the first argument: a new
            one, or a copy of the second.
        reward: What a branch is worth, from its states so far.
        opening: How many of an answer's first tokens all branches share, from these tokens;
            None: not known yet. Without it they share none.
        after_step: Called after each token.
    """

    beams: int
    continuations: int
    step_tokens: int
    begin: Callable[[int], tuple[Run, StateRecorder]]
    last: int
    branch: Callable[[str, Row | None], Row]
    reward: Callable[[StateRecorder, Row], float]
    opening: Callable[[Sequence[int]], int | None] | None = None
    after_step: Callable[[], None] = lambda: None

    def run(self) -> SearchResult:
        """Search until the best beginnings are whole answers."""
        spent, shared = 0, list[int]()
        if self.opening is not None:
            spent, shared = self._opened()
        branches = [self.branch(f"{i}", None) for i in range(self.beams * self.continuations)]
        growing = _Growing(*self.begin(len(branches)), branches, self.last, self.after_step)
        growing.force(shared)
        ended: list[Row] = []
        step = 0
        while True:
            spent += growing.step(self.step_tokens)
            pool = [*ended, *growing.branches]
            worth = {row: self.reward(growing.recorder, row) for row in pool}
            best = sorted(pool, key=worth.__getitem__, reverse=True)[: self.beams]
            ended = [row for row in best if row.done]
            alive = [row for row in growing.branches if row in best and not row.done]
            if not alive or any(row.given_up for row in alive):
                return SearchResult(best[0], growing.recorder, spent)
            step += 1
            more = range(1, self.continuations)
            growing.go_on(
                [
                    (row, [self.branch(f"{step}, {i}, {k}", row) for k in more])
                    for i, row in enumerate(alive)
                ]
            )

    def _opened(self) -> tuple[int, list[int]]:
        """Tokens that were spent on one plain opening, and those of it that all share."""
        assert self.opening is not None
        row = self.branch("0", None)
        growing = _Growing(*self.begin(1), [row], self.last, self.after_step)
        while not row.done and len(row.ids) < OPENING:
            growing.step(1)
            if (kept := self.opening(row.ids)) is not None:
                return len(row.ids), row.ids[:kept]
        return len(row.ids), []


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The answer that was found.

    Attributes:
        row: The answer.
        recorder: Has its states.
        spent: Tokens that were generated for it, of all branches.
    """

    row: Row
    recorder: StateRecorder
    spent: int


class _Growing:
    """The branches of a search while they grow.

    Attributes:
        recorder: Pools their states.
        branches: In the order of the run's tracks, done ones too until the step's end.
    """

    def __init__(
        self,
        run: Run,
        recorder: StateRecorder,
        branches: list[Row],
        last: int,
        after_step: Callable[[], None],
    ) -> None:
        self._run = run
        self.recorder = recorder
        self.branches = branches
        self._live = list(branches)
        self._last = last
        self._after_step = after_step

    def force(self, ids: Sequence[int]) -> None:
        """Give all branches these tokens."""
        for token in ids:
            self._run.step(self._tell(), [0])
            for row in self._live:
                row.ids.append(token)
            self._after_step()

    def step(self, tokens: int) -> int:
        """Grow all by so many tokens, as far as they go on; how many were drawn."""
        drawn = 0
        for _ in range(tokens):
            if not self._live:
                break
            grow(self._live, self._run.step(self._tell(), range(len(self._live))))
            drawn += len(self._live)
            kept = [i for i, row in enumerate(self._live) if not row.done and not row.given_up]
            if len(kept) < len(self._live):
                self._live = [self._live[i] for i in kept]
                if kept:
                    self._run.keep(kept)
            self._after_step()
        return drawn

    def go_on(self, families: Sequence[tuple[Row, Sequence[Row]]]) -> None:
        """Go on with some branches, each with copies of it."""
        places = {row: i for i, row in enumerate(self._live)}
        self._run.keep([places[row] for row, copies in families for _ in (row, *copies)])
        for row, copies in families:
            for copy in copies:
                self.recorder.copy(row, copy)
        self.branches = [one for row, copies in families for one in (row, *copies)]
        self._live = list(self.branches)

    def _tell(self) -> list[int]:
        """The tokens that are fed next; the recorder is told."""
        if not self._live[0].ids:
            return [self._last] * len(self._live)
        tokens = [row.ids[-1] for row in self._live]
        self.recorder.feed(self._live, tokens)
        return tokens
