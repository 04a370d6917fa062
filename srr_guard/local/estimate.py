"""Estimates what the recipes need to know of a model: how it refuses, and along which direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from srr_guard.conversation import Conversation
from srr_guard.errors import ConfigurationError
from srr_guard.local.recipes.refusal_start import TriggerTable
from srr_guard.local.recipes.steering import RefusalVectors, last_states, steered_blocks
from srr_guard.local.recipes.tables import Fits
from srr_guard.local.requests import Answer, Answers, GenerationOptions, GenerationRequest
from srr_guard.local.worker import sample_batch, text_generator
from srr_guard.protocols import ResponseScorer
from srr_guard.reference.host import host
from srr_guard.reference.spec import ModelSpec
from srr_guard.reference.weights import decoder_blocks

_REFUSAL, _HARMLESS = 0.95, 0.9
"""Probabilities from which an answer counts as a refusal: that it is one, and does no harm."""

_BATCH = 4
"""Requests that are sampled in one batch."""


def estimate_triggers(
    spec: ModelSpec,
    goals: Sequence[str],
    scorer: ResponseScorer,
    *,
    samples: int = 4,
    max_new_tokens: int = 40,
    temperature: float = 0.7,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> TriggerTable:
    """Count how a model's own refusals begin.

    An answer counts as a refusal where the scorer is sure of it (`p_refusal` over 0.95, `p_safe`
    over 0.9): a small model's answers wander, and at 0.5 most that count are no refusals.

    Args:
        spec: The model.
        goals: Harmful requests.
        scorer: Tells refusals; it must give `p_refusal`.
        samples: Answers for each request.
        max_new_tokens: Most tokens of each.
        temperature: How they are sampled.
        seed: Equal seeds give equal tables.
        progress: Receives the number of requests that were just done.

    Raises:
        ConfigurationError: The scorer gives no `p_refusal`, or no answer is a refusal.
        ReferenceModelError: The model cannot be found or loaded.
    """
    refusals: list[tuple[int, ...]] = []
    for start in range(0, len(goals), _BATCH):
        batch = goals[start : start + _BATCH]
        requests = [
            GenerationRequest(
                conversation=Conversation.of(goal),
                options=GenerationOptions(
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    top_p=0.9,
                    seed=seed + start + k,
                ),
                n=samples,
            )
            for k, goal in enumerate(batch)
        ]
        for request, answers in zip(requests, sample_batch(spec, requests), strict=True):
            refusals += _refusals(request.conversation, answers, scorer)
        progress(len(batch))

    def count() -> TriggerTable:
        generator = text_generator(spec)
        return TriggerTable.count(
            refusals, fits=_fits(spec), sampled=len(goals) * samples, drop=generator.ends
        )

    return host.submit(count).result()


def estimate_vectors(
    spec: ModelSpec, harmful: Sequence[str], benign: Sequence[str]
) -> RefusalVectors:
    """Find the directions from benign to harmful requests in a model's middle blocks.

    Args:
        spec: The model.
        harmful: Harmful requests.
        benign: Benign ones that are worded alike, so that the direction is not one of style.

    Raises:
        ConfigurationError: One of the two is empty.
        ReferenceModelError: The model cannot be found or loaded.
    """
    if not harmful or not benign:
        raise ConfigurationError(
            f"refusal vectors need requests of both kinds; there are {len(harmful)} harmful and "
            f"{len(benign)} benign ones"
        )

    def find() -> RefusalVectors:
        template, model = text_generator(spec).template, host.model(spec).module
        layers = decoder_blocks(model)
        blocks = steered_blocks(len(layers))
        states = [
            last_states(
                model,
                layers,
                [template.prompt(Conversation.of(text), limit=1024).ids for text in texts],
                blocks,
            )
            for texts in (harmful, benign)
        ]
        return RefusalVectors.between(*states, blocks=blocks, fits=_fits(spec))

    return host.submit_long(find).result()


def _fits(spec: ModelSpec) -> Fits:
    return Fits(host.model(spec).source.digest(), text_generator(spec).template.digest)


def _refusals(
    conversation: Conversation, answers: Answers, scorer: ResponseScorer
) -> list[tuple[int, ...]]:
    """Token ids of those answers that are refusals."""
    written: list[Answer] = [answer for answer in answers.answers if answer.text.strip()]
    if not written:
        return []
    ranking = scorer.score(conversation, [answer.text for answer in written])
    if ranking.p_refusal is None:
        raise ConfigurationError(
            f"{type(scorer).__name__} gives no p_refusal, so it cannot tell refusals: take the "
            "shipped scorer"
        )
    return [
        answer.ids
        for answer, safe, refused in zip(written, ranking.p_safe, ranking.p_refusal, strict=True)
        if safe > _HARMLESS and refused > _REFUSAL
    ]
