"""The requests of one batch while their rows grow, and the prompts that the rows begin with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from srr_guard.local.decoding.rows import Row
from srr_guard.local.decoding.tracks import Prompt
from srr_guard.local.requests import Answer, Answers, Call
from srr_guard.reference.cache.states import ModelKey, StateRecorder
from srr_guard.reference.host import host
from srr_guard.reference.template import PromptIds

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class NewPrompt:
    """A prompt, and the vectors that stand in place of its tokens from `at` on."""

    prompt: PromptIds
    vectors: Tensor | None = None
    at: int = 0


class BatchPrompts:
    """The prompts of a batch, equal ones once.

    Args:
        key: The model.

    Attributes:
        found: The prompts so far.
    """

    def __init__(self, key: ModelKey) -> None:
        self.found: list[Prompt] = []
        self._key = key
        self._known: dict[tuple[tuple[int, ...], int | None], int] = {}

    def add(self, new: NewPrompt, *, recorded: bool) -> int:
        """Index of a prompt; the recorder comes with the first row that is recorded."""
        ids = new.prompt.ids
        key = tuple(ids), None if new.vectors is None else id(new.vectors)
        if key not in self._known:
            self._known[key] = len(self.found)
            self.found.append(Prompt(ids, new.vectors, new.at))
        index = self._known[key]
        if recorded and self.found[index].recorder is None:
            recorder = StateRecorder(host.states, self._key, new.prompt)
            if recorder.records:
                self.found[index] = replace(self.found[index], recorder=recorder)
        return index


@dataclass(eq=False)
class UnderWay:
    """A request while its rows grow.

    Attributes:
        call: What to sample, and who hears of it.
        name: Name of the model.
        prompt_tokens: Tokens of its prompt.
        rows: Its rows in their order, and how the answer of each is made.
        searches: Rows that are searched for, and the search.
        answers: Of the rows that are done.
        settled: Answers or an error were handed over.
    """

    call: Call
    name: str
    prompt_tokens: int = 0
    rows: dict[Row, Callable[[Row], Answer]] = field(default_factory=dict)
    searches: dict[Row, Callable[[], None]] = field(default_factory=dict)
    answers: dict[Row, Answer] = field(default_factory=dict)
    settled: bool = False

    def add(self, row: Row, answer: Callable[[Row], Answer]) -> None:
        """Add a row, and how its answer is made."""
        self.rows[row] = answer

    def search(self, row: Row, answer: Callable[[Row], Answer], work: Callable[[], None]) -> None:
        """Add a row that is searched for."""
        self.add(row, answer)
        self.searches[row] = work

    def finish(self, row: Row) -> None:
        """Take note of a row that is done."""
        self.answers[row] = self.rows[row](row)
        if len(self.answers) == len(self.rows):
            self.close()

    def close(self) -> None:
        """Hand over what there is; the error, where an answer cannot be made."""
        if self.settled:
            return
        try:
            answers = [self.answers.get(row) or make(row) for row, make in self.rows.items()]
        except Exception as error:  # noqa: BLE001 (else the caller would wait for ever)
            self.fail(error)
            return
        self.settled = True
        self.call.on_answers(Answers(self.name, self.prompt_tokens, tuple(answers)))

    def fail(self, error: BaseException) -> None:
        """Hand over an error."""
        if not self.settled:
            self.settled = True
            self.call.on_error(error)
