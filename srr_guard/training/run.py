"""The whole training run: data, features, fit, bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from pydantic import Field

from srr_guard import __version__
from srr_guard.errors import DataError, InvalidInputError
from srr_guard.protocols import ProgressCallback
from srr_guard.reference import ReferenceLLM, resolve_reference
from srr_guard.reference.spec import Device, DType
from srr_guard.reference.weights import model_folder, model_shape
from srr_guard.scorer.bundle import BundleInfo, ScorerBundle
from srr_guard.scorer.config import HeadConfig, Preset
from srr_guard.scorer.fingerprint import Fingerprint
from srr_guard.settings import Settings
from srr_guard.training.data import (
    Data,
    LabelledResponse,
    data_digests,
    data_items,
    read_rows,
    sample_rows,
    split_by_goal,
)
from srr_guard.training.data.augment import augment, cut
from srr_guard.training.data.held_out import refuse_held_out
from srr_guard.training.data.loading import LoadedRecipe
from srr_guard.training.data.near import without_near
from srr_guard.training.evaluation.card import model_card, summarise
from srr_guard.training.evaluation.recipe_summary import with_recipe
from srr_guard.training.feature_store import FeatureStore, feature_space
from srr_guard.training.fit.pointwise import fit_head
from srr_guard.training.progress import silent

PROBE: Preset = "probe"
"""Folder inside a bundle with the baseline trained beside it: a linear probe."""


class TrainingOptions(Settings):
    """All that decides what a training run gives.

    Attributes:
        preset: Design of the head.
        per_source: Most rows of each source; None: all.
        source_limits: Most rows of the sources named here, in place of that.
        validation_share: Share of the goals kept for validation and calibration.
        cut_share: Share of the responses that are cut at a random length.
        shortest: Least length, in characters, at which a response is cut.
        longest: Most characters of a response that are used.
        augmented: Add synthetic rows (see `augment`).
        source_weights: Weight of each source; 1 where it is not named.
        harmful_sources: Sources whose single requests count as harmful, though no row says so.
        preference_weight: Weight of all pairs of preferences beside all labels, which have 1.
        epochs: Passes over the goals for a listwise block.
        seed: Random seed.

    Raises:
        ConfigurationError: A value is out of range.

    Example:
        >>> TrainingOptions(preset="published").validation_share
        0.2
    """

    preset: Preset = "default"
    per_source: int | None = Field(default=None, ge=1)
    source_limits: Mapping[str, Annotated[int, Field(ge=1)]] = {}
    validation_share: float = Field(default=0.2, gt=0.0, lt=1.0)
    cut_share: float = Field(default=0.35, ge=0.0, le=1.0)
    shortest: int = Field(default=100, ge=1)
    longest: int = Field(default=1200, ge=1)
    augmented: bool = True
    source_weights: Mapping[str, Annotated[float, Field(ge=0.0)]] = {}
    harmful_sources: tuple[str, ...] = ()
    preference_weight: float = Field(default=0.1, ge=0.0)
    epochs: int = Field(default=30, ge=1)
    seed: int = 0


def train(
    data: Data,
    output: str | os.PathLike[str],
    *,
    recipe: LoadedRecipe | None = None,
    apart_from: Data = (),
    options: TrainingOptions | None = None,
    reference: str | os.PathLike[str] | None = None,
    device: Device = "auto",
    dtype: DType = "auto",
    resume: bool = True,
    progress: ProgressCallback = silent,
) -> ScorerBundle:
    """Train a scorer and the linear probe beside it; write both as bundles.

    Features are extracted once and cached; an interrupted run goes on where it stopped.

    Args:
        data: Files, folders or `hf:` names of labelled responses; one of them or several. None
            at all, as `()`, if there is a recipe.
        output: Folder of the new bundle; the probe goes into `probe/` inside it.
        recipe: Rows of public data sets to train on too (see `load_recipe`). Its weights of
            sources hold where the options name none.
        apart_from: Rows that will be measured on, named like `data`. Rows whose request is nearly
            one of theirs are left out (see `NearPrompts`); the card says how many.
        options: All that decides what comes out; None: the defaults.
        reference: The reference LLM (see `resolve_reference`).
        device: Where it runs.
        dtype: Its precision.
        resume: Use the features that earlier runs cached; False: extract all of them anew.
        progress: Receives the progress.

    Raises:
        DataError: The data cannot be read, is a public test set, or has too little variety.
        InvalidInputError: The options name a source that the data does not have.
        ReferenceModelError: The reference LLM cannot be found or loaded.

    Example:
        ```python
        from srr_guard.training import TrainingOptions, train

        options = TrainingOptions(per_source=1000, source_weights={"rows": 0.5})
        bundle = train("rows.jsonl", "my-scorer", options=options)
        ```
    """
    output = Path(output)
    options = options or TrainingOptions()
    data = data_items(data)
    refuse_held_out(data)
    named = {*options.source_limits, *options.source_weights, *options.harmful_sources}
    if recipe is not None:
        weights = {**recipe.weights, **options.source_weights}
        options = options.model_copy(update={"source_weights": weights})
    everything = _all_rows(data, recipe)
    known = {row.source for row in everything} | set(recipe.weights if recipe else ())
    _require_sources(named, known)
    left_out: dict[str, int] = {}
    if measured := data_items(apart_from):
        everything, left_out = without_near(everything, read_rows(measured))
    rows = sample_rows(
        everything,
        per_source=options.per_source,
        limits=options.source_limits,
        seed=options.seed,
    )
    if recipe is not None and options.preset == "default":
        recipe.require_kinds(rows)
    sides = split_by_goal(rows, validation_share=options.validation_share, seed=options.seed)
    training, validation = (prepare(side, options) for side in sides)
    if not training or not validation:
        raise DataError(
            f"{len({row.goal_id for row in rows})} different requests are too few to train and to "
            f"validate on (validation_share={options.validation_share:g}): give more rows"
        )

    source = resolve_reference(reference)
    width, blocks = model_shape(model_folder(source))
    config = HeadConfig.preset(options.preset, width=width, blocks=blocks)
    probe = HeadConfig.preset(PROBE, width=width, blocks=blocks)
    depths = sorted({*config.depths, *probe.depths})
    llm = ReferenceLLM.load(source, depth=max(depths), device=device, dtype=dtype)
    store = FeatureStore(feature_space(llm), depths=depths, resume=resume)
    store.extract([*training, *validation], llm, progress=progress)

    summaries = summarise(rows)
    digests = data_digests(data)
    if recipe is not None:
        summaries = with_recipe(summaries, recipe)
        digests |= recipe.digests
    noted = options.model_dump(mode="json")
    if measured:
        noted["apart_from"] = {"files": data_digests(measured), "left_out": left_out}
    bundles = {}
    for folder, design in ((output / PROBE, probe), (output, config)):
        head = fit_head(
            design,
            store.load(training, depths=design.depths),
            store.load(validation, depths=design.depths),
            seed=options.seed,
            source_weights=options.source_weights,
            harmful_sources=options.harmful_sources,
            preference_weight=options.preference_weight,
            epochs=options.epochs,
            progress=progress,
        )
        name = output.name if folder == output else f"{output.name}/{PROBE}"
        info = BundleInfo(
            name=name,
            head=design,
            reference=llm.name,
            reference_revision=source.revision,
            reference_digest=llm.digest,
            template_digest=llm.template_digest,
            window=store.space.window,
            overlap=store.space.overlap,
            prompt_limit=store.space.prompt_limit,
            transformers_version=version("transformers"),
            data=digests,
            sources=summaries,
            options=noted,
            seed=options.seed,
            made_by=__version__,
            bounds=head.bounds,
        )
        card = model_card(info)
        bundles[folder] = ScorerBundle.save(
            folder,
            info=info,
            head=head,
            card=card,
            fingerprint=Fingerprint.exact(llm, info.features, source=source, device=device),
        )
    return bundles[output]


def _require_sources(named: set[str], known: set[str]) -> None:
    if unknown := sorted(named - known):
        near = get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
        raise InvalidInputError(f"no row is of the source {unknown[0]!r}: {hint}")


def _all_rows(
    data: Sequence[str | os.PathLike[str]], recipe: LoadedRecipe | None
) -> list[LabelledResponse]:
    """The rows of the data and of the recipe; what both hold counts once."""
    if recipe is None:
        return read_rows(data)
    return list(dict.fromkeys([*(read_rows(data) if data else ()), *recipe.rows]))


def prepare(rows: Sequence[LabelledResponse], options: TrainingOptions) -> list[LabelledResponse]:
    """The rows of one side of the split as they are encoded: cut, and with synthetic ones added."""
    limited = [row.model_copy(update={"response": row.response[: options.longest]}) for row in rows]
    shortened = cut(
        limited,
        shortest=options.shortest,
        longest=1000,
        share=options.cut_share,
        seed=options.seed,
    )
    return [*shortened, *(augment(limited, seed=options.seed) if options.augmented else ())]
