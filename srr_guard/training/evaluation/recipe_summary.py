"""What a recipe's sources gave to a training run, for the card."""

from __future__ import annotations

from collections.abc import Sequence

from srr_guard.scorer.bundle import BundleInfo, SourceSummary
from srr_guard.training.data.loading import LoadedRecipe


def with_recipe(
    summaries: Sequence[SourceSummary], recipe: LoadedRecipe
) -> tuple[SourceSummary, ...]:
    """Add origin, revision and dropped records to the summaries of a recipe's sources.

    Sources that gave nothing are added with the reason.

    Args:
        summaries: Rows by source.
        recipe: The recipe that was loaded.
    """
    by_name = {summary.source: summary for summary in summaries}
    for loaded in recipe.sources:
        source, taken = loaded.source, loaded.taken
        empty = SourceSummary(source=source.name, safe=0, unsafe=0, licences=(source.licence,))
        found = {
            "origin": source.where,
            "revision": taken.revision if taken else None,
            "dropped": taken.dropped if taken else 0,
            "note": loaded.note,
        }
        by_name[source.name] = by_name.get(source.name, empty).model_copy(update=found)
    return tuple(by_name[name] for name in sorted(by_name))


def is_non_commercial(info: BundleInfo) -> bool:
    """True if rows of a non-commercial licence are in the training."""
    return any(
        "-NC" in licence.upper()
        for summary in info.sources
        if summary.safe or summary.unsafe
        for licence in summary.licences
    )


def hub_ids(info: BundleInfo) -> list[str]:
    """The hub data sets that gave rows."""
    used = (s.origin for s in info.sources if s.origin and (s.safe or s.unsafe))
    return sorted({"/".join(origin.partition(":")[0].split("/")[:2]) for origin in used})


def sources_markdown(info: BundleInfo) -> str:
    """The sources as a Markdown table; with origins where a recipe was used."""
    traced = any(s.origin for s in info.sources)
    more = " from | dropped | note |" if traced else ""
    lines = [
        f"| source | safe | unsafe | licence |{more}",
        f"| --- | --- | --- | --- |{' --- | --- | --- |' if traced else ''}",
    ]
    for s in info.sources:
        line = f"| {s.source} | {s.safe} | {s.unsafe} | {', '.join(s.licences) or 'not stated'} |"
        if traced:
            commit = f" at `{s.revision}`" if s.revision else ""
            origin = f"{s.origin}{commit}" if s.origin else ""
            line += f" {origin} | {s.dropped or ''} | {s.note.replace('|', '/')} |"
        lines.append(line)
    if is_non_commercial(info):
        lines += ["", "Some of these rows are for non-commercial use only, and so is this scorer."]
    return "\n".join(lines)
