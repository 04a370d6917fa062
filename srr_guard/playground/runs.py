"""Runs: a prompt with its answers and scores, live the first time, and decided again at will."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage

from srr_guard.conversation import Conversation
from srr_guard.core import Guard
from srr_guard.core.delivery import MessageDelivery
from srr_guard.core.outcomes import read_candidate
from srr_guard.decision import Candidate, Decision
from srr_guard.errors import ConfigurationError, InvalidInputError
from srr_guard.playground.kept import KeptAnswers, KeptScores, LiveAnswers
from srr_guard.playground.requests import ColumnSettings, Label, RunRequest
from srr_guard.playground.words import one_line, scores_of, shown
from srr_guard.policy import DEFAULT_REFUSAL
from srr_guard.protocols import CandidateSource

logger = logging.getLogger("srr_guard.playground")

Event = tuple[str, dict[str, Any]]
"""A name and its data, for the page."""


@dataclass
class Run:
    """A prompt, what was answered, and how it was scored.

    Attributes:
        id: Its name.
        request: What was asked for first.
        conversation: The prompt, as it is scored.
        answers: The answers so far.
        scores: The rankings so far, by scorer.
        make: Makes a candidate; None: the answers were given.
        columns: The policies it was decided by last.
        outcomes: And what was decided.
        labels: A person's words on candidates.
    """

    id: str
    request: RunRequest
    conversation: Conversation
    answers: KeptAnswers
    scores: dict[str, KeptScores]
    make: Callable[[int], Any] | None = None
    columns: list[ColumnSettings] = field(default_factory=list)
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    labels: dict[int, Label] = field(default_factory=dict)
    explained: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)

    @property
    def form(self) -> MessageDelivery:
        """The form of the answers."""
        return MessageDelivery(form=str if self.make is None else AIMessage)

    def candidate(self, index: int) -> Candidate | Exception:
        """An answer as it is read; or why there is none."""
        output = self.answers.made.get(index)
        if output is None or isinstance(output, Exception):
            return output or InvalidInputError(f"this run has no answer {index + 1}")
        return read_candidate(index, output, delivery=self.form, refusal=DEFAULT_REFUSAL)

    def text(self, index: int) -> str:
        """The text of an answer.

        Raises:
            InvalidInputError: There is none.
        """
        found = self.candidate(index)
        if isinstance(found, Exception):
            raise InvalidInputError(f"answer {index + 1} has no text: {one_line(found)}")
        return found.text

    def candidate_event(self, index: int) -> Event:
        """What the page is told of an answer that is there, or failed."""
        found = self.candidate(index)
        if isinstance(found, Exception):
            return "failed", {"index": index, "message": one_line(found)}
        kind = self.answers.recipe(index)
        told = {"index": index, "text": found.text, "trace": found.trace, "recipe": kind}
        return "candidate", told

    def gate_events(self) -> list[Event]:
        """What the page is told of the gates' readings so far."""
        return [
            ("gate", {"scorer": name, **dict(scores.assessment)})
            for name, scores in self.scores.items()
            if scores.assessment is not None
        ]


async def decide(
    run: Run, settings: ColumnSettings, source: CandidateSource[Any] | None = None
) -> dict[str, Any]:
    """Have a guard decide a run by these policies.

    Args:
        run: The run.
        settings: The policies.
        source: Makes missing answers; None: nothing is sampled.

    Returns:
        The outcome for the page; `needs` are answers that the policies ask for and that were not
        sampled: then there is no outcome yet.
    """
    if run.make is None:  # there are no more answers than were given
        settings = settings.model_copy(update={"n": min(settings.n, len(run.answers.made))})
    scores = run.scores.get(settings.scorer)
    if scores is None:
        raise ConfigurationError("there is no second scorer: start with --compare-scorer")
    if settings.gating is not None and not scores.assesses:
        raise ConfigurationError("this scorer assesses no prompts: set the gate to `shows only`")
    told: list[Decision[Any]] = []
    decision, error = None, None
    try:
        guard = Guard(
            scorer=scores,
            sampling=settings.sampling,
            decision=settings.decision,
            gating=settings.gating,
            gate=None if settings.gating is None else scores,
            on_decision=told.append,
        )
        answers = run.answers if source is None else source
        decision = await guard.adecide(run.conversation, answers, delivery=run.form)
    except Exception as raised:
        decision, error = (told[0] if told else None), raised
        logger.warning("held: %s", one_line(raised), exc_info=_unknown(raised))
    asked = decision.sampled if decision else 0
    missing = [i for i in range(asked) if i not in run.answers.made]
    if missing and source is None:
        return {"needs": missing}
    return {**shown(decision, error, settings), "again": source is None}


async def live(run: Run, columns: Sequence[ColumnSettings]) -> AsyncIterator[Event]:
    """Run a prompt: sample what is missing, score, decide; as events in the order they happen.

    The page that stops listening stops the run; what was sampled so far is kept.
    """
    events: asyncio.Queue[Event | None] = asyncio.Queue()
    work = asyncio.create_task(_work(run, columns, events.put_nowait))
    work.add_done_callback(lambda _: events.put_nowait(None))
    try:
        while (event := await events.get()) is not None:
            yield event
        work.result()
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await work


async def _work(run: Run, columns: Sequence[ColumnSettings], tell: Callable[[Event], None]) -> None:
    names = list(dict.fromkeys(settings.scorer for settings in columns))
    tell(("run", {"run": run.id, "most": max(settings.n for settings in columns)}))
    for name in names:
        if (reading := await read_prompt(run, name)) is not None:
            tell(("gate", reading))
    async with asyncio.TaskGroup() as scoring:

        def told(index: int) -> None:
            tell(run.candidate_event(index))
            for name in names:
                scoring.create_task(_score_one(run, name, index, tell))

        for index in sorted(run.answers.made):
            told(index)

        outcomes = []
        for place, settings in enumerate(columns):
            source = LiveAnswers(run.answers, run.make, told) if run.make else run.answers
            outcomes.append(await decide(run, settings, source))
            tell(("decided", {"column": place, **outcomes[-1]}))
    run.columns, run.outcomes = list(columns), outcomes
    await _rank_each_length(run, names)
    tell(("done", {"run": run.id}))


async def read_prompt(run: Run, name: str) -> dict[str, Any] | None:
    """Ask the gate, once; its reading is shown whether it decides or not.

    Returns:
        The reading for the page; None: the scorer is no gate.
    """
    scores = run.scores.get(name)
    if scores is None or not scores.assesses:
        return None
    try:
        return {"scorer": name, **dict(await scores.aassess(run.conversation))}
    except Exception as error:  # noqa: BLE001 (where the gate decides, the guard meets it again)
        return {"scorer": name, "error": one_line(error)}


async def _score_one(run: Run, name: str, index: int, tell: Callable[[Event], None]) -> None:
    """Score an answer by itself as soon as it is there; `p_safe` is the same in any list."""
    if isinstance(run.candidate(index), Exception) or name not in run.scores:
        return
    output = run.answers.made[index]
    with suppress(Exception):  # the decision meets it again, and says so
        found = await Guard(scorer=run.scores[name]).acheck(
            run.conversation, output, delivery=run.form
        )
        scored = {**scores_of(found.candidates[0]), "index": index, "score": None}
        tell(("scored", {"scorer": name, **scored}))


async def _rank_each_length(run: Run, names: Sequence[str]) -> None:
    """Rank the first answers, the first two and so on, so that no n is waited for later."""
    for name in names:
        for n in range(1, len(run.answers.made) + 1):
            found = await decide(run, ColumnSettings.model_validate({"n": n, "scorer": name}))
            if found.get("held"):
                break


class RunStore:
    """The latest runs; those with labels stay.

    Args:
        most: Runs without labels that are kept.
    """

    def __init__(self, *, most: int = 100) -> None:
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._most = most

    def add(self, run: Run) -> None:
        """Keep a run, and drop the oldest one without labels where there are too many."""
        self._runs[run.id] = run
        plain = [key for key, kept in self._runs.items() if not kept.labels]
        for key in plain[: max(0, len(plain) - self._most)]:
            del self._runs[key]

    def get(self, name: str) -> Run:
        """The run of this name.

        Raises:
            InvalidInputError: There is none.
        """
        if name not in self._runs:
            raise InvalidInputError("this run is not kept any more: run the prompt again")
        return self._runs[name]

    def newest_first(self) -> list[Run]:
        """All runs."""
        return list(reversed(self._runs.values()))


def new_id() -> str:
    """A name for a run."""
    return secrets.token_urlsafe(9)


def _unknown(error: Exception) -> Exception | None:
    """The error, where its text is not shown."""
    return error if one_line(error).endswith("the terminal has more") else None
