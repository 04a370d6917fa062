"""Tables of a recipe: what it would load, and what it did load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from srr_guard.training.data.loading import LoadedRecipe
from srr_guard.training.data.recipes import Recipe, RecipeSource


def print_recipe(recipe: Recipe, console: Console) -> None:
    """Print the sources of a recipe with limits, weights and licences. Loads nothing."""
    table = _table(("source", "hub data set", "rows", "weight", "licence"), right=(2, 3))
    if recipe.contrast:
        table.add_row("contrast", "(in this project's repository)", "all", "1", "Apache-2.0")
    for source in recipe.sources:
        table.add_row(*_cells(source))
    console.print(table)
    limits = [source.limit for source in recipe.sources]
    if None not in limits:
        console.print(f"At most {sum(limit or 0 for limit in limits):,} rows.", highlight=False)
    for source in recipe.sources:
        if source.fallback:
            names = _names(_fallbacks(recipe, source))
            console.print(f"If {source.name} cannot be had: {names}.", highlight=False)
    if gated := [s for s in recipe.sources if s.gated]:
        console.print(f"Gated: {_names(gated)}. Accept the terms on the hub, then `hf auth login`.")
    for terms, said in (("nc", "Non-commercial use only"), ("unknown", "No licence stated")):
        if named := [s for s in recipe.sources if s.terms == terms]:
            flag = f"needs --accept-licence {terms}"
            console.print(f"{said}: {_names(named)}; {flag}.", highlight=False)


def print_loaded(recipe: LoadedRecipe, console: Console) -> None:
    """Print what became of each source: rows by label, dropped records, and what to do."""
    table = _table(("source", "safe", "unsafe", "dropped", "state", "note"), right=(1, 2, 3))
    for loaded in recipe.sources:
        labels = Counter(row.label for row in loaded.rows)
        dropped = str(loaded.taken.dropped) if loaded.taken else ""
        counts = (str(labels["safe"]), str(labels["unsafe"]), dropped)
        table.add_row(loaded.source.name, *counts, loaded.state, escape(loaded.note))
    console.print(table)
    for note in recipe.notes:
        console.print(note, highlight=False, markup=False)


def _table(heads: Iterable[str], *, right: tuple[int, ...]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for at, head in enumerate(heads):
        table.add_column(head, justify="right" if at in right else "left", overflow="fold")
    return table


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
