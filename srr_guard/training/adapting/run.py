"""Adapt a trained scorer to a deployment with a few labelled answers."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from srr_guard import __version__
from srr_guard.errors import ConfigurationError, DataError, InvalidInputError
from srr_guard.policy import Policies, SamplingPolicy
from srr_guard.protocols import ProgressCallback
from srr_guard.reference import ReferenceLLM, resolve_reference
from srr_guard.reference.source import Named
from srr_guard.reference.spec import Device, DType
from srr_guard.scorer.bundle import FORMAT, BundleInfo, ScorerBundle, SourceSummary
from srr_guard.scorer.fingerprint import Fingerprint
from srr_guard.scorer.head import SRRHead
from srr_guard.training.adapting.choice import Search, Strength
from srr_guard.training.adapting.head import AdaptedHead, adapt_head
from srr_guard.training.adapting.held_out import Load, Verdicts, figures_of
from srr_guard.training.adapting.report import AdaptationReport, BeforeAfter
from srr_guard.training.adapting.rows import (
    MOST_ROWS,
    check_disjoint,
    fixed_texts,
    usable_rows,
)
from srr_guard.training.data import Data, LabelledResponse, data_digests, read_rows, sample_rows
from srr_guard.training.evaluation.card import model_card, summarise
from srr_guard.training.evaluation.probabilities import probability_figures
from srr_guard.training.feature_store import FeatureStore, feature_space, judge_examples
from srr_guard.training.progress import silent
from srr_guard.training.tuning import Tuning, check_budget, operating_points


@dataclass(frozen=True, eq=False)
class Adaptation:
    """An adapted scorer.

    Attributes:
        bundle: The new bundle.
        policies: Policies with the threshold for the budget.
        policies_file: Where they were written.
        report: What was adapted, and what it brings and costs.

    Example:
        ```python
        from srr_guard import SRRScorer
        from srr_guard.training import adapt

        adaptation = adapt("rows.jsonl", "my-scorer")
        scorer = SRRScorer.from_pretrained(adaptation.bundle.folder)
        policies = adaptation.policies
        print(adaptation.report.is_moved, adaptation.report.warnings)
        ```
    """

    bundle: ScorerBundle
    policies: Policies
    policies_file: Path
    report: AdaptationReport


def adapt(
    data: Data,
    output: str | os.PathLike[str],
    *,
    scorer: str | os.PathLike[str] | None = None,
    reference: str | os.PathLike[str] | None = None,
    base_data: Data | None = None,
    strength: Strength = "auto",
    most_drift: float = 0.05,
    budget: float = 0.02,
    n: int = 4,
    seed: int = 0,
    device: Device = "auto",
    dtype: DType = "auto",
    progress: ProgressCallback = silent,
) -> Adaptation:
    """Move a scorer's head, calibration and threshold towards a deployment.

    Each probe is fitted again with a penalty towards the base's coefficients. It is kept only if
    held-out rows show a gain, and moves other texts only so far. Beside the bundle a file with
    policies is written, named after it with `.policies.json` at the end.

    Args:
        data: 32 to 500 labelled answers of the deployment (see `read_rows`).
        output: Folder of the new bundle.
        scorer: The base: a shipped name, a folder or a hub id; None: the default one.
        reference: The reference LLM; None: the one that the base names.
        base_data: Labelled answers unlike yours, on which little may change.
        strength: Logits that a typical row may move; 0: only the threshold is new; `auto`:
            chosen by cross-validation, and the base is kept where it shows no gain.
        most_drift: Largest mean change of a probability on the base rows and on a few fixed texts.
        budget: Largest share of helpful answers to hold back (see `tune`).
        n: Candidates per request.
        seed: Changes the folds.
        device: Where the reference LLM runs.
        dtype: Its precision.
        progress: Receives the progress.

    Raises:
        DataError: The rows are too few, or too much alike.
        InvalidInputError: An argument is out of range.
        ConfigurationError: The output is the base's folder, the base has no pointwise path, or n
            is out of range.

    Example:
        ```python
        from srr_guard.training import adapt

        adaptation = adapt("rows.jsonl", "my-scorer", budget=0.05)
        print(adaptation.report.held_out.after["auroc"].value)
        ```
    """
    search = _checked(strength, most_drift, budget, seed)
    sampling = SamplingPolicy(n=n)
    output = Path(output).expanduser().resolve()
    data, base_data = _listed(data), None if base_data is None else _listed(base_data)
    base = ScorerBundle.find(scorer)
    _check_bundles(base, output)
    digests = data_digests(data)
    _check_unseen(base.info, digests)
    read = read_rows(data)
    rows = usable_rows(read, seed=seed)
    base_rows = [] if base_data is None else read_rows(base_data)
    check_disjoint(rows, base_rows)
    if len(base_rows) > MOST_ROWS:
        share = MOST_ROWS // len({row.source for row in base_rows}) or 1
        base_rows = sample_rows(base_rows, per_source=share, seed=seed)

    info = base.info
    source = resolve_reference(
        reference, named=Named(info.reference, revision=info.reference_revision)
    )
    llm = ReferenceLLM.load(source, depth=max(info.head.depths), device=device, dtype=dtype)
    base.check_fits(llm)
    store = FeatureStore(feature_space(llm), depths=info.head.depths)
    anchors = [*fixed_texts(), *base_rows]
    store.extract([*rows, *anchors], llm, progress=progress)
    load = partial(store.load, depths=info.head.depths)
    head = base.load_head()
    found = adapt_head(head, rows, load, anchors, search=search, progress=progress)

    tuning = _tuning(rows, found.after, budget=budget, n=n)
    report = AdaptationReport(
        base=info.name,
        base_digest=_digest(base.folder / "model.safetensors"),
        rows=len(rows),
        safe=sum(row.safe for row in rows),
        goals=len({row.goal_id for row in rows}),
        left_out=len(read) - len(rows),
        steps=found.steps,
        calibration=(_pair(head), _pair(found.head)),
        held_out=BeforeAfter(
            rows=len(rows),
            before=figures_of(rows, found.before),
            after=figures_of(rows, found.after),
        ),
        base_sets=_base_sets(head, found, base_rows, load),
        most_drift=most_drift,
        tuning=tuning,
        tuning_before=_tuning(rows, found.before, budget=budget, n=n),
        chosen_by_hand=strength != "auto",
    )
    described = _described(info, output.name, report, rows, digests, seed)
    has_fingerprint = info.format != 2
    bundle = ScorerBundle.save(
        output,
        info=described,
        head=found.head,
        card=model_card(described),
        fingerprint=Fingerprint.load(base.folder)
        if has_fingerprint
        else Fingerprint.exact(llm, info.features, source=source, device=device),
    )
    policies = tuning.policies() if tuning else Policies(sampling=sampling)
    file = output.with_name(f"{output.name}.policies.json")
    policies.save(file)
    return Adaptation(bundle=bundle, policies=policies, policies_file=file, report=report)


def _checked(strength: Strength, most_drift: float, budget: float, seed: int) -> Search:
    check_budget(budget)
    if strength != "auto" and not (isinstance(strength, (int, float)) and 0 <= strength < math.inf):
        raise InvalidInputError(
            f"strength={strength!r} cannot be used: give 'auto', or a number of logits from 0 up, "
            "as 1.0"
        )
    if not 0 < most_drift <= 1:
        raise InvalidInputError(
            f"most_drift={most_drift!r} is no change of a probability: give one in (0, 1], as 0.05"
        )
    return Search(strength=strength, most_drift=most_drift, seed=seed)


def _listed(data: Data) -> list[str | os.PathLike[str]]:
    """The items, which are read twice."""
    return [data] if isinstance(data, (str, os.PathLike)) else list(data)


def _check_bundles(base: ScorerBundle, output: Path) -> None:
    if output == base.folder.resolve():
        raise ConfigurationError(
            f"output={str(output)!r} is the folder of the base itself, which is not overwritten: "
            "give another folder"
        )
    if output.is_file():
        raise ConfigurationError(f"output={str(output)!r} is a file: give a folder")
    if not base.info.head.pointwise:
        raise ConfigurationError(
            f"the scorer {base.info.name!r} has no pointwise path, so it has no probe to adapt: "
            "take one that was trained with another preset than 'published'"
        )


def _check_unseen(info: BundleInfo, digests: Mapping[str, str]) -> None:
    seen = {digest: name for name, digest in info.data.items() if digest}
    for name, digest in digests.items():
        if digest in seen:
            raise DataError(
                f"{name!r} is the file {seen[digest]!r} that {info.name!r} was trained on: give "
                "rows that it has not seen"
            )


def _tuning(
    rows: Sequence[LabelledResponse], said: Verdicts, *, budget: float, n: int
) -> Tuning | None:
    p_safe, p_help = said.p_safe.tolist(), said.p_help.tolist()
    try:
        return operating_points(rows, p_safe, p_help, budget=budget, n=n, margin=True)
    except DataError:  # no helpful row: the report says so
        return None


def _base_sets(
    head: SRRHead, found: AdaptedHead, rows: Sequence[LabelledResponse], load: Load
) -> dict[str, BeforeAfter]:
    """Figures on the base rows of each source, and on all of them."""
    sources = sorted({row.source for row in rows})
    sets = {source: [row for row in rows if row.source == source] for source in sources}
    if len(sources) > 1:
        sets["all"] = list(rows)
    figures: dict[str, BeforeAfter] = {}
    for name, members in sets.items():
        examples = load(members)
        before, after = (
            probability_figures(members, judge_examples(h, examples).p_safe)
            for h in (head, found.head)
        )
        figures[name] = BeforeAfter(rows=len(members), before=before, after=after)
    return figures


def _described(
    info: BundleInfo,
    name: str,
    report: AdaptationReport,
    rows: Sequence[LabelledResponse],
    digests: Mapping[str, str],
    seed: int,
) -> BundleInfo:
    """The base's description, with what was done to it."""
    earlier: Any = info.options.get("adapted", [])
    done = {**report.model_dump(mode="json"), "warnings": list(report.warnings)}
    moved = any(step.moved for step in report.steps.values())
    return info.model_copy(
        update={
            "format": FORMAT,
            "name": name,
            "data": {**info.data, **digests},
            "sources": _added(info.sources, summarise(rows)),
            "options": {**info.options, "adapted": [*earlier, done]},
            "seed": seed,
            "made_by": __version__,
            # of the base's p_safe, which all probes may move; few rows give no new ones
            "bounds": None if moved else info.bounds,
        }
    )


def _added(
    base: Sequence[SourceSummary], new: Sequence[SourceSummary]
) -> tuple[SourceSummary, ...]:
    """Rows of each source, of both; the licences joined."""
    safe: Counter[str] = Counter()
    unsafe: Counter[str] = Counter()
    licences: dict[str, set[str]] = {}
    for one in (*base, *new):
        safe[one.source] += one.safe
        unsafe[one.source] += one.unsafe
        licences.setdefault(one.source, set()).update(one.licences)
    return tuple(
        SourceSummary(
            source=source,
            safe=safe[source],
            unsafe=unsafe[source],
            licences=tuple(sorted(licences[source])),
        )
        for source in sorted(licences)
    )


def _pair(head: SRRHead) -> tuple[float, float]:
    slope, intercept = head.calibration.tolist()
    return slope, intercept


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
