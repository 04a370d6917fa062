"""What is decided again is what a guard decides on the same answers, and costs nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playgrounds import ByWord, Script, ScriptedLocal

from srr_guard import Guard
from srr_guard.decision import Ranking, ScoredCandidate
from srr_guard.errors import ConfigurationError
from srr_guard.playground.bench import Bench
from srr_guard.playground.requests import ColumnSettings, RunRequest
from srr_guard.playground.runs import Run, decide, live

SHARE = st.floats(0, 1, allow_nan=False)
SETTINGS = st.builds(
    ColumnSettings,
    n=st.integers(1, 6),
    threshold=SHARE,
    prefer=st.sampled_from(["best", "safest", "first"]),
    accept_at=st.none() | SHARE,
    gate=st.sampled_from(["shown", "decides", "refuses"]),
)


class Table(ByWord):
    """Scores by a table; the order of a list depends on the list."""

    def __init__(self, marks: dict[str, tuple[float, float]], p_harmful: float) -> None:
        super().__init__()
        self.marks = marks
        self.p_harmful = p_harmful

    def score(self, conversation: Any, candidates: Any) -> Ranking:
        self.lists.append(tuple(candidates))
        marks = [self.marks[text] for text in candidates]
        return Ranking.from_scores(
            scores=[safe - (len(candidates) % 3) * helps for safe, helps in marks],
            p_safe=[safe for safe, _ in marks],
            p_help=[helps for _, helps in marks],
        )

    def assess(self, conversation: Any) -> Any:
        return super().assess(conversation).model_copy(update={"p_harmful": self.p_harmful})


class Local:
    """Answers of a model on this machine, which waits for the gate."""

    local, batches, skipped = True, False, ()

    def __init__(self, outputs: dict[int, Any]) -> None:
        self.outputs = outputs

    def jobs(self, indices: Any) -> Any:
        return [[i] for i in indices]

    def recipe(self, index: int) -> Any:
        return "plain"

    def by_gate(self) -> Local:
        return self

    def sample(self, indices: Any) -> Any:
        return [self.outputs[i] for i in indices]

    async def asample(self, indices: Any) -> Any:
        raise AssertionError("called by a sync guard")


def ran(bench: Bench, request: RunRequest) -> tuple[Run, list[Any]]:
    async def go() -> tuple[Run, list[Any]]:
        run = bench.begin(request)
        return run, [event async for event in live(run, request.columns)]

    return asyncio.run(go())


@settings(max_examples=30, deadline=None)
@given(
    answers=st.lists(st.text("abc", min_size=1, max_size=2), min_size=6, max_size=6),
    marks=st.fixed_dictionaries(
        {a + b: st.tuples(SHARE, SHARE) for a in "abc" for b in ("", "a", "b", "c")}
    ),
    p_harmful=SHARE,
    first=SETTINGS,
    then=st.lists(SETTINGS, min_size=1, max_size=4),
)
def test_it_is_what_a_guard_decides(answers, marks, p_harmful, first, then):
    scorer = Table(marks, p_harmful)
    model = ScriptedLocal(script=Script(answers))
    whole = ColumnSettings(n=6)  # so that all answers are there
    run, events = ran(Bench(model=model, scorer=scorer), RunRequest(prompt="q", columns=[whole]))
    assert events[-1][0] == "done"
    scored, asked = len(scorer.lists), model.script.asked
    for wanted in (first, *then):
        found = asyncio.run(decide(run, wanted))
        expected = Guard(
            scorer=Table(marks, p_harmful),
            sampling=wanted.sampling,
            decision=wanted.decision,
            gating=wanted.gating,
        ).decide("q", Local(run.answers.made), delivery=run.form)
        assert (found["reason"], found["sampled"], found["failed"]) == (
            expected.reason,
            expected.sampled,
            expected.failed,
        )
        assert found["chosen"] == (None if expected.chosen is None else expected.chosen.index)
        assert found["output"] == expected.output.text
        assert [one["index"] for one in found["scores"]] == [c.index for c in expected.candidates]
        for shown, candidate in zip(found["scores"], expected.candidates, strict=True):
            if isinstance(candidate, ScoredCandidate):
                assert (shown["p_safe"], shown["score"]) == (candidate.p_safe, candidate.score)
    assert (len(scorer.lists), model.script.asked) == (scored, asked)


@settings(max_examples=20, deadline=None)
@given(
    answers=st.lists(st.text("abc", min_size=1, max_size=2), min_size=1, max_size=6),
    marks=st.fixed_dictionaries(
        {a + b: st.tuples(SHARE, SHARE) for a in "abc" for b in ("", "a", "b", "c")}
    ),
    wanted=SETTINGS.filter(lambda one: one.gate == "shown" and one.accept_at is None),
)
def test_given_answers_are_chosen_from_as_a_guard_does(answers, marks, wanted):
    scorer = Table(marks, 0.5)
    request = RunRequest(prompt="q", answers=answers, columns=[wanted])
    _, events = ran(Bench(model=None, scorer=scorer), request)
    (found,) = [data for name, data in events if name == "decided"]
    guard = Guard(scorer=scorer, sampling=wanted.sampling, decision=wanted.decision)
    expected = guard.choose("q", answers[: wanted.n])
    assert found["reason"] == expected.reason
    assert found["output"] == expected.output
    assert found["chosen"] == (None if expected.chosen is None else expected.chosen.index)


def test_a_gate_that_is_none_cannot_decide():
    class Bare:
        def score(self, conversation, candidates):
            return Ranking.from_scores(scores=[1.0], p_safe=[1.0])

        async def ascore(self, conversation, candidates):
            return self.score(conversation, candidates)

    bench = Bench(model=None, scorer=Bare())
    run, _ = ran(bench, RunRequest(prompt="q", answers=["a"], columns=[ColumnSettings()]))
    with pytest.raises(ConfigurationError, match="assesses no prompts"):
        asyncio.run(decide(run, ColumnSettings(gate="decides")))
    with pytest.raises(ConfigurationError, match="no second scorer"):
        asyncio.run(decide(run, ColumnSettings(scorer="second")))
