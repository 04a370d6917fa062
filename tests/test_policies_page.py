"""Every row of the table in docs/policies.md is what a real guard does, sync and async."""

from __future__ import annotations

import ast
import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
from langchain_core.messages import AIMessage

from srr_guard import Decision, DecisionPolicy, Guard, Ranking, SamplingPolicy, errors
from srr_guard.decision import Reason
from srr_guard.errors import MissingExtraError, NotRepeatableError
from srr_guard.policy import BelowThreshold, GatePolicy, Mode, Reasoning, ScorerFailure, Unreadable
from srr_guard.testing import FakeGate, FakeScorer

PAGE = Path(__file__).parent.parent / "docs" / "policies.md"


@dataclass(frozen=True)
class Row:
    """A row of the table, as it is written."""

    event: str
    setting: str
    left: str
    decided: str
    count: str

    @property
    def leaves(self) -> str:
        return self.left.strip("`")

    @property
    def reason(self) -> str:
        return self.decided.strip("`")

    @property
    def counted(self) -> str:
        return self.count.strip("`")

    @property
    def settings(self) -> dict[str, Any]:
        named = re.findall(r'(\w+)=("\w+"|[\d.]+)', self.setting)
        return {name: ast.literal_eval(value) for name, value in named}

    @property
    def is_default(self) -> bool:
        return self.setting.startswith("**")


LINES = [line for line in PAGE.read_text().splitlines() if line.count("|") == 6]
ROWS = [Row(*(cell.strip() for cell in line[1:-1].split("|"))) for line in LINES[2:]]


@dataclass(frozen=True)
class Scene:
    """What makes an event happen: what the model does, and who judges it."""

    answers: list[Any]  # an exception is raised
    scorer: Any = field(default_factory=lambda: FakeScorer(by_words))
    gate: Any = None
    sampling: dict[str, Any] = field(default_factory=dict)
    hook_error: Exception | None = None
    form: Any = str


def by_words(prompt: str, text: str) -> float:
    """Good words are safe, the best ones safest, the worst ones least."""
    marks = {"good": 0.8, "best": 0.9, "worst": 0.1, "bad": 0.2}
    return min((p for word, p in marks.items() if word in text), default=0.2)


class Nonsense(FakeScorer):
    """Returns a ranking of another list."""

    def _rank(self, conversation: Any, candidates: Any) -> Ranking:
        return Ranking.from_scores(scores=[1.0] * 9, p_safe=[1.0] * 9)


class Hanging(FakeScorer):
    """Gives no ranking before it is let go."""

    let_go = threading.Event()

    def score(self, conversation: Any, candidates: Any) -> Ranking:
        self.let_go.wait()
        return super().score(conversation, candidates)

    async def ascore(self, conversation: Any, candidates: Any) -> Ranking:
        await asyncio.Event().wait()
        return await super().ascore(conversation, candidates)


@pytest.fixture(autouse=True)
def hanging_scorers_end() -> Iterator[None]:
    Hanging.let_go.clear()
    yield
    Hanging.let_go.set()


def picture(text: str) -> AIMessage:
    return AIMessage([{"type": "text", "text": text}, {"type": "image", "url": "x"}])


def failing(error: Exception) -> FakeScorer:
    return FakeScorer(by_words, error=error)


MISSING = MissingExtraError(package="torch", extra="local", purpose="a scorer")
FAILED = RuntimeError("no answer")
SCENES: dict[str, Callable[[], Scene]] = {
    "all answers come back, some are safe": lambda: Scene(["bad", "good", "the best"]),
    "some answers fail or are late, another is safe": lambda: Scene([FAILED, "bad", "the best"]),
    "the first answer is good enough": lambda: Scene(["good, the first", "bad"]),
    "the model itself refuses, and does so best": lambda: Scene(
        [
            AIMessage("", additional_kwargs={"refusal": "The best is no."}),
            AIMessage("bad"),
        ],
        form=AIMessage,
    ),
    "every answer is below the threshold": lambda: Scene(["worst, the first", "bad but the best"]),
    "the same, and a refusal has no form (a dict, an object)": lambda: Scene(
        [{"text": "bad"}, {"text": "worst"}], form=dict
    ),
    "the scorer fails": lambda: Scene(
        ["good, the first", "the best"], scorer=failing(RuntimeError())
    ),
    "the scorer takes longer than `scoring_timeout`": lambda: Scene(
        ["good"], scorer=Hanging(by_words)
    ),
    "the scorer's numbers cannot be used": lambda: Scene(["good"], scorer=Nonsense(by_words)),
    "the scorer needs an extra that is missing": lambda: Scene(["good"], scorer=failing(MISSING)),
    "only answers with parts that cannot be read are safe": lambda: Scene(
        [AIMessage("bad"), picture("the best, pictured")], form=AIMessage
    ),
    "reasoning does harm, the answer after it does not": lambda: Scene(
        ["<think>bad</think>the best", "<think>bad</think>good"]
    ),
    "every answer fails": lambda: Scene([FAILED, FAILED]),
    "every answer is blank": lambda: Scene(["", "  "]),
    "fewer answers than `min_candidates` come back": lambda: Scene(
        ["good", FAILED, FAILED], sampling={"min_candidates": 2}
    ),
    "something in a candidate asks a human or keeps state": lambda: Scene(
        [NotRepeatableError("asks a human")]
    ),
    "the gate refuses": lambda: Scene(
        ["good, the first", "the best"], gate=FakeGate(lambda prompt: 0.99)
    ),
    "the gate fails": lambda: Scene(
        ["good", "the best"], gate=FakeGate(lambda prompt: 0.0, error=RuntimeError())
    ),
    "`on_decision` raises": lambda: Scene(["good"], hook_error=LookupError("the hook's own error")),
}


def test_every_row_has_a_scene_and_every_scene_a_row():
    assert {row.event for row in ROWS} == set(SCENES)
    assert len(ROWS) == len({(row.event, row.setting) for row in ROWS})


def test_no_value_of_a_policy_is_left_out():
    literals = {
        "below_threshold": BelowThreshold,
        "scorer_error": ScorerFailure,
        "unreadable": Unreadable,
        "reasoning": Reasoning,
    }
    written = {item for row in ROWS for item in row.settings.items()}
    assert {(name, value) for name, kind in literals.items() for value in get_args(kind)} <= written
    assert ("mode", "observe") in written
    assert set(get_args(Mode)) == {"enforce", "observe"}
    assert {row.reason for row in ROWS} == {*get_args(Reason), ""}


def test_the_defaults_are_in_bold():
    defaults = DecisionPolicy()
    for row in ROWS:
        for name, value in row.settings.items():
            if name in DecisionPolicy.model_fields:
                assert row.is_default == (getattr(defaults, name) == value), row


def guard_of(scene: Scene, settings: dict[str, Any], seen: list[Decision]) -> Guard:
    def hook(decision: Decision) -> None:
        seen.append(decision)
        if scene.hook_error is not None:
            raise scene.hook_error

    timeout = 0.05 if isinstance(scene.scorer, Hanging) else None
    sampling = {k: v for k, v in settings.items() if k in SamplingPolicy.model_fields}
    decision = {k: v for k, v in settings.items() if k in DecisionPolicy.model_fields}
    return Guard(
        scorer=scene.scorer,
        gate=scene.gate,
        gating=GatePolicy(refuse_above=0.95) if scene.gate else None,
        sampling=SamplingPolicy(
            n=len(scene.answers), attempts=1, **{"deadline": None, **scene.sampling, **sampling}
        ),
        decision=DecisionPolicy(scoring_timeout=timeout, **decision),
        on_decision=hook,
    )


def outcome(run: Callable[[], Any], scene: Scene) -> tuple[str, Exception | None]:
    """What leaves, in the words of the table."""
    try:
        output = run().output
    except (errors.SRRGuardError, LookupError) as error:
        return (
            "the hook's own error" if error is scene.hook_error else type(error).__name__
        ), error
    text = output.text if isinstance(output, AIMessage) else str(output)
    declined = output.additional_kwargs.get("refusal", "") if isinstance(output, AIMessage) else ""
    if text == DecisionPolicy().refusal:
        return "the refusal", None
    if "first" in text:
        return "the first answer", None
    assert "best" in f"{text} {declined}", output
    return (
        "the best answer" if "pictured" in text or "bad but" in text else "the best safe answer"
    ), None


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.event}; {row.setting}")
def test_the_row_is_true(row: Row, how: str) -> None:
    scene = SCENES[row.event]()
    seen: list[Decision] = []
    guard = guard_of(scene, row.settings, seen)

    def call(index: int) -> Any:
        answer = scene.answers[index]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def acall(index: int) -> Any:
        return call(index)

    call.__annotations__["return"] = scene.form

    def run() -> Decision:
        if how == "sync":
            return guard.decide("How?", call)
        return asyncio.run(guard.adecide("How?", acall))

    left, error = outcome(run, scene)
    if error is None or error is scene.hook_error:
        assert left == row.leaves
    else:
        assert isinstance(error, getattr(errors, row.leaves))
    assert [decision.reason for decision in seen] == ([row.reason] if row.reason else [])
    counts = guard.totals.model_dump()
    up = {name for name in ("bypasses", "gate_refusals", "observed") if counts[name]}
    assert up == ({row.counted} if row.counted else set())
    assert counts["requests"] == len(seen)
