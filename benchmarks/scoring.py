"""What scoring costs: our encoding against the naive one, side by side in one run.

    python benchmarks/scoring.py --json benchmarks/results/scoring.json --plots benchmarks/results

Two models: SmolLM2-135M-Instruct, and a 0.5B model shaped like Qwen2 with random weights.
Prompts and candidates are random token ids, so their lengths are exact. All ways take turns;
the median over the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    Qwen2Config,
)

from srr_guard.reference import ReferenceLLM
from srr_guard.reference.cache.partial import Window
from srr_guard.reference.cache.prefixes import Prefix
from srr_guard.reference.encoding.packed import Part
from srr_guard.reference.encoding.plain import encode_plainly
from srr_guard.reference.encoding.request import EncodingRequest
from srr_guard.reference.features import FeatureSpec
from srr_guard.reference.source import resolve_reference
from srr_guard.reference.template import PromptIds
from srr_guard.reference.weights import model_folder
from srr_guard.scorer.config import HeadConfig

PROMPT, CANDIDATES, ANSWER = 256, 8, 64
QWEN = {
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
}


class Bench:
    """A whole causal LM and the cut one that we score with, of the same weights."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        folder = model_folder(resolve_reference())
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if name == "smollm2":
            config = AutoConfig.from_pretrained(folder)
            self.whole: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        else:
            config = Qwen2Config(**QWEN)
            self.whole = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        blocks = config.num_hidden_layers
        head = HeadConfig.preset("default", width=config.hidden_size, blocks=blocks)
        self.spec = FeatureSpec(head.depths)
        cut = config.to_dict() | {"num_hidden_layers": head.depths[-1], "layer_types": None}
        model = AutoModel.from_config(type(config)(**cut), dtype=dtype).eval()
        model.load_state_dict(self.whole.model.state_dict(), strict=False)
        self.cut_model = model
        self.llm = ReferenceLLM(
            model=model, tokenizer=tokenizer, name=name, digest="", blocks=blocks
        )
        self.blocks = list(model.layers)

    def request(self, prompt: int, lengths: Sequence[int]) -> tuple[PromptIds, list[list[int]]]:
        """Random ids; no two requests share a prompt."""
        ids = torch.randint(10, 40_000, (prompt,)).tolist()
        windows = [torch.randint(10, 40_000, (n,)).tolist() for n in lengths]
        return PromptIds(ids=ids, request=range(prompt // 2, prompt)), windows

    # ---- the ways; each takes a prompt and its windows ----

    def naive(self, prompt: PromptIds, windows: Sequence[list[int]]) -> None:
        """A full forward with LM head and all hidden states for each candidate."""
        for window in windows:
            self.whole(torch.tensor([[*prompt.ids, *window]]), output_hidden_states=True)

    def batched(self, prompt: PromptIds, windows: Sequence[list[int]]) -> None:
        """The same in one batch."""
        self.whole(torch.tensor([[*prompt.ids, *w] for w in windows]), output_hidden_states=True)

    def cut(self, prompt: PromptIds, windows: Sequence[list[int]]) -> None:
        """One batch, without LM head and later blocks."""
        own = self.cut_model.config._attn_implementation
        self.cut_model.set_attn_implementation("sdpa")
        encode_plainly(
            [Part(Prefix(prompt), [Window(ids) for ids in windows])],
            lambda ids: self.llm.backbone.states(ids, depths=self.spec.depths),
            batch_tokens=10**9,
        )
        self.cut_model.set_attn_implementation(own)

    def expanded(self, prompt: PromptIds, windows: Sequence[list[int]]) -> None:
        """The prompt once, its keys and values copied for each row of a batch (without pooling)."""
        own = self.cut_model.config._attn_implementation
        self.cut_model.set_attn_implementation("sdpa")
        cache = DynamicCache(config=self.cut_model.config)
        self.cut_model(torch.tensor([prompt.ids]), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(windows))
        self.cut_model(torch.tensor(windows), past_key_values=cache, use_cache=True)
        self.cut_model.set_attn_implementation(own)

    def packed(self, prompt: PromptIds, windows: Sequence[list[int]]) -> Prefix:
        """Ours, with a prompt that was never seen."""
        return self._ours(Prefix(prompt), windows)

    def _ours(self, prefix: Prefix, windows: Sequence[list[int]]) -> Prefix:
        encoding = EncodingRequest(
            prefix, [Window(ids) for ids in windows], list(range(len(windows)))
        )
        while not encoding.finished:
            self.llm.step([encoding], self.spec, batch_tokens=self.llm.pass_tokens)
        return prefix

    # ---- what is measured ----

    def seconds(
        self, prompt: int, lengths: Sequence[int], ways: Sequence[str], rounds: int
    ) -> dict[str, list[float]]:
        """Seconds of each round of each way; `cached` is ours with a prompt that is kept."""
        found: dict[str, list[float]] = {way: [] for way in ways}
        for warm_up in (True, *[False] * rounds):
            for way in ways:
                request, windows = self.request(prompt, lengths)
                call: Callable[[], object]
                if way == "cached":
                    prefix = self.packed(request, windows[:1])
                    call = lambda s=prefix, w=windows: self._ours(s, w)  # noqa: E731
                else:
                    call = lambda w=way, r=request, c=windows: getattr(self, w)(r, c)  # noqa: E731
                started = time.perf_counter()
                with torch.inference_mode():
                    call()
                if not warm_up:
                    found[way].append(time.perf_counter() - started)
        return found

    def needed_flops(self, prompt: int, lengths: Sequence[int], *, cached: bool = False) -> float:
        """What no way can do without: every token once through the blocks, causal attention."""
        tokens = sum(lengths) + (0 if cached else prompt)
        linear = sum(
            m.weight.numel()
            for block in self.blocks
            for m in block.modules()
            if isinstance(m, torch.nn.Linear)
        )
        pairs = sum(n * prompt + n * (n + 1) / 2 for n in lengths)
        pairs += 0 if cached else prompt * (prompt + 1) / 2
        heads = self.cut_model.config.num_attention_heads
        width = self.blocks[0].self_attn.head_dim
        return 2.0 * linear * tokens + 4.0 * heads * width * pairs * len(self.blocks)


def gemm_peak(dtype: torch.dtype) -> float:
    """Most FLOP per second of a large matrix product on this machine."""
    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    times = []
    for _ in range(8):
        started = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(times)


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {f"p{k}": round(cuts[k - 1] * 1e3, 2) for k in (50, 95, 99)}


def compare(bench: Bench, dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    """The ways against each other, and ours against the GEMM peak."""
    lengths = [ANSWER] * CANDIDATES
    peak = gemm_peak(dtype)
    ways = ("naive", "batched", "cut", "expanded", "packed", "cached")
    times = bench.seconds(PROMPT, lengths, ways, rounds)
    peak = max(peak, gemm_peak(dtype))
    naive = statistics.median(times["naive"])
    rows: dict[str, Any] = {}
    for way, seconds in times.items():
        rows[way] = {**percentiles(seconds), "speed": round(naive / statistics.median(seconds), 2)}
    for way in ("packed", "cached"):
        flops = bench.needed_flops(PROMPT, lengths, cached=way == "cached")
        rows[way]["share_of_peak"] = round(flops / statistics.median(times[way]) / peak, 3)
    return {"gemm_peak_gflops": round(peak / 1e9, 1), "ways": rows}


def growth(bench: Bench, rounds: int) -> dict[str, list[list[float]]]:
    """Milliseconds of ours as prompts and lists grow: [size, p50]."""
    found: dict[str, list[list[float]]] = {"prompt": [], "candidates": []}
    for prompt in (64, 128, 256, 512, 1024, 2048):
        times = bench.seconds(prompt, [ANSWER] * CANDIDATES, ["packed"], rounds)["packed"]
        found["prompt"].append([prompt, round(statistics.median(times) * 1e3, 1)])
    for n in (1, 2, 4, 8, 16, 32):
        times = bench.seconds(PROMPT, [ANSWER] * n, ["packed"], rounds)["packed"]
        found["candidates"].append([n, round(statistics.median(times) * 1e3, 1)])
    return found


def plot(results: dict[str, Any], folder: Path) -> None:
    """Cost as work grows, with the line through the largest size."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for axis, what in zip(axes, ("prompt", "candidates"), strict=True):
        for name, found in results["models"].items():
            sizes, times = zip(*found["growth"][what], strict=True)
            tokens = [
                s + CANDIDATES * ANSWER if what == "prompt" else PROMPT + s * ANSWER for s in sizes
            ]
            (line,) = axis.plot(sizes, times, "o-", label=name)
            linear = [times[-1] * t / tokens[-1] for t in tokens]
            axis.plot(sizes, linear, ":", color=line.get_color(), label=f"{name}, linear in tokens")
        axis.set_xlabel("prompt tokens" if what == "prompt" else "candidates of 64 tokens")
        axis.set_ylabel("milliseconds")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.legend(fontsize=7)
        axis.set_title(f"{CANDIDATES} candidates" if what == "prompt" else f"prompt of {PROMPT}")
    figure.tight_layout()
    figure.savefig(folder / "scoring_growth.png", dpi=120)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plots", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--models", nargs="*", default=["smollm2", "qwen2-0.5b"])
    options = parser.parse_args()
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    results: dict[str, Any] = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}",
        "dtype": options.dtype,
        "prompt_tokens": PROMPT,
        "candidates": CANDIDATES,
        "candidate_tokens": ANSWER,
        "models": {},
    }
    for name in options.models:
        bench = Bench(name, dtype)
        found = compare(bench, dtype, options.rounds)
        found["growth"] = growth(bench, max(3, options.rounds // 2)) if options.plots else {}
        results["models"][name] = found
        print(f"{name}, {options.dtype}, GEMM peak {found['gemm_peak_gflops']:.0f} GFLOP/s")
        for way, row in found["ways"].items():
            share = f", {row['share_of_peak']:.2f} of the peak" if "share_of_peak" in row else ""
            print(f"  {way:<8} p50 {row['p50']:8.1f} ms, {row['speed']:5.2f} x naive{share}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.plots:
        plot(results, options.plots)


if __name__ == "__main__":
    main()
