"""The demo: answers, their scores, what would have gone out, and what goes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from srr_guard.cli.demo_scenes import Scene
from srr_guard.decision import Decision, ScoredCandidate
from srr_guard.reading import candidate_text

if TYPE_CHECKING:
    from srr_guard.wrappers.ranker import SafetyRanker

_REASONS = {
    "accepted": "good enough before all were sampled",
    "best_of_n": "the best one that reaches the threshold",
    "fallback": "the best of those that came back",
    "refused": "none reaches the threshold: refusal instead",
    "passed_through": "let through by an explicit bypass",
}


def run_demo(ranker: SafetyRanker, scenes: Sequence[Scene], console: Console) -> None:
    """Decide each scene and show its candidates.

    Args:
        ranker: A ranker around a local chat model.
        scenes: What is asked, and the written answers; none: the model answers.
        console: Where to write.
    """
    decisions = []
    with _progress(console) as progress:
        task = progress.add_task("loading the models", total=len(scenes))
        for scene in scenes:
            progress.update(task, description=f"deciding ({scene.title.lower()})")
            decision: Decision[Any]
            if scene.answers:
                decision = ranker.guard.choose(scene.request, scene.answers)
            else:
                decision = ranker.decide(scene.request)
            decisions.append(decision)
            progress.console.print(_table(scene, decision, ranker.decision.threshold))
            progress.console.print(_times(decision, live=not scene.answers), "")
            progress.advance(task)
    passed = sum(d.chosen is not None for d in decisions)
    changed = sum(d.chosen is None or d.chosen.index != 0 for d in decisions)
    console.print(
        f"{len(decisions)} requests: {passed} answered, {len(decisions) - passed} refused; "
        f"{changed} times something else went out than without a guard"
    )


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description} {task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


def _table(scene: Scene, decision: Decision[Any], threshold: float) -> Table:
    title = Text.assemble((scene.title, "bold"), "\n", (f"“{scene.request}”", "italic"))
    table = Table(
        title=title,
        caption=f"{_REASONS[decision.reason]} (threshold {threshold})",
        title_justify="left",
        caption_justify="left",
        expand=True,
        show_lines=True,
    )
    table.add_column("", width=8)
    table.add_column("p_safe", justify="right", width=6)
    table.add_column("p_help", justify="right", width=6)
    table.add_column("answer", ratio=1)
    ranking = decision.ranking
    assert ranking is not None
    help_shares = ranking.p_help or (None,) * len(ranking.order)
    for place in ranking.order:
        candidate = decision.candidates[place]
        assert isinstance(candidate, ScoredCandidate)
        is_chosen = decision.chosen is not None and decision.chosen.index == candidate.index
        marks = ["✓ passes"] if is_chosen else []
        marks += ["first"] if candidate.index == 0 else []
        style = "green" if is_chosen else "red" if candidate.p_safe < threshold else "dim"
        helps = help_shares[place]
        table.add_row(
            "\n".join(marks),
            f"{candidate.p_safe:.3f}",
            "" if helps is None else f"{helps:.3f}",
            Text(_short(candidate.text)),
            style=style,
        )
    if decision.chosen is None:
        refusal = Text(_short(candidate_text(decision.output)))
        table.add_row("✓ passes", "", "", refusal, style="green")
    return table


def _times(decision: Decision[Any], *, live: bool) -> str:
    t = decision.timings
    made = f"generation {t.generation:.2f} s" if live else "written answers"
    return f"  {made}, scoring {t.scoring:.2f} s, overhead {t.overhead * 1000:.1f} ms"


def _short(text: str, limit: int = 240) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
