"""The bench: the model and the scorers of the page, and the runs made on them."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import convert_to_messages
from langchain_core.runnables import RunnableConfig

from srr_guard.characters import is_blank
from srr_guard.conversation import Conversation
from srr_guard.errors import ConfigurationError, InvalidInputError
from srr_guard.playground.kept import KeptAnswers, KeptScores
from srr_guard.playground.requests import MOST, RECIPES, RunRequest
from srr_guard.playground.runs import Run, RunStore, new_id
from srr_guard.policy import SamplingPolicy
from srr_guard.protocols import ResponseScorer
from srr_guard.recipes import Plain, Recipe
from srr_guard.sources.models import ModelSource
from srr_guard.training.data.rows import dialogue

_CONFIG: RunnableConfig = {}


class Bench:
    """What the page works on.

    Args:
        model: Answers; None: only given answers are scored.
        scorer: Ranks.
        second: Another one to compare it with; None: there is none.
        labels: Names of the two on the page.

    Attributes:
        store: The runs.
    """

    def __init__(
        self,
        *,
        model: BaseChatModel | None,
        scorer: ResponseScorer,
        second: ResponseScorer | None = None,
        labels: tuple[str, str] = ("first", "second"),
    ) -> None:
        self._labels: dict[str, str] = dict(zip(("first", "second"), labels, strict=True))
        self._model = model
        self._scorers = {"first": scorer} | ({"second": second} if second is not None else {})
        self.store = RunStore()

    @property
    def answers(self) -> bool:
        """True if there is a model."""
        return self._model is not None

    @property
    def scorers(self) -> dict[str, ResponseScorer]:
        """The scorers, by name."""
        return dict(self._scorers)

    def labelled_scorers(self) -> list[dict[str, str]]:
        """The scorers, with their names on the page."""
        return [{"name": name, "label": self._labels[name]} for name in self._scorers]

    def recipes(self) -> list[dict[str, Any]]:
        """The recipes, and why one cannot be served."""
        return [
            {
                "name": choice.name,
                "label": choice.label,
                "help": choice.help,
                "unserved": self._unserved(choice.recipe),
            }
            for choice in RECIPES
        ]

    def _unserved(self, recipe: Recipe) -> str | None:
        if self._model is None:
            return "there is no model"
        try:
            ModelSource(self._model, SamplingPolicy(n=2, plan=(Plain(), recipe)))
        except ConfigurationError as error:
            return str(error)
        return None

    def begin(self, request: RunRequest) -> Run:
        """A run of a prompt, new or gone on with.

        Raises:
            InvalidInputError: The prompt or the answers cannot be read, or there is no such run.
            ConfigurationError: The model cannot serve a recipe, or there is no model.
        """
        if request.run is not None:
            return self.store.get(request.run)
        if is_blank(request.prompt):
            raise InvalidInputError("the prompt is empty: write one, or pick an example")
        conversation = dialogue(request.prompt)
        run = Run(
            id=new_id(),
            request=request,
            conversation=conversation,
            answers=KeptAnswers(answers=request.answers or ()),
            scores={name: KeptScores(s, conversation) for name, s in self._scorers.items()},
        )
        if request.answers is None:
            self._with_model(run, request, conversation)
        self.store.add(run)
        return run

    def _with_model(self, run: Run, request: RunRequest, conversation: Conversation) -> None:
        if self._model is None:
            raise ConfigurationError("there is no model here: paste answers to score")
        sampling = SamplingPolicy(n=MOST, plan=request.plan, seed=request.seed)
        source = ModelSource(self._model, sampling)
        asked = convert_to_messages([(turn.role, turn.text) for turn in conversation.turns])
        made = source.of(
            asked,
            config=_CONFIG,
            run_manager=None,
            options={},
            watch=_no_read_ahead,
            early_cut=_no_floor,
        )

        async def make(index: int) -> Any:
            (output,) = await made.asample([index])
            return output

        run.make = make
        run.answers = KeptAnswers(kinds=made.recipe)


def _no_floor() -> None:
    """Nothing is cut off: all answers are to be seen."""


def _no_read_ahead(**_: Any) -> Any:
    raise AssertionError("nothing is streamed here")
