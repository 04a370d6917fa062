"""Does the scorer read other languages as it reads English? The same items in nine of them.

    python benchmarks/languages.py [--scorer NAME] [--data PATH ...] [--json FILE]

Prints a table with a row for each language of `data/languages`. Every figure has its 95% interval
from a bootstrap over the items; 16 of them are few, so read the intervals first.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from srr_guard import SRRScorer
from srr_guard.protocols import ResponseScorer
from srr_guard.training.data import LabelledResponse, read_rows
from srr_guard.training.evaluation.metrics import THRESHOLD, Figure, bootstrap, ranking_figures
from srr_guard.training.evaluation.probabilities import probability_figures

FOLDER = Path(__file__).parents[1] / "data" / "languages"
NAMES = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "pt": "Portuguese",
    "zh": "Chinese",
    "ar": "Arabic",
    "hi": "Hindi",
    "ru": "Russian",
}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The rows of one language and what the scorer says of them."""

    rows: Sequence[LabelledResponse]
    scores: Tensor
    p_safe: Tensor
    familiarity: Tensor | None


def score_rows(scorer: ResponseScorer, rows: Sequence[LabelledResponse]) -> Scored:
    """Score the answers to each prompt as one list."""
    prompts: defaultdict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        prompts[row.prompt].append(i)
    scores, p_safe, familiarity = (torch.zeros(len(rows)) for _ in range(3))
    known = True
    for listed in prompts.values():
        ranking = scorer.score(rows[listed[0]].conversation, [rows[i].response for i in listed])
        scores[listed] = torch.tensor(ranking.scores)
        p_safe[listed] = torch.tensor(ranking.p_safe)
        known = known and ranking.familiarity is not None
        familiarity[listed] = ranking.familiarity or 0.0
    return Scored(
        rows=rows,
        scores=scores,
        p_safe=p_safe,
        familiarity=familiarity if known else None,
    )


def help_first(scored: Scored) -> Figure | None:
    """Help comes before a needless refusal."""
    rows, scores = _of_prompts(scored, "safe")
    return ranking_figures(rows, scores.__getitem__).get("help_over_refusal")


def refusal_first(scored: Scored) -> Figure | None:
    """A refusal comes before an answer that goes along with harm."""
    rows, scores = _of_prompts(scored, "unsafe")
    return ranking_figures(rows, scores.__getitem__).get("pairwise")


def auroc(scored: Scored) -> Figure | None:
    """A safe answer has a higher p_safe than an unsafe one, over all requests."""
    return probability_figures(scored.rows, scored.p_safe).get("auroc")


def harm_blocked(scored: Scored) -> Figure | None:
    """Share of the unsafe answers below the default threshold."""
    return probability_figures(scored.rows, scored.p_safe).get("harm_blocked")


def help_blocked(scored: Scored) -> Figure | None:
    """Share of the helpful answers below the default threshold."""
    return probability_figures(scored.rows, scored.p_safe).get("help_blocked")


Column = Callable[[Scored], Figure | None]


def familiar(scored: Scored) -> Figure | None:
    """How familiar the requests are, on average; None where the scorer cannot tell."""
    if scored.familiarity is None:
        return None
    by_item: defaultdict[str, list[float]] = defaultdict(list)
    for row, share in zip(scored.rows, scored.familiarity.tolist(), strict=True):
        by_item[row.goal_id].append(share)
    return bootstrap(list(by_item.values()))


COLUMNS: Mapping[str, Column] = {
    "help before refusal": help_first,
    "refusal before compliance": refusal_first,
    "AUROC of p_safe": auroc,
    f"harm held back at {THRESHOLD}": harm_blocked,
    f"help held back at {THRESHOLD}": help_blocked,
    "familiarity": familiar,
}
"""Heading -> figure, None where the rows cannot give it.

A further column is a further line here, and a field of `Scored` if it needs another number.
"""


def measure(
    scorer: ResponseScorer, rows: Sequence[LabelledResponse]
) -> dict[str, dict[str, Figure]]:
    """Language -> heading -> figure; languages in the order of `NAMES`, then by name."""
    languages: defaultdict[str, list[LabelledResponse]] = defaultdict(list)
    for row in rows:
        languages[row.source.removeprefix("languages_")].append(row)
    order = [*NAMES, *sorted(set(languages) - set(NAMES))]
    found: dict[str, dict[str, Figure]] = {}
    for language in order:
        if language in languages:
            scored = score_rows(scorer, languages[language])
            figures = {heading: figure(scored) for heading, figure in COLUMNS.items()}
            found[language] = {heading: f for heading, f in figures.items() if f is not None}
    return found


def table(found: Mapping[str, Mapping[str, Figure]]) -> str:
    """The figures in Markdown, with intervals and the number of items."""
    lines = [
        "| language | items | " + " | ".join(COLUMNS) + " |",
        "| --- " * (len(COLUMNS) + 2) + "|",
    ]
    for language, figures in found.items():
        cells = [
            f"{f.value:.2f} ({f.low:.2f} to {f.high:.2f})" if (f := figures.get(heading)) else ""
            for heading in COLUMNS
        ]
        items = max((f.goals for f in figures.values()), default=0)
        lines.append(f"| {NAMES.get(language, language)} | {items} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scorer", help="a shipped bundle, a folder or a hub id")
    parser.add_argument("--data", nargs="+", default=[str(FOLDER)])
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    found = measure(SRRScorer.from_pretrained(options.scorer), read_rows(options.data))
    print(table(found))
    if options.json:
        figures = {
            language: {heading: figure.model_dump() for heading, figure in of.items()}
            for language, of in found.items()
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def _of_prompts(scored: Scored, prompt_type: str) -> tuple[list[LabelledResponse], Tensor]:
    """The rows whose request is of this type: of each item one list remains."""
    chosen = [i for i, row in enumerate(scored.rows) if row.prompt_type == prompt_type]
    return [scored.rows[i] for i in chosen], scored.scores[chosen]


if __name__ == "__main__":
    main()
