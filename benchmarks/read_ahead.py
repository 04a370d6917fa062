"""What is left to score after the last token, when answers are read while they are written.

    python benchmarks/read_ahead.py --json benchmarks/results/read_ahead.json

A model streams 8 answers of about 64 tokens side by side, all ending at the same moment, after a
prompt of about 256. Measured is the time from the last token to the decision, with and without
`SamplingPolicy.read_ahead`, in turns; p50 of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field
from serving import text

from srr_guard import DecisionPolicy, SafetyRanker, SamplingPolicy, SRRScorer

PROMPT, CANDIDATES, ANSWER = 256, 8, 64


class StreamingModel(BaseChatModel):
    """An API model as seen from here: words come at a steady rate."""

    words_per_s: float
    ended: list[float] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "streaming"

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        words = [chunk.text async for chunk in self._astream(*args, **kwargs)]
        return ChatResult(generations=[ChatGeneration(message=AIMessage("".join(words)))])

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise TypeError("this model is async: call it from async code")

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        begun = time.perf_counter()
        for i, word in enumerate(text(ANSWER).split(), 1):
            await asyncio.sleep(max(0.0, begun + i / self.words_per_s - time.perf_counter()))
            yield ChatGenerationChunk(message=AIMessageChunk(f"{word} "))
        self.ended.append(time.perf_counter())


async def wait_for_decision(scorer: SRRScorer, rate: float, *, read_ahead: bool) -> float:
    """Seconds from the last token to the decision."""
    model = StreamingModel(words_per_s=rate, ended=[])
    ranker = SafetyRanker(
        model,
        scorer=scorer,
        sampling=SamplingPolicy(n=CANDIDATES, read_ahead=read_ahead),
        decision=DecisionPolicy(threshold=0.0),
    )
    decision = await ranker.adecide(text(PROMPT))
    assert decision.sampled == CANDIDATES
    return time.perf_counter() - max(model.ended)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    random.seed(0)
    scorer = SRRScorer.from_pretrained()
    scorer.warm_up()
    scorer.score("Hi", ["Hello"])
    results = {}
    for rate in (20, 40, 80):
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(options.rounds):
            for ahead, found in times.items():
                found.append(asyncio.run(wait_for_decision(scorer, rate, read_ahead=ahead)))
        after, ahead = (statistics.median(times[k]) for k in (False, True))
        results[f"{rate} tokens a second"] = {
            "after_ms": round(after * 1e3),
            "read_ahead_ms": round(ahead * 1e3),
            "share": round(ahead / after, 3),
        }
        print(f"{rate} tokens a second each: {results[f'{rate} tokens a second']}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
