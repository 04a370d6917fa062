"""A model's own answers: the tokens that it drew against those of the text, and what that changes.

    python benchmarks/own_answers.py --json benchmarks/results/own_answers.json

The states of an answer are recorded under the tokens that were drawn. A text may be made of other
tokens than those that drew it; then the scorer reads it again. This samples 200 answers, counts
how often, and compares `p_safe` of the recorded states with `p_safe` of the text.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from stepwise import BENIGN, HARMFUL

from srr_guard import SRRScorer
from srr_guard.characters import plain_characters
from srr_guard.conversation import Conversation
from srr_guard.local.requests import GenerationOptions, GenerationRequest
from srr_guard.local.worker import sample_batch
from srr_guard.reference.host import host
from srr_guard.reference.spec import ModelSpec
from srr_guard.scorer.running import EarlyCut


def compared(
    scorer: SRRScorer, cut: EarlyCut, prompt: str, options: GenerationOptions, n: int
) -> list[tuple[bool, float, float]]:
    """For each answer: its tokens are those of its text; p_safe of the states, and of the text."""
    host.states.clear()
    talk = Conversation.of(prompt)
    (answers,) = sample_batch(
        ModelSpec(), [GenerationRequest(conversation=talk, options=options, n=n)]
    )
    recorded = {key[3]: states for key, states in host.states if key[1] == cut.depths}

    def tokens(text: str) -> tuple[int, ...]:
        plain = plain_characters(text)  # as the scorer reads it
        return tuple(scorer.engine.encoder().template.candidate_ids(plain))

    host.states.clear()  # all texts are read again
    read = scorer.score(talk, [answer.text for answer in answers.answers]).p_safe
    found = []
    for answer, p_safe in zip(answers.answers, read, strict=True):
        drawn = next((ids for ids in (answer.ids, answer.ids[:-1]) if ids in recorded), None)
        if drawn is not None:  # an end token is not part of it
            same = host.submit(lambda text=answer.text: tokens(text)).result() == drawn
            found.append((same, cut.p_safe(recorded[drawn]), p_safe))
    return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--answers", type=int, default=10, help="to each of 20 requests")
    parser.add_argument("--tokens", type=int, default=48)
    options = parser.parse_args()
    scorer = SRRScorer.from_pretrained()
    cut, table = scorer.early_cut(0.0), {}
    for temperature in (0.8, 1.2):
        sampling = GenerationOptions(
            max_new_tokens=options.tokens, temperature=temperature, top_p=0.95, seed=1
        )
        found = [
            one
            for prompt in (*HARMFUL, *BENIGN)
            for one in compared(scorer, cut, prompt, sampling, options.answers)
        ]
        table[f"temperature {temperature}"] = figures(found)
        print(f"temperature {temperature}: {table[f'temperature {temperature}']}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


def figures(found: list[tuple[bool, float, float]]) -> dict[str, Any]:
    """How often tokens differ, and by how much the scores do."""
    same = [abs(a - b) for equal, a, b in found if equal]
    other = [(a, b) for equal, a, b in found if not equal]
    changes = [abs(a - b) for a, b in other]
    return {
        "answers": len(found),
        "other tokens": len(other),
        "same tokens: largest change": round(max(same, default=0.0), 5),
        "other tokens: mean change": round(statistics.mean(changes), 4) if changes else 0.0,
        "other tokens: largest change": round(max(changes, default=0.0), 4),
        "other tokens: other side of 0.5": sum((a < 0.5) != (b < 0.5) for a, b in other),
    }


if __name__ == "__main__":
    main()
