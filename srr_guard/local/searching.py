"""The search for one row's answer: branches of the row, scored by the states that they leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from srr_guard.errors import ConfigurationError
from srr_guard.local.decoding.rows import Row
from srr_guard.local.decoding.stepwise import StepSearch
from srr_guard.local.decoding.tracks import Batch, Decoder, Prompt, Run, Track
from srr_guard.recipes import Stepwise
from srr_guard.reference.cache.states import ModelKey, StateRecorder
from srr_guard.reference.host import host

if TYPE_CHECKING:
    from srr_guard.reference.template import PromptIds
    from srr_guard.scorer.running import EarlyCut


class AnswerSearch:
    """Searches for the answer of one row.

    Args:
        recipe: How.
        prompt: What the row answers.
        scores: Scores beginnings; None: nobody does.
        key: The model.
        decoders: Its decoders, the fastest first.
        seed: The row's seed.
        row_of: Makes a branch with a seed of its own.
        seed_of: Seed of the i-th of several rows.
        opening: See `StepSearch`.

    Raises:
        ConfigurationError: Nobody scores.
    """

    def __init__(
        self,
        recipe: Stepwise,
        *,
        prompt: PromptIds,
        scores: EarlyCut | None,
        key: ModelKey,
        decoders: Sequence[Decoder],
        seed: int | str,
        row_of: Callable[[int | str], Row],
        seed_of: Callable[[int | str, int], int | str],
        opening: Callable[[Sequence[int]], int | None],
    ) -> None:
        if scores is None:
            raise ConfigurationError(
                "Stepwise needs a scorer that reads the answers under way: put a SafetyRanker "
                "around the model, or give sample_candidates `cut=scorer.early_cut(0.0)`"
            )
        self._recipe = recipe
        self._prompt = prompt
        self._scores = scores
        self._key = key
        self._decoders = decoders
        self._seed = seed
        self._row_of = row_of
        self._seed_of = seed_of
        self._opening = opening

    def fill(self, row: Row) -> None:
        """Search, and give the row what was found, with its states; on the host's thread."""
        recipe = self._recipe
        found = StepSearch(
            beams=recipe.beams,
            continuations=recipe.continuations,
            step_tokens=recipe.step_tokens,
            begin=lambda tracks: self._begin(tracks, row.limit),
            last=self._prompt.ids[-1],
            branch=self._branch,
            reward=self._reward,
            opening=self._opening if recipe.from_key_sentence else None,
            after_step=host.give_way,
        ).run()
        found.recorder.copy(found.row, row)
        row.ids, row.done, row.recorder = found.row.ids, found.row.done, found.recorder
        row.spent = found.spent

    def _begin(self, tracks: int, room: int) -> tuple[Run, StateRecorder]:
        recorder = StateRecorder(host.states, self._key, self._prompt)
        batch = Batch(
            prompts=[Prompt(self._prompt.ids, recorder=recorder)],
            tracks=[Track() for _ in range(tracks)],
            room=room,
            pause=host.give_way,
        )
        fits = (d for d in self._decoders if d.reach is None or batch.reach <= d.reach)
        return next(fits, self._decoders[-1]).begin(batch), recorder

    def _branch(self, name: str, of: Row | None) -> Row:
        if of is None:  # the i-th is the i-th of several plain rows
            return self._row_of(self._seed_of(self._seed, int(name)))
        made = self._row_of(f"{self._seed}, {name}")
        made.ids = list(of.ids)
        return made

    def _reward(self, recorder: StateRecorder, row: Row) -> float:
        if len(row.ids) < 2:
            return -math.inf  # nothing of it was read
        return self._scores.reward(recorder.running(row, self._scores.depths))
