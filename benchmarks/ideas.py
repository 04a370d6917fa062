"""Ideas for reading a request and its answers better, each fitted without one kind of source.

    python benchmarks/ideas.py TRAIN --json benchmarks/results/ideas.json

TRAIN is the folder of training rows; about 24,000 of them are used. Sources fall into nine
groups; every probe is fitted on eight of them and read on the ninth, so that each figure is
about sources never seen. The states of all tokens are pooled in chunks first (half an hour on
two cores, kept in the cache folder); after that the table takes minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation import AREAS, COLUMNS, JAILBREAKS, LIMITS, WEIGHTS, held_out_rows, set_name
from torch import Tensor

from srr_guard.conversation import Conversation
from srr_guard.reference import ReferenceLLM
from srr_guard.reference.cache_folder import cache_dir
from srr_guard.reference.features import FeatureSpec
from srr_guard.scorer.config import HeadConfig
from srr_guard.scorer.familiarity import Familiarity
from srr_guard.scorer.head import Probes, SRRHead
from srr_guard.training.data import LabelledResponse, by_prompt
from srr_guard.training.evaluation.metrics import ListScores, ranking_figures
from srr_guard.training.evaluation.ngrams import NGramClassifier
from srr_guard.training.fit.linear import logistic_regression
from srr_guard.training.fit.targets import (
    Target,
    answers_targets,
    harmful_request_targets,
    harmless_targets,
    row_weights,
)

DEPTHS = (6, 9, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
THREE, ALL = (12, 16, 20), DEPTHS[:-1]
ANSWER_CHUNK, REQUEST_CHUNK = 32, 24
SHARES = {
    **{"contrast_short": 0.55, "contrast_requests": 0.5, "contrast": 0.6, "coconot": 0.8},
    **{"hh_harmless_test": 0.5, "gptfuzz": 0.7, "diasafety": 0.35, "safetext": 0.5},
    **{"benign_gpteacher": 0.5, "benign_self_instruct": 0.5, "latent_jailbreak": 0.5},
}
FOLDS = {
    "jailbreaks": "unseen jailbreaks",
    "gptfuzz": "unseen gptfuzz",
    "coconot": "unseen coconot, rbr",
    "areas": "unseen areas",
}


def sampled(rows: Sequence[LabelledResponse]) -> list[LabelledResponse]:
    """A share of each source, by goal, pair, or (gptfuzz, which has few goals) by row."""

    def place(row: LabelledResponse) -> float:
        key = row.pair or row.goal_id
        if row.source == "gptfuzz":
            key = row.prompt + row.response
        return int.from_bytes(hashlib.sha256(f"s{key}".encode()).digest()[:4]) / 2**32

    return [r for r in rows if r.response.strip() and place(r) < SHARES.get(r.source, 1)]


def group(row: LabelledResponse, jailbroken: set[str]) -> str:
    """The group of sources that a row is left out with."""
    if row.goal_id in jailbroken:
        return "jailbreaks"
    if row.pair:
        area = row.pair.rsplit("-", 2)[-2]
        if area in AREAS:
            return "areas"
        return f"areas {1 + (area in ('fict', 'hlth', 'crim', 'cyb', 'crime', 'fiction'))}"
    named = {"openai_rbr_gold": "coconot", "hh_harmless_test": "hh", "latent_jailbreak": "latent"}
    named |= {"safetext": "chat", "diasafety": "chat", "coconot": "coconot", "gptfuzz": "gptfuzz"}
    return named.get(row.source, "plain")


class Chunks:
    """Means of the states of consecutive tokens, float16.

    Attributes:
        means: (c, D, d).
        owner: (c,) the row, or prompt, each of them belongs to, ascending.
        tokens: (c,) how many tokens.
    """

    def __init__(self, means: Tensor, owner: Tensor, tokens: Tensor, n: int) -> None:
        self.means, self.owner, self.tokens, self.n = means, owner, tokens.float(), n

    def mean(self) -> Tensor:
        """(n, D, d) means over all tokens."""
        total = torch.zeros(self.n, *self.means.shape[1:])
        for k in range(self.means.shape[1]):
            total[:, k].index_add_(0, self.owner, self.means[:, k].float() * self.tokens[:, None])
        count = torch.zeros(self.n).index_add_(0, self.owner, self.tokens).clamp(min=1)
        return total / count[:, None, None]

    def extreme(self, probe: Probe, depths: Sequence[int], *, lowest: bool, width: int) -> Tensor:
        """(n,) the lowest or highest logit of any `width` consecutive chunks."""
        logits = probe(self.means[:, _at(depths)].flatten(1).float())
        total, tokens = logits * self.tokens, self.tokens.clone()
        for step in range(1, width):
            follows = self.owner[step:] == self.owner[:-step]
            total[:-step] += torch.where(follows, (logits * self.tokens)[step:], 0.0)
            tokens[:-step] += torch.where(follows, self.tokens[step:], 0.0)
        worst = torch.full((self.n,), torch.inf if lowest else -torch.inf)
        return worst.scatter_reduce(0, self.owner, total / tokens, "amin" if lowest else "amax")


class Probe:
    """A linear probe on standardised inputs: logistic regression, or class means (LDA)."""

    def __init__(self, x: Tensor, y: Tensor, weights: Tensor, *, lda: bool = False) -> None:
        self._offset, self._scale = x.mean(0), x.std(0).clamp(min=1e-4)
        z = self._standardised(x)
        if not lda:
            self._w, self._b = logistic_regression(z, y, weights, penalty=0.01)
            return
        yes, no = (z * (weights * t)[:, None] for t in (y, 1 - y))
        one, zero = yes.sum(0) / (weights * y).sum(), no.sum(0) / (weights * (1 - y)).sum()
        within = z - torch.where(y[:, None] > 0, one, zero)
        scatter = (within * weights[:, None]).T @ within / weights.sum()
        scatter += 0.1 * scatter.diagonal().mean() * torch.eye(len(scatter))
        self._w = torch.linalg.solve(scatter, one - zero)
        self._b = -(one + zero) @ self._w / 2

    def _standardised(self, x: Tensor) -> Tensor:
        return ((x - self._offset) / self._scale).clamp(-8, 8)

    def __call__(self, x: Tensor) -> Tensor:
        return self._standardised(x) @ self._w + self._b


class Readings:
    """All rows, their pooled states, and probes read on groups that they were not fitted on."""

    def __init__(
        self, rows: Sequence[LabelledResponse], states: Mapping[str, Any], alone: Tensor | None
    ) -> None:
        self.rows, self.alone = rows, alone
        tensors = {name: torch.from_numpy(array) for name, array in states.items()}
        n, prompts = len(rows), len(tensors["ins"])
        self.prompt_of = tensors["prow"]
        order = tensors["owner"].argsort(stable=True)
        self.answers = Chunks(*(tensors[k][order] for k in ("ch", "owner", "ntok")), n)
        ones = torch.ones(len(tensors["pown"]))
        self.requests = Chunks(tensors["pch"], tensors["pown"], ones, prompts)
        self.mean = self.answers.mean()
        self.before, self.request = tensors["ins"].float(), tensors["req"].float()
        jailbroken = {r.goal_id for r in rows if r.source in JAILBREAKS}
        self.groups = np.array([group(r, jailbroken) for r in rows])
        self.targets: dict[str, list[Target]] = {
            "h": harmless_targets(rows),
            "a": answers_targets(rows),
            "q": harmful_request_targets(rows, harmful_sources=("hh_harmless_test",)),
        }

    def of_answer(self, depths: Sequence[int]) -> Tensor:
        """(n, k) means over the answers' tokens."""
        return self.mean[:, _at(depths)].flatten(1)

    def of_request(self, depths: Sequence[int], *, turn_only: bool = False) -> Tensor:
        """(n, k) the prompts' last tokens, and means over their latest turns."""
        both = [] if turn_only else [self.before]
        found = [t[:, _at(depths)].flatten(1) for t in (*both, self.request)]
        return torch.cat(found, 1)[self.prompt_of]

    def out_of_group(
        self,
        target: str,
        x: Tensor,
        *,
        lda: bool = False,
        read: Callable[[Probe], Tensor] | None = None,
        keep: Tensor | None = None,
        only: str | None = None,
    ) -> Tensor:
        """(n,) logits of probes that did not see the row's group."""
        logits = torch.zeros(len(self.rows))
        targets = self.targets[target]
        known = torch.tensor([t is not None for t in targets])
        known = known if keep is None else known & keep
        y = torch.tensor([float(t or False) for t in targets])
        for name in [only] if only else sorted(set(self.groups)):
            own = torch.from_numpy(self.groups == name)
            seen = (known & ~own).nonzero().squeeze(1)
            chosen = [self.rows[i] for i in seen.tolist()]
            source_weights = None if target == "q" else WEIGHTS
            weights = row_weights(chosen, [targets[i] for i in seen.tolist()], source_weights)
            probe = Probe(x[seen], y[seen], weights, lda=lda)
            logits[own] = (probe(x) if read is None else read(probe))[own]
        return logits

    def cleaned(self, target: str, x: Tensor, *, margin: float) -> Tensor:
        """(n,) logits of probes fitted without the labels that other groups contradict.

        What contradicts a label has not seen the group that is judged either: a mask that has
        would carry that group's labels into the fit, which looks like a gain of 0.2.
        """
        logits = torch.zeros(len(self.rows))
        positive = torch.tensor([bool(t) for t in self.targets[target]])
        for judged in FOLDS:
            rest = torch.from_numpy(self.groups != judged)
            others = self.out_of_group(target, x, keep=rest)
            agrees = torch.where(positive, others, -others) > -margin
            own = self.out_of_group(target, x, keep=rest & agrees, only=judged)
            logits = torch.where(rest, logits, own)
        return logits

    def ngrams(self) -> Tensor:
        """(n,) logits of n-gram classifiers that did not see the row's group."""
        p = torch.zeros(len(self.rows))
        for name in sorted(set(self.groups)):
            own = (self.groups == name).nonzero()[0].tolist()
            others = [r for r, g in zip(self.rows, self.groups, strict=True) if g != name]
            classifier = NGramClassifier.fit(others, source_weights=WEIGHTS)
            p[own] = classifier.p_safe([self.rows[i].response for i in own])
        return torch.logit(p, 1e-4)

    def familiarity(self) -> Tensor:
        """(n,) familiarity of each request among those of the other groups."""
        x, shares = self.of_request(THREE), torch.zeros(len(self.rows))
        for name in sorted(set(self.groups)):
            own = torch.from_numpy(self.groups == name)
            others = x[~own]
            known = Familiarity(x.shape[1], 32)
            known.fit(others[::2], others[1::2])
            shares[own] = known(x[own])
        return shares


def relevance(h: Tensor, a: Tensor, q: Tensor, *, evidence: float = 0.0, h0: float = 1.0) -> Tensor:
    """`SRRHead.relevance` of one list."""
    design = HeadConfig.preset("default", width=1, blocks=30)
    change = {"evidence": evidence, "expected_harmless": h0, "familiar": 0}
    return SRRHead(design.model_copy(update=change)).relevance(Probes(h, a, q))


def orders(of: Readings) -> Iterator[tuple[str, ListScores, Tensor]]:
    """Name, listwise scores and logits of p(harmless), idea by idea."""
    h = of.out_of_group("h", of.of_answer(THREE))
    a = of.out_of_group("a", of.of_answer(THREE))
    q = of.out_of_group("q", of.of_request(THREE))

    def graded(h: Tensor, q: Tensor, **options: float) -> ListScores:
        return lambda at: relevance(h[list(at)], a[list(at)], q[list(at)], **options)

    yield "p_safe alone", lambda at: h[list(at)], h
    yield "graded, as before", graded(h, q), h
    far = of.familiarity()
    for least in (0.05, 0.2):
        strange = far < least
        doubtful = torch.where(strange, 20.0, q)
        yield f"1 familiarity: p_safe below {least}", graded(h, doubtful), h
    turn = of.of_request(THREE, turn_only=True)
    worst = of.out_of_group(
        "q",
        turn,
        read=lambda p: of.requests.extreme(p, THREE, lowest=False, width=1)[of.prompt_of],
    )
    yield "2 segments: the worst 24 tokens of the request", graded(h, torch.maximum(q, worst)), h
    q_all = of.out_of_group("q", of.of_request(ALL))
    h_all = of.out_of_group("h", of.of_answer(ALL))
    yield "4 all layers: request", graded(h, q_all), h
    yield "4 all layers: request and answer", graded(h_all, q_all), h_all
    rolling = of.out_of_group(
        "h",
        of.of_answer(THREE),
        read=lambda p: of.answers.extreme(p, THREE, lowest=True, width=2),
    )
    yield "5 pooling: the worst 64 tokens of the answer", graded(rolling, q), rolling
    words = of.ngrams()
    both = 0.7 * h + 0.3 * words
    yield "6 n-grams, 0.3, averaged with the probe", graded(both, q), both
    clean = of.cleaned("h", of.of_answer(THREE), margin=1.0)
    yield "7 label cleaning: harm", graded(clean, q), clean
    lda = of.out_of_group("q", of.of_request(THREE), lda=True) / 2
    yield "8 class means, shared covariance: request", graded(h, lda), h
    for weight in (0.25, 0.5, 1.0, 2.0):
        name = f"9 the list as evidence, weight {weight:g}"
        yield name, graded(h, q, evidence=weight), h
    yield "9 and h0 = 2", graded(h, q, evidence=1.0, h0=2.0), h
    yield "9 with 4", graded(h, q_all, evidence=1.0), h
    yield "9 with 2", graded(h, torch.maximum(q, worst), evidence=1.0), h
    yield "9 with 5", graded(rolling, q, evidence=1.0, h0=0.0), rolling
    yield "9 with 8 (ships)", graded(h, lda, evidence=1.0), h
    yield "9 with 7 and 8", graded(clean, lda, evidence=1.0), clean
    yield "9 with 6 and 8", graded(both, lda, evidence=1.0), both
    if of.alone is None:
        return
    view = of.out_of_group("h", of.alone.flatten(1))
    both = (h + view) / 2
    yield "3 a second view: the answer without its request", graded(both, q), both
    yield "9 with 3", graded(both, q, evidence=1.0), both
    yield "9 with 3 and 8", graded(both, lda, evidence=1.0), both


def figures(of: Readings, scores: ListScores, harmless: Tensor) -> dict[str, float]:
    """The columns of the ablation that can be read on groups left out."""
    found: dict[str, float] = {}
    for name, fold in FOLDS.items():
        for where, wanted, metric in COLUMNS:
            if where != fold:
                continue
            at = [
                i
                for i, row in enumerate(of.rows)
                if of.groups[i] == name
                and set_name(row) == wanted
                and row.synthetic in ("", "needless refusal")
            ]
            measured = ranking_figures(
                [of.rows[i] for i in at],
                lambda listed, at=at: scores([at[k] for k in listed]),  # type: ignore[misc]
                p_safe=harmless.sigmoid()[at],
            )
            if metric in measured:
                found[f"{wanted}, {metric}"] = round(measured[metric].value, 3)
    return found


def pooled(rows: Sequence[LabelledResponse], file: Path) -> Mapping[str, Any]:
    """Pool the states of all rows in chunks, or read what an earlier run kept."""
    if not file.exists():
        llm = ReferenceLLM.load(depth=max(DEPTHS), dtype="bfloat16")
        spec = FeatureSpec(DEPTHS)
        kept: dict[str, list[Any]] = {
            k: [] for k in ("ch", "owner", "ntok", "ins", "req", "pch", "pown")
        }
        at = {id(row): i for i, row in enumerate(rows)}
        prow = np.zeros(len(rows), dtype=np.int64)
        for number, members in enumerate(by_prompt(rows).values()):
            for row in members:
                prompt, before, windows = llm.token_states(row.conversation, row.response, spec)
                prow[at[id(row)]] = number
                for window in windows:
                    _chunk(window, ANSWER_CHUNK, at[id(row)], kept["ch"], kept["owner"])
                    kept["ntok"] += [len(c[0]) for c in window.split(ANSWER_CHUNK, 1)]
            turn = before[:, prompt.request.start : prompt.request.stop]
            _chunk(turn, REQUEST_CHUNK, number, kept["pch"], kept["pown"])
            kept["ins"].append(before[:, -1].half().numpy())
            kept["req"].append(turn.mean(1).half().numpy())
            if number % 500 == 0:
                print(f"{number} prompts", flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, prow=prow, **{k: np.array(v) for k, v in kept.items()})
    return dict(np.load(file))


def answers_alone(rows: Sequence[LabelledResponse], file: Path) -> Tensor:
    """(n, 3, d) means over the answers' tokens after a neutral request, or what was kept."""
    if not file.exists():
        llm = ReferenceLLM.load(depth=max(THREE), dtype="bfloat16")
        spec = FeatureSpec(THREE)
        means = np.zeros((len(rows), len(THREE), llm.width), dtype=np.float16)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].response))
        for start in range(0, len(order), 64):
            at = order[start : start + 64]
            neutral = Conversation.of("Write a text.")
            (features,) = llm.encode_many([(neutral, [rows[i].response for i in at])], spec)
            total = torch.zeros(len(at), *features.mean.shape[1:])
            total.index_add_(0, features.owner, features.mean.float())
            count = torch.bincount(features.owner, minlength=len(at))
            means[at] = (total / count[:, None, None]).half().numpy()
            if start % 1280 == 0:
                print(f"{start} answers alone", flush=True)
        np.save(file, means)
    return torch.from_numpy(np.load(file)).float()


def _chunk(states: Tensor, size: int, owner: int, means: list[Any], owners: list[int]) -> None:
    for part in states.split(size, 1):
        means.append(part.mean(1).half().numpy())
        owners.append(owner)


def _at(depths: Sequence[int]) -> list[int]:
    return [DEPTHS.index(k) for k in depths]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--second-view", action="store_true", help="encode all answers once more")
    options = parser.parse_args()
    rows = sampled(held_out_rows(options.data, limits=LIMITS))
    folder = cache_dir() / "ideas"
    alone = answers_alone(rows, folder / "alone.npy") if options.second_view else None
    of = Readings(rows, pooled(rows, folder / "states.npz"), alone)
    table: dict[str, dict[str, float]] = {}
    for name, scores, harmless in orders(of):
        table[name] = figures(of, scores, harmless)
        if len(table) == 1:
            print(f"| idea | {' | '.join(table[name])} |")
            print(f"| --- |{' --- |' * len(table[name])}")
        print(f"| {name} | {' | '.join(f'{v:.3f}' for v in table[name].values())} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
