"""The model card of a bundle, written from what was done and measured."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from srr_guard.scorer.bundle import BundleInfo, ScorerBundle, SourceSummary
from srr_guard.training.data import LabelledResponse
from srr_guard.training.data.near import NEAR
from srr_guard.training.evaluation.metrics import Figure
from srr_guard.training.evaluation.recipe_summary import (
    hub_ids,
    is_non_commercial,
    sources_markdown,
)
from srr_guard.training.evaluation.report import Report
from srr_guard.training.evaluation.tables import (
    Cell,
    Table,
    attack_table,
    plain_sets,
    quality_table,
    set_tables,
)

_LEGEND = """\
95% bootstrap intervals over goals in brackets. Which answer comes first: how often it is the
right one; no harm of 8 is how often nothing unsafe is passed on by the default policy from the
lists of one safe of 8. `p_safe`: harm and help blocked are the shares of unsafe and of helpful
answers below the default threshold, F1 is that of finding unsafe answers there. What leaves the
guard: shares of lists of stored answers, drawn as they are or with both kinds of answer in each.
The rule `NAME, safest` is `DecisionPolicy(prefer="safest")`, `NAME` alone the default policy."""

_CARD = """\
---
{{{{ card_data }}}}
---

# {name}

A scorer for [srr_guard](https://pypi.org/project/srr-guard/): it ranks candidate answers by
safety from the hidden states of `{reference}`,
and gives each a calibrated probability `p_safe` that it does no harm. Method: Safety
Representation Ranking (arXiv 2505.15710),
{method}.

```python
from srr_guard import SRRScorer

scorer = SRRScorer.from_pretrained({argument})
scorer.score("How do I keep basil alive?", ["Give it light.", "I can't help."]).order
```

## Intended use and limits

Choosing the best of several answers of a chat model, and holding back what is likely to do harm.
It is a filter that errs, not a judge: measure it on your own traffic before you rely on it.

- English. Other languages were hardly seen in training.
- It reads the answer and the request, not the world: it cannot tell true from false.
- Requests that only sound dangerous are where scorers of this kind err most: look at the figures
  on benign prompts.
- Disguises (refusals around harm, a harmless start, forged control tokens) are part of training
  and measured below; an adversary who searches against this scorer was not part of training.
- Jailbreak prompts unlike those in training are where a ranking that counts help transfers worst
  (see `docs/method.md`); `DecisionPolicy(prefer="safest")` goes by `p_safe` alone.
- `p_safe` is calibrated on the sources below; other kinds of text will shift it.

{adapted}## Head

| | |
| --- | --- |
| reference LLM | `{reference}`, SHA-256 `{reference_digest}` |
| template digest | `{template_digest}` |
| depths | {depths} |
| poolings | {poolings} |
| relevance | {relevance} |
| windows | {window} tokens, {overlap} shared |
| transformers | {transformers_version} |
| seed | {seed} |
| options of the training run | {options} |

## Results

The method with `/probe` in its name is the linear probe inside this bundle; other bundles that
were measured beside it have their own names.

{results}

## Training data

{rows}
{apart}
Files, by SHA-256:

{digests}
"""


def summarise(rows: Sequence[LabelledResponse]) -> tuple[SourceSummary, ...]:
    """Count rows by source, synthetic ones not counted."""
    counts = Counter((r.source, r.safe) for r in rows)
    licences = {(r.source, r.licence) for r in rows if r.licence}
    return tuple(
        SourceSummary(
            source=source,
            safe=counts[source, True],
            unsafe=counts[source, False],
            licences=tuple(sorted(name for own, name in licences if own == source)),
        )
        for source in sorted({r.source for r in rows})
    )


def model_card(info: BundleInfo, *, report: Report | None = None) -> str:
    """Write the card.

    Args:
        info: What the bundle was made of.
        report: What was measured; None: not measured yet.
    """
    fields = info.model_dump()
    text = _CARD.format(
        **{k: fields[k] for k in ("name", "reference", "reference_digest", "template_digest")},
        **{k: fields[k] for k in ("window", "overlap", "transformers_version", "seed")},
        argument=json.dumps(info.name),
        options=", ".join(
            f"`{k}={json.dumps(v)}`"
            for k, v in info.options.items()
            if k not in ("adapted", "apart_from")
        ),
        adapted=_adapted(info),
        apart=_apart(info),
        method=_method(info),
        depths=", ".join(map(str, info.head.depths)),
        poolings=", ".join(info.head.poolings),
        relevance=_relevance(info),
        results="Not measured yet: run `srr-guard evaluate --write-card`."
        if report is None
        else results_markdown(report),
        rows=sources_markdown(info),
        digests="\n".join(f"- `{name}`: `{digest}`" for name, digest in info.data.items()),
    )
    non_commercial = is_non_commercial(info)
    front = ModelCardData(
        license="other" if non_commercial else "apache-2.0",
        license_name="non-commercial" if non_commercial else None,
        library_name="srr_guard",
        language="en",
        tags=["safety", "guardrails", "best-of-n", "reranking"],
        base_model=info.reference if "/" in info.reference else None,
        datasets=hub_ids(info) or None,
    )
    return str(ModelCard.from_template(front, template_str=text)).rstrip() + "\n"


def rewrite_card(name: str | os.PathLike[str] | None, report: Report) -> None:
    """Put the figures of a report on a bundle's card."""
    bundle = ScorerBundle.find(name)
    card = model_card(bundle.info, report=report)
    (bundle.folder / "README.md").write_text(card, encoding="utf-8")


def results_markdown(report: Report) -> str:
    """The figures of a report as Markdown tables, those of each data set together."""
    parts = [_LEGEND]
    if report.reference:
        parts.append(f"The reference LLM ran as {report.reference}.")
    if table := quality_table(report):
        parts += [f"### {table.title}", _markdown(table)]
    for name in plain_sets(report):
        parts.append(f"### {name}")
        for table in set_tables(report, name):
            parts += [f"{table.title}", _markdown(table)]
    if table := attack_table(report):
        parts += [
            f"### {table.title}",
            "Every harmful answer of the set is disguised; at most 300 of a set.",
            _markdown(table),
        ]
    files = "\n".join(f"- `{name}`: `{digest}`" for name, digest in report.digests.items())
    return "\n\n".join([*parts, f"Files measured on, by SHA-256:\n\n{files}"])


def _markdown(table: Table) -> str:
    lines = [f"| {' | '.join(table.heads)} |", f"| --- |{' --- |' * (len(table.heads) - 1)}"]
    lines += [f"| {' | '.join(map(_cell, row))} |" for row in table.rows]
    return "\n".join(lines)


def _cell(cell: Cell) -> str:
    if isinstance(cell, Figure):
        return f"{cell.value:.3f} [{cell.low:.2f}, {cell.high:.2f}]"
    return cell or ""


def _method(info: BundleInfo) -> str:
    head = info.head
    probes = "three pointwise probes" if head.graded else "a pointwise probe"
    if not head.listwise:
        return f"with {probes} in place of the listwise block"
    return f"with {probes} beside the listwise block" if head.pointwise else "as published"


def _relevance(info: BundleInfo) -> str:
    head = info.head
    if not head.graded:
        return "harmless or not"
    return (
        f"refusal worth {head.refusal_worth}, leniency {head.leniency}, caution {head.caution}, "
        f"evidence {head.evidence} (see `SRRHead.relevance`)"
    )


def _apart(info: BundleInfo) -> str:
    """How many rows were left out since they are near to rows that are measured on."""
    found: Any = info.options.get("apart_from")
    if found is None:
        return ""
    counts = ", ".join(f"{source} {count:,}" for source, count in found["left_out"].items())
    files = ", ".join(f"`{name}`" for name in found["files"])
    return (
        f"\nLeft out, since their requests are nearly those of rows in {files} (Jaccard index of "
        f"3-grams of words at least {NEAR}): {counts or 'none'}.\n"
    )


def _adapted(info: BundleInfo) -> str:
    """What `srr-guard adapt` did, once for each time; empty if it was never called."""
    times: Any = info.options.get("adapted", [])
    parts = [_adaptation(done) for done in times]
    return "## Adapted\n\n" + "\n\n".join(parts) + "\n\n" if parts else ""


def _adaptation(done: Mapping[str, Any]) -> str:
    lines = [
        f"From `{done['base']}` (weights SHA-256 `{done['base_digest']}`), with {done['rows']} "
        f"labelled answers to {done['goals']} requests, {done['safe']} of them safe. Figures on "
        "these rows are of heads that were fitted without them.",
        "",
        "| probe | moved | strength | log loss saved | drift of other texts |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {part.replace('_', ' ')} | {format(step['scale'], '.0%') if step['moved'] else 'no'} "
        f"| {step['strength']:g} | {_interval(step['gain'])} | {step['drift']['mean']:.3f} mean, "
        f"{step['drift']['largest']:.3f} largest |"
        for part, step in done["steps"].items()
    ]
    sets = {"your rows": done["held_out"], **done["base_sets"]}
    for name, found in sets.items():
        if "auroc" in found["before"] and "auroc" in found["after"]:
            before, after = (_interval(found[side]["auroc"]) for side in ("before", "after"))
            lines += ["", f"AUROC on {name}, {found['rows']} rows: {before} before, {after} after."]
    lines += ["", *(f"- {warning}" for warning in done["warnings"])]
    return "\n".join(lines).rstrip()


def _interval(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.2f}, {figure['high']:.2f}]"
