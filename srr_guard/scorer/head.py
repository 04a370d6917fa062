"""`SRRHead`: the published listwise design, and pointwise probes beside or instead of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from srr_guard.scorer.config import HeadConfig
from srr_guard.scorer.familiarity import Familiarity

States = Mapping[str, Tensor]
"""Hidden states of candidates: `mean` and `last` over their tokens, `instruction` and `request`
of their prompt (see `Features`), as far as the head's design names them."""


@dataclass(frozen=True, eq=False)
class Probes:
    """Logits of the pointwise probes, each candidate by itself.

    Attributes:
        harmless: (...) logit of p(harmless), uncalibrated.
        answers: (...) logit of p(answers): it does what was asked, well or ill, and is no
            refusal. Zeros where the design is not graded.
        harmful_request: (...) logit of the request being one to decline. Zeros likewise.
    """

    harmless: Tensor
    answers: Tensor
    harmful_request: Tensor

    @property
    def p_refusal(self) -> Tensor:
        """(...) probability that this is a refusal."""
        return torch.sigmoid(-self.answers)

    @property
    def p_help(self) -> Tensor:
        """(...) probability that help is due and that this is help."""
        return torch.sigmoid(-self.harmful_request) * torch.sigmoid(self.answers)

    @property
    def compliance(self) -> Tensor:
        """(...) how likely this gives what should be declined: s(q) (1 + s(a)) / 2, in [0, 1].

        A refusal counts half, so that refusals beside harm do not hide it.
        """
        return torch.sigmoid(self.harmful_request) * (1 + torch.sigmoid(self.answers)) / 2

    def __getitem__(self, index: Any) -> Probes:
        return Probes(self.harmless[index], self.answers[index], self.harmful_request[index])


@dataclass(frozen=True, eq=False)
class HeadOutput:
    """The head's output for B lists of m candidates.

    Attributes:
        scores: (B, m) listwise scores, comparable within a list; -inf for padding.
        p_safe: (B, m) calibrated probability that a candidate does no harm.
        probes: (B, m) each, what the scores are made of.
    """

    scores: Tensor
    p_safe: Tensor
    probes: Probes


class SRRHead(nn.Module):
    """Scores candidates from hidden states.

    Listwise (Safety Representation Ranking, arXiv 2505.15710, section 3): one shared linear
    projection d -> p, one Transformer encoder block over [instruction, candidate 1..m]
    without positional encoding, s_i = cos(o_instruction, o_i) / tau.

    Pointwise: a linear probe on standardised states, p(harmless). A graded head has two
    more, p(answers) of the candidate and p(harmful) of the request, and its score is the
    logarithm of the relevance that is to be expected (`relevance`), in view of what all answers
    of the list say about the request (`request_in_view_of`).

    With both, the two scores are added. `p_safe` never depends on the other candidates:
    without a pointwise path it comes from the listwise score of a list of one. A graded head's
    is lower where an answer complies with a harmful request (`calibrated`).

    Example:
        >>> config = HeadConfig.preset("published", width=16, blocks=8)
        >>> head = SRRHead(config).eval()
        >>> states = {name: torch.randn(1, 3, 1, 16) for name in ("last", "instruction")}
        >>> head(states).scores.shape
        torch.Size([1, 3])

    Attributes:
        config: The design.
        bounds: What `p_safe` says hold and pass, where fitted; kept in the bundle's description.
    """

    calibration: Tensor
    compliance: Tensor
    bounds: tuple[float, float] | None = None

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        if config.pointwise:
            self.harmless = Probe(config.inputs)
        if config.graded:
            self.answers = Probe(config.inputs)
            self.harmful_request = Probe(config.request_inputs)
        if config.familiar:
            self.familiarity = Familiarity(config.request_inputs, config.familiar)
        if config.listwise:
            size = config.width * len(config.depths)
            self.projection = nn.Linear(size, config.projection)
            self.block = nn.TransformerEncoderLayer(
                config.projection,
                config.heads,
                config.feedforward,
                dropout=config.dropout,
                batch_first=True,
            )
        # slope and intercept of Platt scaling
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))
        # what compliance with a harmful request takes from the logit of p(harmless)
        self.register_buffer("compliance", torch.tensor(0.0))

    def forward(self, states: States, mask: Tensor | None = None) -> HeadOutput:
        """Score B lists of m candidates.

        Args:
            states: (B, m, D, d) each. D are the config's depths; the listwise block takes the
                mean of `instruction` over the list.
            mask: (B, m), True for candidates, False for padding; None: no padding.
        """
        probes = self.probe(states)
        scores = torch.zeros_like(probes.harmless)
        if self.config.pointwise:
            scores = self.relevance(probes, mask)
        if self.config.listwise:
            scores = scores + self.listwise_scores(states, mask)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return HeadOutput(scores, self.calibrated(probes), probes)

    def probe(self, states: States) -> Probes:
        """Judge every candidate by itself; states are (B, m, D, d)."""
        if not self.config.pointwise:
            alone = {name: t.flatten(0, 1)[:, None] for name, t in states.items()}
            harmless = self.listwise_scores(alone).view(states["instruction"].shape[:2])
            return Probes(harmless, torch.zeros_like(harmless), torch.zeros_like(harmless))
        x = self.candidate_inputs(states)
        harmless = self.harmless(x)
        if not self.config.graded:
            return Probes(harmless, torch.zeros_like(harmless), torch.zeros_like(harmless))
        request = self.harmful_request(self.request_inputs(states))
        return Probes(harmless, self.answers(x), request)

    def relevance(self, probes: Probes, mask: Tensor | None = None) -> Tensor:
        """Logarithm of the expected relevance, (..., m), or the harmless logit if not graded.

        A harmful request (probability q): a harmless answer is worth 1, harm 0. A benign one:
        real help is worth 1, a refusal `refusal_worth`, harm 0. So

            q s(h - c a) + (1 - q) (r + (1 - r) s(a)) s(h + l)

        with s the logistic function, h and a the logits of p(harmless) and p(answers), r the
        `refusal_worth`. The same states leave the reader in more doubt the more is at stake:
        `caution` c and `leniency` l shift h by what is asked.

        Args:
            probes: (..., m) each, of lists of m candidates.
            mask: (..., m), True for candidates, False for padding; None: no padding.
        """
        if not self.config.graded:
            return probes.harmless
        config, log_sigmoid = self.config, _log_sigmoid
        request = self.request_in_view_of(probes, mask)
        answers = torch.sigmoid(probes.answers)
        worth = config.refusal_worth + (1 - config.refusal_worth) * answers
        harmful = log_sigmoid(request) + log_sigmoid(
            probes.harmless - config.caution * probes.answers
        )
        benign = (
            log_sigmoid(-request)
            + worth.clamp(min=1e-12).log()
            + log_sigmoid(probes.harmless + config.leniency)
        )
        return torch.logaddexp(harmful, benign)

    def request_in_view_of(self, probes: Probes, mask: Tensor | None = None) -> Tensor:
        """Logit of the request being harmful, (..., m), in view of a list's answers.

        Only a harmful request has harmful answers, and they are told from others more surely
        than an unfamiliar request is. Every answer that is no refusal is evidence:

            q - e sum_i s(a_i) (h_i - h0)

        with e the config's `evidence` and h0 its `expected_harmless`.

        Args:
            probes: (..., m) each, of lists of m candidates.
            mask: (..., m), True for candidates, False for padding; None: no padding.
        """
        config = self.config
        if not config.evidence:
            return probes.harmful_request
        each = torch.sigmoid(probes.answers) * (probes.harmless - config.expected_harmless)
        if mask is not None:
            each = each.masked_fill(~mask, 0.0)
        return probes.harmful_request - config.evidence * each.sum(-1, keepdim=True)

    def listwise_scores(self, states: States, mask: Tensor | None = None) -> Tensor:
        """Cosines over tau, (B, m), of candidates among the others of their list."""
        instruction = states["instruction"]
        real = torch.ones_like(instruction[:, :, 0, 0]) if mask is None else mask.float()
        shared = torch.einsum("bm,bmkd->bkd", real, instruction) / real.sum(1)[:, None, None]
        candidates = states["last" if "last" in self.config.poolings else "mean"]
        tokens = torch.cat([shared[:, None], candidates], dim=1).flatten(-2)
        padding = None
        if mask is not None:
            padding = torch.cat([torch.zeros_like(mask[:, :1]), ~mask], dim=1)
        out = self.block(self.projection(tokens), src_key_padding_mask=padding)
        cosine = functional.cosine_similarity(out[:, :1], out[:, 1:], dim=-1)
        return cosine / self.config.temperature

    def calibrated(self, probes: Probes) -> Tensor:
        """Calibrated probabilities of no harm, (...): Platt scaling of `safety`."""
        slope, intercept = self.calibration
        return torch.sigmoid(slope * self.safety(probes) + intercept)

    def safety(self, probes: Probes) -> Tensor:
        """Logit behind `p_safe`, uncalibrated, (...): h - c s(q) (1 + s(a)) / 2.

        Where what is asked should be declined (q), an answer, and most of all one that does it
        (a), is less likely to be harmless than its own words say (h). c is the head's
        `compliance`, never negative and fitted with the calibration; 0 where the design is not
        graded.
        """
        return probes.harmless - self.compliance * probes.compliance

    def candidate_inputs(self, states: States) -> Tensor:
        """Numbers that describe each candidate: (..., inputs)."""
        return torch.cat([states[p].flatten(-2) for p in self.config.poolings], dim=-1)

    def request_inputs(self, states: States) -> Tensor:
        """Numbers that describe each candidate's request: (..., request_inputs)."""
        return torch.cat([states[p].flatten(-2) for p in ("instruction", "request")], dim=-1)


def _log_sigmoid(x: Tensor) -> Tensor:
    """Like `functional.logsigmoid`, which takes 30 times as long for few numbers."""
    return -functional.softplus(-x)


class Probe(nn.Module):
    """A linear probe on standardised inputs: its logit."""

    offset: Tensor
    scale: Tensor

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.linear = nn.Linear(inputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (...) of inputs (..., k)."""
        logits: Tensor = self.linear(self.standardised(x)).squeeze(-1)
        return logits

    def standardised(self, x: Tensor) -> Tensor:
        """Inputs (..., k) in standard deviations from their mean, within 8 of them."""
        return ((x - self.offset) / self.scale).clamp(-8, 8)
