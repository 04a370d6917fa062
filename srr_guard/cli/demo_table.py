"""The demo: answers, their scores, what would have gone out, and what goes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from srr_guard.cli.demo_scenes import Scene
from srr_guard.decision import Decision, ScoredCandidate
from srr_guard.reading import candidate_text
from srr_guard.terminal import moves, print_table, shown

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
            _print_scene(scene, decision, ranker.decision.threshold, console)
            console.print(_times(decision, live=not scene.answers), "")
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
        disable=not moves(console),
    )


def _print_scene(scene: Scene, decision: Decision[Any], threshold: float, console: Console) -> None:
    title = Text.assemble(
        (shown(scene.title, console).plain, "bold"),
        "\n",
        (shown(f'"{scene.request}"', console).plain, "italic"),
    )
    ranking = decision.ranking
    assert ranking is not None
    help_shares = ranking.p_help or (None,) * len(ranking.order)
    rows, styles = [], []
    for place in ranking.order:
        candidate = decision.candidates[place]
        assert isinstance(candidate, ScoredCandidate)
        is_chosen = decision.chosen is not None and decision.chosen.index == candidate.index
        marks = ["passes"] if is_chosen else []
        marks += ["first"] if candidate.index == 0 else []
        helps = help_shares[place]
        rows.append(
            (
                ", ".join(marks),
                f"{candidate.p_safe:.3f}",
                "" if helps is None else f"{helps:.3f}",
                _short(candidate.text),
            )
        )
        styles.append("green" if is_chosen else "red" if candidate.p_safe < threshold else "dim")
    if decision.chosen is None:
        rows.append(("passes", "", "", _short(candidate_text(decision.output))))
        styles.append("green")
    print_table(
        console,
        ("", "p_safe", "p_help", "answer"),
        rows,
        title=title,
        caption=f"{_REASONS[decision.reason]} (threshold {threshold})",
        texts=(3,),
        right=(1, 2),
        styles=styles,
        lines=True,
    )


def _times(decision: Decision[Any], *, live: bool) -> str:
    t = decision.timings
    made = f"generation {t.generation:.2f} s" if live else "written answers"
    return f"  {made}, scoring {t.scoring:.2f} s, overhead {t.overhead * 1000:.1f} ms"


def _short(text: str, limit: int = 240) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
