"""Tables of a recipe: what it would load, and what it did load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from rich.box import SIMPLE
from rich.console import Console

from srr_guard.terminal import print_table, shown
from srr_guard.training.data.loading import LoadedRecipe
from srr_guard.training.data.recipes import Recipe, RecipeSource


def print_recipe(recipe: Recipe, console: Console) -> None:
    """Print the sources of a recipe with limits, weights and licences. Loads nothing."""
    heads = ("source", "hub data set", "rows", "weight", "licence")
    rows = [_cells(source) for source in recipe.sources]
    if recipe.contrast:
        rows.insert(0, ("contrast", "(in this project's repository)", "all", "1", "Apache-2.0"))
    print_table(console, heads, rows, texts=(0, 1, 4), right=(2, 3), frame=SIMPLE)
    for line in _notes(recipe):
        console.print(shown(line, console))


def _notes(recipe: Recipe) -> Iterator[str]:
    limits = [source.limit for source in recipe.sources]
    if None not in limits:
        yield f"At most {sum(limit or 0 for limit in limits):,} rows."
    for source in recipe.sources:
        if source.fallback:
            yield f"If {source.name} cannot be had: {_names(_fallbacks(recipe, source))}."
    if gated := [s for s in recipe.sources if s.gated]:
        yield f"Gated: {_names(gated)}. Accept the terms on the hub, then `hf auth login`."
    for terms, said in (("nc", "Non-commercial use only"), ("unknown", "No licence stated")):
        if named := [s for s in recipe.sources if s.terms == terms]:
            yield f"{said}: {_names(named)}; needs --accept-licence {terms}."


def print_loaded(recipe: LoadedRecipe, console: Console) -> None:
    """Print what became of each source: rows by label, dropped records, and what to do."""
    heads = ("source", "safe", "unsafe", "dropped", "state", "note")
    rows = []
    for loaded in recipe.sources:
        labels = Counter(row.label for row in loaded.rows)
        dropped = str(loaded.taken.dropped) if loaded.taken else ""
        counts = (str(labels["safe"]), str(labels["unsafe"]), dropped)
        rows.append((loaded.source.name, *counts, loaded.state, loaded.note))
    print_table(console, heads, rows, texts=(0, 4, 5), right=(1, 2, 3), frame=SIMPLE)
    for note in recipe.notes:
        console.print(shown(note, console))


def _cells(source: RecipeSource) -> tuple[str, ...]:
    rows = "all" if source.limit is None else f"{source.limit:,}"
    return (source.name, source.where, rows, f"{source.weight:g}", source.licence)


def _fallbacks(recipe: Recipe, source: RecipeSource) -> list[RecipeSource]:
    found: list[RecipeSource] = []
    names = list(source.fallback)
    while names:
        other = recipe.fallbacks[names.pop(0)]
        found.append(other)
        names += other.fallback
    return found


def _names(sources: Iterable[RecipeSource]) -> str:
    return ", ".join(source.name for source in sources)
