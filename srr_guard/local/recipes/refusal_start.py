"""RefusalStart: a row that begins as the model's own refusals begin (D-STT, arXiv 2505.07167)."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from srr_guard.errors import ConfigurationError
from srr_guard.json_lines import strict_json
from srr_guard.local.decoding.rows import RowProcessor
from srr_guard.local.recipes.tables import Fits
from srr_guard.recipes import RefusalStart

if TYPE_CHECKING:
    from torch import Tensor

DEPTH = 4
"""Tokens of a refusal's beginning that are counted."""


@dataclass(frozen=True)
class TriggerTable:
    """How often a model's refusals begin with which tokens.

    Attributes:
        fits: The model and template.
        sampled: Answers to harmful requests that were sampled.
        refusals: How many of them were refusals; the base rate is `refusals / sampled`.
        prefixes: The first tokens of the refusals, at most `DEPTH`, and how often they came.
    """

    fits: Fits
    sampled: int
    refusals: int
    prefixes: tuple[tuple[tuple[int, ...], int], ...]

    @classmethod
    def count(
        cls, refusals: Iterable[Sequence[int]], *, fits: Fits, sampled: int, drop: frozenset[int]
    ) -> TriggerTable:
        """Count the beginnings of refusals, as token ids.

        Args:
            refusals: The refusals' token ids.
            fits: The model and template.
            sampled: Answers among which they were found.
            drop: Tokens that end an answer; a beginning stops before them.

        Raises:
            ConfigurationError: There is no refusal.
        """
        found: Counter[tuple[int, ...]] = Counter()
        for ids in refusals:
            kept = next((k for k, token in enumerate(ids) if token in drop), len(ids))
            found[tuple(ids[: min(kept, DEPTH)])] += 1
        found.pop((), None)
        if not found:
            raise ConfigurationError(
                f"none of {sampled} answers to harmful requests is a refusal: this model has no "
                "refusals to begin with; give more or plainer requests"
            )
        ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
        return cls(fits, sampled, sum(found.values()), tuple(ordered))

    @classmethod
    def read(cls, path: Path) -> TriggerTable:
        """Read a table.

        Raises:
            ConfigurationError: There is none, or it is damaged.
        """
        try:
            held = strict_json(path.read_bytes())
            prefixes = tuple((tuple(map(int, ids)), int(n)) for ids, n in held["prefixes"])
            if not prefixes or not all(ids and n > 0 for ids, n in prefixes):
                raise ValueError("it counts no beginnings")
            fits = Fits(held["reference_digest"], held["template_digest"])
            return cls(fits, int(held["sampled"]), int(held["refusals"]), prefixes)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigurationError(
                f"{str(path)!r} is no trigger table ({error!r}): write one with "
                "`srr-guard triggers`"
            ) from error

    def write(self, path: Path) -> None:
        """Write the table as JSON."""
        held = {
            "reference_digest": self.fits.reference,
            "template_digest": self.fits.template,
            "sampled": self.sampled,
            "refusals": self.refusals,
            "prefixes": [[list(ids), n] for ids, n in self.prefixes],
        }
        path.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")

    def shares(self, depth: int) -> dict[tuple[int, ...], float]:
        """Probabilities of the refusals' first `depth` tokens, the likeliest first."""
        found: Counter[tuple[int, ...]] = Counter()
        for ids, n in self.prefixes:
            found[ids[:depth]] += n
        whole = sum(found.values())
        return {ids: n / whole for ids, n in found.most_common()}

    def draw(self, depth: int, numbers: random.Random) -> tuple[int, ...]:
        """Draw a beginning of `depth` tokens; shorter where the refusal was."""
        shares = self.shares(depth)
        return numbers.choices(list(shares), list(shares.values()))[0]


class StartsAsRefusal(RowProcessor):
    """Forces a row's first tokens, or mixes the refusals' distribution into the first one's.

    The beginning is drawn beside the row's own random numbers and past temperature and
    `top_p`: neither distorts it, and with `strength=0` the row is a plain one of the same seed.

    Args:
        recipe: Its settings.
        table: How the model's refusals begin.
        seed: The row's seed.
        greedy: The row takes the likeliest token each time, so the likeliest beginning too.
    """

    def __init__(
        self, recipe: RefusalStart, table: TriggerTable, seed: int | str, *, greedy: bool
    ) -> None:
        numbers = random.Random(f"{seed}, refusal start")
        whole = recipe.strength == 1.0
        self._strength = recipe.strength
        self._mixed = table.shares(1) if greedy and not whole else None
        self._forced: tuple[int, ...] = ()
        if greedy and whole:
            self._forced = next(iter(table.shares(recipe.depth)))
        elif not greedy and numbers.random() < recipe.strength:
            self._forced = table.draw(recipe.depth if whole else 1, numbers)

    def token(self, step: int, logits: Tensor) -> int | None:
        """The forced token; None once the row goes on by itself."""
        if step < len(self._forced):
            return self._forced[step]
        if step or self._mixed is None:
            return None
        mixed = logits.softmax(-1) * (1 - self._strength)
        for (token,), share in self._mixed.items():
            mixed[token] += share * self._strength
        return int(mixed.argmax())
