"""Time from a cold process to the first score, against what no program can avoid.

The floor is: import torch, import transformers' Llama classes, read the weights that the
scorer needs. Both run in fresh processes, in turn, with warm file caches.

    python benchmarks/cold_start.py [ROUNDS]
"""

import statistics
import subprocess
import sys
import time

FLOOR = """
import torch
from transformers.models.llama.modeling_llama import LlamaModel
from safetensors import safe_open
from srr_guard.reference.source import resolve_reference
from srr_guard.reference.weights import model_folder
from srr_guard.scorer.bundle import ScorerBundle
deepest = max(ScorerBundle.find().info.head.depths)
kept = []
with safe_open(model_folder(resolve_reference()) / "model.safetensors", framework="pt") as file:
    for name in file.keys():
        parts = name.split(".")
        if "layers" not in parts or int(parts[parts.index("layers") + 1]) < deepest:
            kept.append(file.get_tensor(name).clone())
"""

FIRST_SCORE = """
from srr_guard import SRRScorer
SRRScorer.from_pretrained().score("How do tides work?", ["The moon pulls.", "I can't say."])
"""


def seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    seconds(FIRST_SCORE)  # converts the weights if that was not done before, warms file caches
    seconds(FLOOR)
    pairs = [(seconds(FLOOR), seconds(FIRST_SCORE)) for _ in range(rounds)]
    floor = statistics.median(a for a, _ in pairs)
    first = statistics.median(b for _, b in pairs)
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"floor        {floor:.2f} s")
    print(f"first score  {first:.2f} s")
    print(f"ratio        {ratio:.2f}  (median of {rounds} pairs)")


if __name__ == "__main__":
    main()
