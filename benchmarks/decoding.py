"""Our decode loop against `generate` of transformers, and against the speed of memory.

    python benchmarks/decoding.py [--json FILE] [--rows 1 4 8 16] [--rounds 3] [--one-thread]
                                  [--dtype bfloat16] [--llama PYTHON]

SmolLM2-135M on the CPU, in float32 if nothing else is said, a prompt of 256 tokens, answers of 64
tokens, sampled. Other work on the machine disturbs whole runs, so the prompt's time and every
step's are taken by themselves and the best of each counts: an answer's time is that of the prompt
and 64 best steps. Memory's bound is one plain read of the weights for each step. Ratios are of
one run. On a busy machine `--one-thread` takes the processor's time of one torch thread in place
of the clock's.
With `--llama`, an interpreter that has llama-cpp-python, llama.cpp decodes the same file beside us;
it keeps the weights in four bits where we read 32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from srr_guard import SRRScorer
from srr_guard.conversation import Conversation
from srr_guard.local.generation import TextGenerator
from srr_guard.local.requests import GenerationOptions, GenerationRequest
from srr_guard.local.worker import text_generator
from srr_guard.reference import resolve_reference
from srr_guard.reference.host import host
from srr_guard.reference.spec import DType, ModelSpec

PROMPT, LENGTH, STEPS = 256, 64, 12
QUESTION = "Tell me about the trees, birds and flowers of your town, street by street. "


now = time.perf_counter
"""The clock in use."""


class Clock:
    """Seconds between marks; the first is the prompt's and the first token's."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = now()

    def mark(self, *_: Any, **__: Any) -> bool:
        """Take the time since the last mark."""
        last, self._last = self._last, now()
        self.seconds.append(self._last - last)
        return False


def conversation(generator: TextGenerator) -> tuple[Conversation, list[int]]:
    """A conversation of about `PROMPT` tokens."""
    text = QUESTION
    while len(generator.template.prompt(Conversation.of(text), limit=9999).ids) < PROMPT - 8:
        text += QUESTION[: 40 + len(text) % 20]
    talk = Conversation.of(text)
    return talk, generator.template.prompt(talk, limit=9999).ids


def with_generate(model: Any, ids: Sequence[int], n: int) -> list[float]:
    """Seconds of `generate`: the prompt with the first token, then each token."""
    import torch

    clock, prompt = Clock(), torch.tensor([list(ids)])

    def finished(input_ids: Any, _scores: Any, **_: Any) -> Any:
        clock.mark()
        return torch.zeros(len(input_ids), dtype=torch.bool)

    with torch.inference_mode():
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=STEPS,
            num_return_sequences=n,
            do_sample=True,
            temperature=0.8,
            top_p=0.95,
            top_k=0,
            eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=[finished],
        )
    return clock.seconds


def with_ours(generator: TextGenerator, talk: Conversation, n: int) -> list[float]:
    """Seconds of our loop, likewise."""
    options = GenerationOptions(max_new_tokens=STEPS, temperature=0.8, top_p=0.95, seed=1)
    clock = Clock()
    generator.sample(
        GenerationRequest(conversation=talk, options=options, n=n), cancelled=clock_of(clock, n)
    )
    return clock.seconds


def clock_of(clock: Clock, n: int) -> Callable[[], bool]:
    """A question that is asked for each row after each token, as a clock of steps."""
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        if asked % n == 0:
            clock.mark()
        return False

    return cancelled


def best(runs: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The best first mark and the best of the others."""
    return min(run[0] for run in runs), min(min(run[1:]) for run in runs)


def read_seconds(model: Any) -> float:
    """Seconds of one plain read of all weights, the best of five."""
    weights = list({p.data_ptr(): p for p in model.parameters()}.values())

    def once() -> float:
        started = now()
        for weight in weights:
            weight.sum()
        return now() - started

    return min(once() for _ in range(5))


def with_llama(interpreter: str, file: str, prompt: int, n: int) -> list[float]:
    """Seconds of llama.cpp, likewise; choosing the tokens is not counted."""
    import torch

    numbers = map(str, (prompt, n, STEPS - 1, torch.get_num_threads()))
    script = Path(__file__).with_name("llama_cpp_decoding.py")
    done = subprocess.run(
        [interpreter, script, file, *numbers], capture_output=True, text=True, check=True
    )
    found: list[float] = json.loads(done.stdout)
    return found


def measure(
    generator: TextGenerator, model: Any, n: int, rounds: int, llama: Sequence[str]
) -> dict[str, float]:
    """The figures of one number of rows."""
    talk, ids = conversation(generator)
    theirs, ours, reads, beside = [], [], [], []
    for _ in range(rounds):
        if llama:
            beside.append(with_llama(*llama, len(ids), n))
        reads.append(read_seconds(model))
        ours.append(with_ours(generator, talk, n))
        theirs.append(with_generate(model, ids, n))
    (their_prompt, their_step), (our_prompt, our_step) = best(theirs), best(ours)
    whole = our_prompt + (LENGTH - 1) * our_step
    before = their_prompt + (LENGTH - 1) * their_step
    found = {
        "rows": n,
        "prompt_tokens": len(ids),
        "generate_tokens_per_s": round(n * LENGTH / before, 1),
        "ours_tokens_per_s": round(n * LENGTH / whole, 1),
        "ratio": round(before / whole, 2),
        "ratio_of_steps": round(their_step / our_step, 2),
        "ratio_of_prompts": round(their_prompt / our_prompt, 2),
        "step_ms": round(1000 * our_step, 1),
        "read_ms": round(1000 * min(reads), 1),
        "of_memory_bound": round(min(reads) / our_step, 2),
    }
    if beside:
        prompt, step = best(beside)
        found["llama_tokens_per_s"] = round(n * LENGTH / (prompt + (LENGTH - 1) * step), 1)
    return found


def own_answers(generator: TextGenerator, dtype: DType) -> float:
    """Time of scoring eight answers that were just written, over that of writing them."""
    scorer = SRRScorer.from_pretrained(device="cpu", dtype=dtype)
    scorer.score("Warm up.", ["It is warm."])
    shares = []
    for seed in range(2):
        talk, _ = conversation(generator)
        options = GenerationOptions(max_new_tokens=LENGTH, temperature=0.8, top_p=0.95, seed=seed)
        request = GenerationRequest(conversation=talk, options=options, n=8)
        started = time.perf_counter()
        answers = host.submit_long(partial(generator.sample, request)).result()
        written = time.perf_counter()
        texts = [answer.text for answer in answers.answers if answer.text.strip()]
        scorer.score(talk, texts)
        shares.append((time.perf_counter() - written) / (written - started))
    return round(min(shares), 4)


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--one-thread", action="store_true")
    parser.add_argument("--no-scoring", action="store_true")
    parser.add_argument("--llama", metavar="PYTHON")
    given = parser.parse_args()
    if given.llama and given.one_thread:
        parser.error("--llama is measured by the clock: leave out --one-thread")
    if given.one_thread:
        import torch

        global now
        now = time.thread_time
        torch.set_num_threads(1)
    spec = ModelSpec(device="cpu", dtype=given.dtype)
    generator = host.submit(lambda: text_generator(spec)).result()
    model = host.submit(lambda: host.model(spec)).result().module
    llama = (given.llama, str(resolve_reference(None).path)) if given.llama else ()
    rows = [
        host.submit_long(partial(measure, generator, model, n, given.rounds, llama)).result()
        for n in given.rows
    ]
    names = list(rows[0])
    print("| " + " | ".join(names) + " |\n|" + " --- |" * len(names))
    for row in rows:
        print("| " + " | ".join(str(row[name]) for name in names) + " |")
    found: dict[str, Any] = {"dtype": given.dtype, "one_thread": given.one_thread, "rows": rows}
    if not given.no_scoring:
        found["scoring_own_answers_over_writing_them"] = own_answers(generator, given.dtype)
        print(found["scoring_own_answers_over_writing_them"])
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
