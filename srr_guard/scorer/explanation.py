"""Which words of an answer, and of a request, made a score what it is.

The probes are linear in the mean of the tokens' states, so that each token's share of a logit is
exact: the shares and the intercept add up to it. But states carry what was read before: a harmful
sentence colours those behind it. What a sentence does is seen by reading the answer without it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from srr_guard.characters import plain_characters
from srr_guard.conversation import Conversation
from srr_guard.errors import ConfigurationError, InvalidInputError
from srr_guard.reference.template import candidate_text

if TYPE_CHECKING:
    from torch import Tensor

    from srr_guard.reference.features import FeatureSpec
    from srr_guard.reference.model import ReferenceLLM
    from srr_guard.scorer.head import Probe, SRRHead

_READ_AGAIN = 16
"""Most sentences that an answer is read without."""

_SENTENCE = re.compile(
    r"(?:\s*\d+[.)]\s)?.+?"  # the number of a list's item is no sentence
    r"(?:[.!?\u061f\u0964]+[\"')\]]*(?=\s|$)|[\u3002\uff01\uff1f]+[\u300d\u300f\u201d]?|\n+|$)",
    re.DOTALL,
)
"""Marks of Arabic, Hindi and Chinese end a sentence too; the last need no space behind them."""


class Share(BaseModel):
    """A part of a text and its share of a logit.

    Attributes:
        text: The part.
        start: Where it begins in the text explained.
        end: Where it ends.
        value: Its share; positive shares raise the logit.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    start: int
    end: int
    value: float


class ProbeShares(BaseModel):
    """One probe's logit, taken apart.

    Attributes:
        text: The text that was read.
        logit: The probe's logit; the sum of `tokens`, `rest` and `intercept`.
        intercept: What it is for a text of average states.
        rest: Share of what is no token of the text: the state before the answer begins.
        tokens: Share of each token, in order; tokens of one character are one part.
        sentences: The same, added up over sentences.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    logit: float
    intercept: float
    rest: float = 0.0
    tokens: tuple[Share, ...]
    sentences: tuple[Share, ...]

    @property
    def lowest(self) -> Share:
        """The sentence that lowers the logit most."""
        return min(self.sentences, key=lambda share: share.value)

    @property
    def highest(self) -> Share:
        """The sentence that raises the logit most."""
        return max(self.sentences, key=lambda share: share.value)


class Explanation(BaseModel):
    """A score, taken apart. It holds the texts: do not let it leave your servers.

    Attributes:
        p_safe: Calibrated probability that the answer does no harm.
        effects: Effect of each sentence on the log-odds of `p_safe`: with it, less without it.
            Of an answer longer than a window those of the worst window, on its text alone; of
            more than 16 sentences those with the lowest shares; empty for a single sentence.
        harmless: The probe that `p_safe` mostly comes from.
        answers: The probe that tells an answer from a refusal; None if the scorer has none.
        harmful_request: The probe that reads the latest turn of the request; likewise. `p_safe`
            is lower where an answer does what this one says to decline.

    Example:
        >>> from srr_guard import SRRScorer
        >>> explanation = SRRScorer.from_pretrained().explain(
        ...     "How do I keep basil alive?", "Water it. Then put poison into your neighbour's tea."
        ... )
        >>> explanation.worst.text
        "Then put poison into your neighbour's tea."
    """

    model_config = ConfigDict(frozen=True)

    p_safe: float
    effects: tuple[Share, ...] = ()
    harmless: ProbeShares
    answers: ProbeShares | None = None
    harmful_request: ProbeShares | None = None

    @property
    def worst(self) -> Share:
        """The sentence that speaks most against the answer: the one with the lowest effect."""
        return min(self.effects, key=lambda e: e.value, default=self.harmless.lowest)

    def _read(self) -> tuple[str, Sequence[Share]]:
        """The text, and the sentences of the window that counts."""
        shares = self.harmless
        begin, end = shares.tokens[0].start, shares.tokens[-1].end
        return shares.text, [s for s in shares.sentences if s.end > begin and s.start < end]

    def with_effects(self, p_safe: Callable[[Sequence[str]], Sequence[float]]) -> Explanation:
        """Add the effect of each sentence.

        Args:
            p_safe: Scores other answers to the same conversation.
        """
        text, sentences = self._read()
        if len(sentences) < 2:
            return self
        begin, end = sentences[0].start, sentences[-1].end
        lowest = sorted(sentences, key=lambda s: s.value)[:_READ_AGAIN]
        without = [text[begin : s.start] + text[s.end : end] for s in lowest]
        whole, *others = map(_log_odds, p_safe([text[begin:end], *without]))
        effects = sorted(
            (
                sentence.model_copy(update={"value": whole - other})
                for sentence, other in zip(lowest, others, strict=True)
            ),
            key=lambda effect: effect.start,
        )
        return self.model_copy(update={"effects": tuple(effects)})


def explain(
    llm: ReferenceLLM,
    head: SRRHead,
    spec: FeatureSpec,
    conversation: Conversation,
    candidate: str,
) -> Explanation:
    """Take a score apart; on the host's thread only.

    Of a long answer `harmless` shows the window that counts, the worst one.

    Raises:
        InvalidInputError: The answer has no text.
        ConfigurationError: The scorer has no probes (the published, listwise design), or the
            tokenizer does not tell where its tokens are.
    """
    import torch

    from srr_guard.scorer.head import Probes

    if not head.config.pointwise:
        raise ConfigurationError(
            "this scorer ranks listwise, without probes that could be taken apart: explain with "
            "one of the default design"
        )
    candidate = plain_characters(candidate)
    text = candidate_text(candidate)
    spans = llm.template.candidate_spans(candidate)
    if not spans:
        raise InvalidInputError("the answer has no text to explain: give a text")
    with torch.inference_mode():
        prompt, prompt_states, windows = llm.token_states(conversation, candidate, spec)
        starts = _starts([window.shape[1] for window in windows], len(spans), spec.overlap)
        each = [_of_window(head.harmless, window, head.config.poolings) for window in windows]
        bias = float(head.harmless.linear.bias)
        worst = min(range(len(each)), key=lambda i: float(each[i].sum()))
        place = slice(starts[worst], starts[worst] + len(each[worst]))
        harmless = _described(text, spans[place], each[worst], bias)
        answers = request = None
        if head.config.graded:
            total = torch.zeros(len(spans))
            for start, window in zip(starts, windows, strict=True):
                shares = _of_window(head.answers, window, head.config.poolings)
                total[start : start + len(shares)] += shares / len(windows)
            answers = _described(text, spans, total, float(head.answers.linear.bias))
            request = _request(llm, head, conversation, prompt_states, prompt.request)
        logits = [shares.logit if shares else 0.0 for shares in (harmless, answers, request)]
        return Explanation(
            p_safe=float(head.calibrated(Probes(*map(torch.tensor, logits)))),
            harmless=harmless,
            answers=answers,
            harmful_request=request,
        )


def _log_odds(p: float) -> float:
    p = min(max(p, 1e-6), 1 - 1e-6)
    return math.log(p / (1 - p))


def _of_window(probe: Probe, window: Tensor, poolings: Sequence[str]) -> Tensor:
    """(T,) shares of a window's tokens; the last one has those of its own state too."""
    pooled = [window if pooling == "mean" else window[:, -1:] for pooling in poolings]
    total = window.new_zeros(window.shape[1])
    for shares in _shares(probe, pooled):
        total[-len(shares) :] += shares
    return total


def _request(
    llm: ReferenceLLM, head: SRRHead, conversation: Conversation, states: Tensor, place: range
) -> ProbeShares:
    """The request's probe: the last state before the answer, and the mean of the latest turn."""
    pooled = [states[:, -1:], states[:, place.start : place.stop]]
    before, shares = _shares(head.harmful_request, pooled)
    text = candidate_text(plain_characters(conversation.turns[-1].text))
    spans = llm.template.candidate_spans(text)
    if len(spans) != len(shares):  # a prompt that was shortened: only its sum is known
        spans, shares = [(0, len(text))], shares.sum()[None]
    bias = float(head.harmful_request.linear.bias)
    return _described(text, spans, shares, bias, rest=float(before.sum()))


def _shares(probe: Probe, pooled: Sequence[Tensor]) -> list[Tensor]:
    """Each state's share of a probe's logit.

    Args:
        probe: A linear probe on standardised means, one after another.
        pooled: (D, T, d) each: the states of each mean.

    Returns:
        (T,) for each mean. An input that the probe limits is limited for all of its tokens alike.
    """
    import torch

    rows = [states.permute(1, 0, 2).flatten(1) for states in pooled]  # (T, D * d) each
    raw = (torch.cat([row.mean(dim=0) for row in rows]) - probe.offset) / probe.scale
    kept = torch.where(raw.abs() > 8, 8 / raw.abs(), torch.ones_like(raw))
    weight = probe.linear.weight[0] * kept / probe.scale
    widths = [row.shape[1] for row in rows]
    offsets, weights = torch.split(probe.offset, widths), torch.split(weight, widths)
    parts = zip(rows, offsets, weights, strict=True)
    return [((row - offset) @ part) / len(row) for row, offset, part in parts]


def _starts(lengths: Sequence[int], tokens: int, overlap: int) -> list[int]:
    """Where each window begins."""
    starts = [0]
    for length in lengths[:-1]:
        starts.append(starts[-1] + length - overlap)
    return [
        min(start, max(tokens - length, 0)) for start, length in zip(starts, lengths, strict=True)
    ]


def _described(
    text: str,
    spans: Sequence[tuple[int, int]],
    shares: Tensor,
    intercept: float,
    *,
    rest: float = 0.0,
) -> ProbeShares:
    """Words and sentences with their shares."""
    merged: list[tuple[int, int, float]] = []
    for (start, end), value in zip(spans, shares.tolist(), strict=True):
        if merged and start < merged[-1][1]:  # several tokens of one character
            begin, stop, so_far = merged[-1]
            merged[-1] = (begin, max(stop, end), so_far + value)
        else:
            merged.append((start, end, value))
    sentences = _places(text)
    sums = [0.0] * len(sentences)
    for start, _, value in merged:
        inside = next((i for i, (_, stop) in enumerate(sentences) if start < stop), -1)
        sums[inside] += value
    return ProbeShares(
        text=text,
        logit=sum(value for *_, value in merged) + intercept + rest,
        intercept=intercept,
        rest=rest,
        tokens=tuple(Share(text=text[a:b], start=a, end=b, value=v) for a, b, v in merged),
        sentences=tuple(
            _sentence(text, a, b, v) for (a, b), v in zip(sentences, sums, strict=True)
        ),
    )


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, as explanations part it."""
    return [text[start:end].strip() for start, end in _places(text)]


def _places(text: str) -> list[tuple[int, int]]:
    found = _SENTENCE.finditer(text)
    return [(match.start(), match.end()) for match in found if match.group().strip()]


def _sentence(text: str, start: int, end: int, value: float) -> Share:
    found = text[start:end]
    start += len(found) - len(found.lstrip())
    return Share(text=found.strip(), start=start, end=start + len(found.strip()), value=value)
