"""Recipes: how one candidate is made. A plan is a tuple of them, taken in turn."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer

from srr_guard.settings import Settings


class Plain(Settings):
    """A candidate as the model gives it, with settings of its own.

    Attributes:
        temperature: In place of the model's own.
        system_prompt: A system prompt for this candidate, as in `SamplingPolicy.system_prompts`.
        seed: In place of the model's own.

    Example:
        >>> Plain(temperature=1.0).kind
        'plain'
    """

    kind: Literal["plain"] = "plain"
    temperature: float | None = Field(default=None, ge=0.0)
    system_prompt: str | None = Field(default=None, min_length=1)
    seed: int | None = Field(default=None, ge=0)


class RefusalStart(Settings):
    """A candidate that begins as the model's own refusals begin (D-STT, arXiv 2505.07167).

    Attributes:
        depth: Tokens that are forced, 1 to 4.
        strength: Share l in [0, 1] of the refusals' distribution in the first token's:
            (1 - l) p_model + l p_refusal. Below 1 only the first token is mixed.
        triggers: A table written by `srr-guard triggers`; None takes the one that is shipped
            for the model.

    Example:
        >>> RefusalStart(depth=2).strength
        1.0
    """

    kind: Literal["refusal_start"] = "refusal_start"
    depth: int = Field(default=1, ge=1, le=4)
    strength: float = Field(default=1.0, ge=0.0, le=1.0)
    triggers: str | None = Field(default=None, min_length=1)


class ReversePrompt(Settings):
    """A candidate whose tokens a prompt for harm makes less likely (ROSE, arXiv 2402.11889).

    Attributes:
        alpha: Weight of the reversed prompt's logits, in [0, 1).
        plausible: Tokens less likely than this share of the likeliest one, under the prompt
            that asks for safety, are never taken, in [0, 1].
        positive: The system prompt that asks for safety; None takes the written one.
        reverse: The system prompt that asks for harm; None takes the written one. It never
            reaches the model that answers but as the branch that is subtracted.

    Example:
        >>> ReversePrompt(alpha=0.3).plausible
        0.1
    """

    kind: Literal["reverse_prompt"] = "reverse_prompt"
    alpha: float = Field(default=0.3, ge=0.0, lt=1.0)
    plausible: float = Field(default=0.1, ge=0.0, le=1.0)
    positive: str | None = Field(default=None, min_length=1)
    reverse: str | None = Field(default=None, min_length=1)


class Steered(Settings):
    """A candidate whose hidden states are moved along the refusal vectors (SCANS, 2408.11491).

    Attributes:
        strength: Length of the step as a share of the residual stream's norm, in [-0.5, 0.5];
            below 0 it leads away from refusals.
        vectors: A file written by `srr-guard vectors`; None takes the one that is shipped for
            the model.

    Example:
        >>> Steered(strength=0.2).kind
        'steered'
    """

    kind: Literal["steered"] = "steered"
    strength: float = Field(default=0.2, ge=-0.5, le=0.5)
    vectors: str | None = Field(default=None, min_length=1)


class SoftPrompt(Settings):
    """A candidate under a trained system prompt of vectors (DRO, arXiv 2401.18018).

    Attributes:
        file: A safetensors file with the prompt's vectors, bound to a model and its chat template.
            Trained by `srr-guard soft-prompt train`.

    Example:
        >>> SoftPrompt(file="prompt.safetensors").kind
        'soft_prompt'
    """

    kind: Literal["soft_prompt"] = "soft_prompt"
    file: str = Field(min_length=1)


class Stepwise(Settings):
    """A candidate that is searched for step by step (after STAIR, arXiv 2502.02384).

    After each step the scorer reads all beginnings, and the best are gone on with. One such
    candidate costs as many tokens as `beams * continuations` plain ones. It needs a
    `LocalChatModel` of the scorer's reference LLM that is called in batches.

    Attributes:
        beams: Beginnings that are kept after each step.
        continuations: Ways in which each of them is gone on with.
        step_tokens: Tokens of a step.
        from_key_sentence: Answers that begin with reasoning share its opening, up to the key
            sentence: the one after the request was restated (SafeKey, arXiv 2505.16186). All
            branches begin there.

    Example:
        >>> Stepwise(beams=2, continuations=4).step_tokens
        16
    """

    kind: Literal["stepwise"] = "stepwise"
    beams: int = Field(default=2, ge=1, le=16)
    continuations: int = Field(default=4, ge=1, le=16)
    step_tokens: int = Field(default=16, ge=2)
    from_key_sentence: bool = False


Recipe = Annotated[
    Plain | RefusalStart | ReversePrompt | Steered | SoftPrompt | Stepwise,
    Field(discriminator="kind"),
]
"""Any recipe; in JSON `kind` tells which."""


def _as_json(plan: tuple[Any, ...] | None) -> list[dict[str, Any]] | None:
    """Each recipe with its kind and what differs from the defaults."""
    if plan is None:
        return None
    return [{"kind": r.kind, **r.model_dump(mode="json", exclude_defaults=True)} for r in plan]


Plan = Annotated[
    Annotated[tuple[Recipe, ...], Field(min_length=1)] | None,
    PlainSerializer(_as_json, when_used="json"),
]
"""Recipes that the candidates take in turn; None: plain ones."""
