"""The design of a scoring head, as plain data: reading a bundle needs no torch."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Pooling = Literal["last", "mean", "instruction"]
"""Which hidden states describe a candidate: its last token, the mean over its tokens, or the
prompt's last token (the same for all candidates of a request)."""

Preset = Literal["default", "published", "probe"]

DEFAULT_DEPTHS = (12 / 30, 16 / 30, 20 / 30)
"""Shares of the depth that the default design reads, chosen by leaving whole sources out."""

DEFAULT_EVIDENCE = 1.0
"""Weight of a list's answers as evidence about their request, chosen likewise."""

DEFAULT_DIRECTIONS = 32


class HeadConfig(BaseModel):
    """Design of an `SRRHead`.

    Attributes:
        width: Width d of the reference LLM's hidden states.
        depths: Depths whose states are read, ascending.
        poolings: What is read of a candidate at each of them.
        pointwise: Score each candidate by itself.
        graded: Let help count where help is due; without it a refusal is as good. Needs the
            pointwise path, which then has three probes instead of one.
        listwise: Score candidates against each other: the published Transformer block.
        refusal_worth: On a benign request, worth of a refusal beside real help, which is 1.
        leniency: Added to the logit of p(harmless) where the request is benign.
        caution: Taken from it, times the logit of p(answers), where the request is harmful.
        evidence: How much the answers of a list say about their request (see
            `SRRHead.request_in_view_of`): weight of each one's logit of p(harmless).
        expected_harmless: That logit of an answer that says nothing about its request.
        familiar: Directions in which requests are compared with those of the training (see
            `Familiarity`); 0: they are not.
        projection: Width p inside the listwise block.
        heads: Attention heads of the listwise block.
        feedforward: Width of its feed-forward layer.
        dropout: Dropout probability inside it.
        temperature: tau, what cosines are divided by.

    Example:
        >>> HeadConfig.preset("published", width=576, blocks=30).depths
        (8,)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(ge=1)
    depths: tuple[int, ...] = Field(min_length=1)
    poolings: tuple[Pooling, ...] = Field(min_length=1)
    pointwise: bool
    graded: bool = False
    listwise: bool
    refusal_worth: float = Field(default=0.1, ge=0.0, le=1.0)
    leniency: float = 2.0
    caution: float = Field(default=0.25, ge=0.0)
    evidence: float = Field(default=0.0, ge=0.0)
    expected_harmless: float = 1.0
    familiar: int = Field(default=0, ge=0)
    projection: int = Field(default=128, ge=1)
    heads: int = Field(default=4, ge=1)
    feedforward: int = Field(default=512, ge=1)
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    temperature: float = Field(default=0.1, gt=0.0)

    @classmethod
    def preset(cls, preset: Preset, *, width: int, blocks: int) -> Self:
        """A design by name, for a reference LLM of any size.

        - `default`: the head that ships; pointwise and graded, several depths, mean over the
          response.
        - `published`: arXiv 2505.15710: last token at a quarter of the depth, listwise only.
          What the paper leaves open (tau, projection) has this class's defaults.
        - `probe`: a linear probe on the last token, the baseline beside every result.

        Args:
            preset: The name.
            width: Width of the reference LLM's hidden states.
            blocks: How many decoder blocks it has.
        """
        quarter = (math.ceil(blocks / 4),)
        if preset == "published":
            return cls(
                width=width, depths=quarter, poolings=("last",), pointwise=False, listwise=True
            )
        if preset == "probe":
            return cls(
                width=width, depths=quarter, poolings=("last",), pointwise=True, listwise=False
            )
        return cls(
            width=width,
            depths=tuple(sorted({max(1, round(blocks * share)) for share in DEFAULT_DEPTHS})),
            poolings=("mean",),
            pointwise=True,
            graded=True,
            listwise=False,
            evidence=DEFAULT_EVIDENCE,
            familiar=DEFAULT_DIRECTIONS,
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.pointwise or self.listwise):
            raise ValueError("a head needs its pointwise path, its listwise block or both")
        if self.graded and not self.pointwise:
            raise ValueError("graded=True needs pointwise=True: its probes are pointwise")
        if list(self.depths) != sorted(set(self.depths)) or self.depths[0] < 1:
            raise ValueError(f"depths={self.depths!r} must ascend from 1 or more, without repeats")
        if self.projection % self.heads:
            raise ValueError(f"projection={self.projection} is no multiple of heads={self.heads}")
        return self

    @property
    def inputs(self) -> int:
        """Numbers that describe one candidate."""
        return self.width * len(self.depths) * len(self.poolings)

    @property
    def request_inputs(self) -> int:
        """Numbers that describe one request: two states at each depth."""
        return self.width * len(self.depths) * 2
