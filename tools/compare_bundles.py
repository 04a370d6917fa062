"""Compare two bundles: metadata, fingerprint, weights, and what they say of texts.

python tools/compare_bundles.py runs/smollm2-135m srr_guard/bundles/smollm2-135m
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from safetensors.torch import load_file

from srr_guard import SRRScorer

TEXTS = Path(__file__).parents[1] / "data" / "languages" / "en.jsonl"
FILES = ("config.json", "fingerprint.safetensors", "model.safetensors")


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def most_change(one: Path, other: Path) -> float:
    """The largest difference of a weight; infinite where the weights have other names or shapes."""
    ours, theirs = load_file(one), load_file(other)
    if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
        return float("inf")
    return max(float((ours[k].double() - theirs[k].double()).abs().max()) for k in ours)


def most_shift(one: Path, other: Path) -> float:
    """The largest difference of a `p_safe` over the English texts of the languages set."""
    rows = [json.loads(line) for line in TEXTS.read_text().splitlines()]
    scorers = [SRRScorer.from_pretrained(folder) for folder in (one, other)]
    shifts = [
        abs(a - b)
        for row in rows
        for a, b in zip(
            *(scorer.score(row["prompt"], [row["response"]]).p_safe for scorer in scorers),
            strict=True,
        )
    ]
    return max(shifts)


def main() -> None:
    """Print what is equal, and by how much the rest differs."""
    one, other = map(Path, sys.argv[1:3])
    for name in FILES:
        ours, theirs = digest(one / name), digest(other / name)
        print(f"{name}: {ours[:8]} {'is' if ours == theirs else 'is not'} {theirs[:8]}")
    change = most_change(one / FILES[-1], other / FILES[-1])
    if change:
        shift = most_shift(one, other)
        print(f"weights differ by up to {change:.1e}, p_safe of 64 texts by up to {shift:.1e}")
    else:
        print("the weights are equal bit for bit")


if __name__ == "__main__":
    main()
