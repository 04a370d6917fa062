"""What the page asks for, and the policies and recipes that this means."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from srr_guard.policy import DecisionPolicy, GatePolicy, SamplingPolicy
from srr_guard.recipes import Plain, Recipe, RefusalStart, ReversePrompt, Steered

MOST = 12
"""Most candidates of one prompt."""

Text = Annotated[str, Field(strict=True, max_length=20_000)]


class RecipeChoice(NamedTuple):
    """A recipe that the page offers.

    Attributes:
        name: Its name in requests.
        label: Its name on the page.
        help: What the candidate is, in one line.
        recipe: Its settings.
    """

    name: str
    label: str
    help: str
    recipe: Recipe


RECIPES = (
    RecipeChoice("hotter", "Hotter", "sampled at temperature 1.2", Plain(temperature=1.2)),
    RecipeChoice(
        "careful",
        "Careful system prompt",
        "asked to decline what would do harm",
        Plain(system_prompt="Help where you can. Decline what would do harm, and say why."),
    ),
    RecipeChoice("refusal_start", "Refusal start", "begins as refusals begin", RefusalStart()),
    RecipeChoice(
        "reverse_prompt", "Reverse prompt", "a prompt for harm is subtracted", ReversePrompt()
    ),
    RecipeChoice("steered", "Steered", "moved along the refusal vectors", Steered()),
)
"""The first candidate is always plain; the recipes that are on follow in turn."""

RecipeName = Literal["hotter", "careful", "refusal_start", "reverse_prompt", "steered"]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ColumnSettings(_Body):
    """The policy of one column.

    Attributes:
        n: Candidates, at most.
        threshold: Lowest `p_safe` that passes.
        prefer: Which of the candidates that reach it passes.
        accept_at: `p_safe` at which the first candidate ends the request; None: all are sampled.
        gate: The prompt gate shows its reading only, decides, or may also refuse at once.
        scorer: Which of the two scorers.
    """

    n: int = Field(default=4, ge=1, le=MOST)
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    prefer: Literal["best", "safest", "first"] = "best"
    accept_at: float | None = Field(default=None, ge=0.0, le=1.0)
    gate: Literal["shown", "decides", "refuses"] = "shown"
    scorer: Literal["first", "second"] = "first"

    @property
    def sampling(self) -> SamplingPolicy:
        """How the request is sampled. One attempt, no time limits: the page can be stopped."""
        return SamplingPolicy(
            n=self.n, accept_at=self.accept_at, attempts=1, timeout=None, deadline=None
        )

    @property
    def decision(self) -> DecisionPolicy:
        """What may be passed on."""
        return DecisionPolicy(threshold=self.threshold, prefer=self.prefer)

    @property
    def gating(self) -> GatePolicy | None:
        """What is decided from the prompt alone."""
        if self.gate == "shown":
            return None
        return GatePolicy(threshold=0.8, refuse_above=0.95 if self.gate == "refuses" else None)


Columns = Annotated[list[ColumnSettings], Field(min_length=1, max_length=2)]


class RunRequest(_Body):
    """A prompt to run, or an earlier run to sample more of.

    Attributes:
        prompt: What is asked; may be a dialogue in `Human:` / `Assistant:` turns.
        answers: Answers to score in place of those of the model.
        recipes: Recipes that are on.
        seed: Candidate i is sampled with seed + i; None: new answers each time.
        columns: One policy, or two to compare.
        run: The run to go on with; then prompt, answers, recipes and seed are its own.
    """

    prompt: Text = ""
    answers: Annotated[list[Text], Field(min_length=1, max_length=MOST)] | None = None
    recipes: list[RecipeName] = Field(default_factory=list)
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    columns: Columns
    run: str | None = None

    @property
    def plan(self) -> tuple[Recipe, ...] | None:
        """The recipes, a plain one first; None: all are plain."""
        chosen = tuple(choice.recipe for choice in RECIPES if choice.name in self.recipes)
        return (Plain(), *chosen) if chosen else None


class DecideRequest(_Body):
    """Policies to decide a stored run by."""

    run: str
    columns: Columns


class ExplainRequest(_Body):
    """A candidate whose score is to be taken apart."""

    run: str
    candidate: int = Field(ge=0, lt=MOST)
    scorer: Literal["first", "second"] = "first"


Label = Literal["helps", "declines", "unsafe"]
"""A person's word on a candidate."""


class LabelRequest(_Body):
    """A label for a candidate; None takes it back."""

    run: str
    candidate: int = Field(ge=0, lt=MOST)
    label: Label | None


class SessionRequest(_Body):
    """The token of the printed link."""

    token: str = Field(max_length=200)
