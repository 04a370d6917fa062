"""Which other files of a reference LLM may a scorer accept? Measures what the tolerance rests on.

python benchmarks/fingerprint.py [--lists 300] [--data PATH ...] [--only NAME ...] [--json FILE]

Each variant of the weights is compared with the weights that the shipped scorer was trained with:
the distance of the fingerprints, the change of p_safe, and the share of lists whose first place
changes. Lists are the answers to one request.
"""

import argparse
import itertools
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from srr_guard.reference import ReferenceLLM
from srr_guard.reference.source import resolve_reference
from srr_guard.reference.weights import load_blocks, load_tokenizer, model_folder
from srr_guard.scorer.bundle import ScorerBundle
from srr_guard.scorer.fingerprint import Fingerprint
from srr_guard.scorer.inference import judge, list_scores
from srr_guard.training.data.reading import read_rows

Change = Callable[[str, Tensor], Tensor]


def rounded(dtype: torch.dtype) -> Change:
    return lambda name, w: w.to(dtype).to(w.dtype)


def quantised(bits: int, block: int | None) -> Change:
    """Symmetric rounding of matrices, one scale for each block of inputs (None: each row)."""

    def change(name: str, w: Tensor) -> Tensor:
        if w.dim() != 2:
            return w
        rows = w.reshape(-1, block or w.shape[1])
        scale = rows.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        return ((rows / scale.clamp_min(1e-12)).round() * scale).reshape(w.shape)

    return change


def noise(share: float) -> Change:
    """Gaussian noise on matrices, as a share of each matrix's standard deviation."""
    generator = torch.Generator().manual_seed(0)

    def change(name: str, w: Tensor) -> Tensor:
        if w.dim() != 2:
            return w
        return w + torch.randn(w.shape, generator=generator) * w.std() * share

    return change


def unrounded(name: str, w: Tensor) -> Tensor:
    """Weights that Q4_1 would have rounded to these: noise within its step, 32 at a time."""
    if w.dim() != 2:
        return w
    blocks = w.reshape(-1, 32)
    step = (blocks.amax(dim=1, keepdim=True) - blocks.amin(dim=1, keepdim=True)) / 15
    uniform = torch.rand(blocks.shape, generator=torch.Generator().manual_seed(1)) - 0.5
    return (blocks + uniform * step).reshape(w.shape)


def fresh(name: str, w: Tensor) -> Tensor:
    """Another model of equal shape."""
    return torch.randn(w.shape, generator=torch.Generator().manual_seed(2)) * w.std() + w.mean()


VARIANTS: dict[str, Change | None] = {
    "the same weights": None,
    "bfloat16": rounded(torch.bfloat16),
    "float16": rounded(torch.float16),
    "int8, rows": quantised(8, None),
    "Q8_0 (int8, blocks of 32)": quantised(8, 32),
    "int6, blocks of 32": quantised(6, 32),
    "int5, blocks of 32": quantised(5, 32),
    "int4, blocks of 32": quantised(4, 32),
    "what Q4_1 may have rounded": unrounded,
    **{f"noise of {share}": noise(share) for share in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)},
    "another model of equal shape": fresh,
}


def encoder(change: Change | None, depth: int, steps: int = 0) -> ReferenceLLM:
    source = resolve_reference()
    folder = model_folder(source)
    model, blocks = load_blocks(
        folder, depth=depth, device=torch.device("cpu"), dtype=torch.float32
    )
    if change is not None:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(change(name, weight))
    tokenizer = load_tokenizer(folder)
    if steps:
        tuned(model, tokenizer, steps)
    return ReferenceLLM(model=model, tokenizer=tokenizer, name="v", digest="", blocks=blocks)


def tuned(model: nn.Module, tokenizer: object, steps: int) -> None:
    """Train the blocks a little: predict each next token of the contrast set from its state."""
    texts = [row.response for row in read_rows(["contrast"])[: steps * 8]]
    model.requires_grad_(True).train()
    table = model.get_input_embeddings().weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    for i in range(steps):
        batch = tokenizer(
            texts[8 * i : 8 * i + 8],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=64,
        )
        states = model(**batch).last_hidden_state[:, :-1]
        logits = states @ table.T
        loss = nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), batch["input_ids"][:, 1:].reshape(-1)
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().requires_grad_(False)


def lists_of(data: list[str], most: int) -> list[tuple[object, list[str]]]:
    groups = defaultdict(list)
    for row in read_rows(data):
        if len(row.response) < 500 and len(row.prompt) < 500 and row.response.strip():
            groups[row.prompt].append(row)
    lists = [
        (rows[0].conversation, list(dict.fromkeys(r.response for r in rows))[:4])
        for rows in groups.values()
    ]
    lists = [(talk, texts) for talk, texts in lists if len(texts) > 1]
    random.Random(0).shuffle(lists)
    return lists[:most]


def measure(llm: ReferenceLLM, bundle: ScorerBundle, lists: list) -> tuple[list[int], Tensor]:
    """The first place of each list, and p_safe of all answers."""
    head, spec = bundle.load_head(), bundle.info.features
    firsts, safe = [], []
    for chunk in itertools.batched(lists, 16) if hasattr(itertools, "batched") else _chunks(lists):
        for features in llm.encode_many(chunk, spec):
            n = int(features.owner.max()) + 1
            judged = judge(
                head,
                windows={"mean": features.mean, "last": features.last},
                prompt={
                    "instruction": features.instruction.expand(n, -1, -1),
                    "request": features.request.expand(n, -1, -1),
                },
                owner=features.owner,
            )
            firsts.append(int(list_scores(head, judged).argmax()))
            safe.append(judged.p_safe)
        llm.clear_caches()
    return firsts, torch.cat(safe)


def _chunks(items: list, size: int = 16) -> list:
    return [items[i : i + size] for i in range(0, len(items), size)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lists", type=int, default=300)
    parser.add_argument("--data", nargs="+", default=["contrast"])
    parser.add_argument("--only", nargs="+", help="Some of the variants, by their names.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bundle = ScorerBundle.find()
    depth = max(bundle.info.head.depths)
    lists = lists_of(options.data, options.lists)
    rows, kept = [], None
    tunings = {f"fine-tuned, {steps} steps": steps for steps in (5, 20, 100)}
    print(f"{len(lists)} lists, {sum(len(texts) for _, texts in lists)} answers")
    print("| weights | distance | mean change of p_safe | largest | first place changed |")
    print("| --- | --- | --- | --- | --- |")
    names = [name for name in (*VARIANTS, *tunings) if name in (options.only or name)]
    for name in dict.fromkeys(["the same weights", *names]):
        started = time.perf_counter()
        llm = encoder(VARIANTS.get(name), depth, tunings.get(name, 0))
        print_of = Fingerprint.of(llm, bundle.info.features)
        firsts, safe = measure(llm, bundle, lists)
        if kept is None:
            kept = print_of, firsts, safe
        change = (safe - kept[2]).abs()
        row = {
            "weights": name,
            "distance": kept[0].distance(print_of),
            "mean_change": float(change.mean()),
            "largest_change": float(change.max()),
            "first_changed": sum(a != b for a, b in zip(firsts, kept[1], strict=True)) / len(lists),
            "seconds": time.perf_counter() - started,
        }
        rows.append(row)
        print(
            f"| {name} | {row['distance']:.4f} | {row['mean_change']:.4f} "
            f"| {row['largest_change']:.3f} | {row['first_changed']:.4f} |",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps({"lists": len(lists), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
