"""`SRRHead`: the published listwise design, and a pointwise path beside or instead of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from srr_guard.scorer.config import HeadConfig


@dataclass(frozen=True, eq=False)
class HeadOutput:
    """What the head says of B lists of m candidates.

    Attributes:
        scores: (B, m) listwise scores, comparable within a list; -inf for padding.
        harmless: (B, m) logit of p(harmless), of each candidate by itself, uncalibrated.
        p_safe: (B, m) calibrated probability.
        help: (B, m) logit of p(help), that it helps where help is due; zeros without a
            pointwise path.
    """

    scores: Tensor
    harmless: Tensor
    p_safe: Tensor
    help: Tensor


class SRRHead(nn.Module):
    """Scores candidates from hidden states.

    Listwise (Safety Representation Ranking, arXiv 2505.15710, section 3): one shared linear
    projection d -> p, one Transformer encoder block over [instruction, candidate 1..m]
    without positional encoding, s_i = cos(o_instruction, o_i) / tau.

    Pointwise: standardised states, two logistic regressions: p(harmless), and p(help), that it
    helps where help is due; s_i = log p(harmless) + log(1 + w p(help)).

    With both, the two scores are added. `p_safe` never depends on the other candidates:
    without a pointwise path it comes from the listwise score of a list of one.

    Example:
        >>> config = HeadConfig.preset("published", width=16, blocks=8)
        >>> head = SRRHead(config).eval()
        >>> states = {"last": torch.randn(1, 3, 1, 16)}
        >>> head(states, torch.randn(1, 3, 1, 16)).scores.shape
        torch.Size([1, 3])
    """

    offset: Tensor
    scale: Tensor
    calibration: Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        if config.pointwise:
            self.register_buffer("offset", torch.zeros(config.inputs))
            self.register_buffer("scale", torch.ones(config.inputs))
            self.harmless = nn.Linear(config.inputs, 1)
            self.help = nn.Linear(config.inputs, 1)
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

    def forward(
        self,
        states: dict[str, Tensor],
        instruction: Tensor,
        mask: Tensor | None = None,
    ) -> HeadOutput:
        """Score B lists of m candidates.

        Args:
            states: `mean` and `last`, each (B, m, D, d), as far as the config's poolings name
                them. D are the config's depths.
            instruction: (B, m, D, d): the prompt's last token, beside each candidate; the
                listwise block takes their mean over the list.
            mask: (B, m), True for candidates, False for padding; None: no padding.
        """
        harmless, help_ = self.pointwise_logits(states, instruction)
        scores = torch.zeros_like(harmless)
        if self.config.pointwise:
            scores = self.relevance(harmless, help_)
        if self.config.listwise:
            scores = scores + self.listwise_scores(states, instruction, mask)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return HeadOutput(scores, harmless, self.calibrated(harmless), help_)

    def pointwise_logits(
        self, states: dict[str, Tensor], instruction: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits of p(harmless) and p(help), (B, m) each, of every candidate by itself."""
        if self.config.pointwise:
            x = self.pointwise_inputs(states, instruction)
            return self.harmless(x).squeeze(-1), self.help(x).squeeze(-1)
        alone = {name: t.flatten(0, 1)[:, None] for name, t in states.items()}
        harmless = self.listwise_scores(alone, instruction.flatten(0, 1)[:, None])
        harmless = harmless.view(instruction.shape[:2])
        return harmless, torch.zeros_like(harmless)

    def listwise_scores(
        self, states: dict[str, Tensor], instruction: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Cosines over tau, (B, m), of candidates among the others of their list."""
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

    def calibrated(self, harmless: Tensor) -> Tensor:
        """Turn logits into calibrated probabilities (Platt scaling)."""
        slope, intercept = self.calibration
        return torch.sigmoid(slope * harmless + intercept)

    def relevance(self, harmless: Tensor, help_: Tensor) -> Tensor:
        """Join the two pointwise logits: log p(harmless) + log(1 + w p(help))."""
        slope, intercept = self.calibration
        bonus = torch.log1p(self.config.help_weight * torch.sigmoid(help_))
        return functional.logsigmoid(slope * harmless + intercept) + bonus

    def pointwise_inputs(self, states: dict[str, Tensor], instruction: Tensor) -> Tensor:
        """Standardised numbers that describe each candidate: (..., inputs)."""
        parts = {**states, "instruction": instruction}
        x = torch.cat([parts[p].flatten(-2) for p in self.config.poolings], dim=-1)
        return ((x - self.offset) / self.scale).clamp(-8, 8)
