"""What each recipe asks of the decode loop: prompts, processor, steering, seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from srr_guard.conversation import Conversation
from srr_guard.errors import ConfigurationError
from srr_guard.local.decoding.rows import RowProcessor
from srr_guard.local.decoding.tracks import Steering
from srr_guard.local.recipes.refusal_start import StartsAsRefusal, TriggerTable
from srr_guard.local.recipes.reverse_prompt import SubtractsReverse, branches, with_system
from srr_guard.local.recipes.soft_prompt import SoftPromptVectors
from srr_guard.local.recipes.steering import RefusalVectors
from srr_guard.local.recipes.tables import Fits, shipped
from srr_guard.recipes import (
    Plain,
    Recipe,
    RefusalStart,
    ReversePrompt,
    SoftPrompt,
    Steered,
    Stepwise,
)

if TYPE_CHECKING:
    from torch import Tensor

    from srr_guard.reference.template import PromptTemplate


@dataclass(frozen=True, eq=False, kw_only=True)
class RowPlan:
    """How one row is made.

    Attributes:
        conversations: One for each of its tracks.
        temperature: Of its draw.
        seed: Of its draw.
        vectors: A soft prompt, in place of the text that the conversations' system turn begins
            with.
        processor: Makes the row of its tracks; None: one track, as it is.
        steering: Vectors for its tracks.
        strength: Factor of the vectors.
        recorded: What it reads is what a scorer would read of it.
        search: It is searched for, step by step.
    """

    conversations: tuple[Conversation, ...]
    temperature: float
    seed: int | str
    vectors: tuple[SoftPromptVectors, Path] | None = None
    processor: RowProcessor | None = None
    steering: Steering | None = None
    strength: float = 0.0
    recorded: bool = False
    search: Stepwise | None = None


class RowPlanner:
    """Plans rows for one model; keeps the files that it read.

    Args:
        name: What errors call the model.
        reference: Gives the digest of its files.
        template: Its template.
        width: Width of its states.
    """

    def __init__(
        self,
        *,
        name: str,
        reference: Callable[[], str],
        template: PromptTemplate,
        width: int,
    ) -> None:
        self._name = name
        self._reference = reference
        self._template = template
        self._width = width
        self._tables: dict[Path, TriggerTable] = {}
        self._steerings: dict[Path, Steering] = {}
        self._soft: dict[Path, SoftPromptVectors] = {}

    def plan(
        self,
        recipe: Recipe | None,
        conversation: Conversation,
        *,
        temperature: float,
        seed: int | str,
    ) -> RowPlan:
        """Plan a row.

        Args:
            recipe: How it is made; None: as the model gives it.
            conversation: What the model was asked.
            temperature: The request's own.
            seed: The row's own.

        Raises:
            ConfigurationError: The recipe's file is missing, damaged or of another model.
        """
        made = (conversation,)
        if recipe is None:
            return RowPlan(conversations=made, temperature=temperature, seed=seed, recorded=True)
        if isinstance(recipe, Plain):
            return RowPlan(
                conversations=(_under(conversation, recipe.system_prompt),),
                temperature=temperature if recipe.temperature is None else recipe.temperature,
                seed=seed if recipe.seed is None else recipe.seed,
                recorded=recipe.system_prompt is None,
            )
        if isinstance(recipe, RefusalStart):
            table = self._table(recipe)
            start = StartsAsRefusal(recipe, table, seed, greedy=temperature == 0.0)
            return RowPlan(
                conversations=made,
                temperature=temperature,
                seed=seed,
                processor=start,
                recorded=True,
            )
        if isinstance(recipe, ReversePrompt):
            return RowPlan(
                conversations=branches(recipe, conversation),
                temperature=temperature,
                seed=seed,
                processor=SubtractsReverse(recipe),
            )
        if isinstance(recipe, Steered):
            return RowPlan(
                conversations=made,
                temperature=temperature,
                seed=seed,
                steering=self._steering(recipe),
                strength=recipe.strength,
            )
        if isinstance(recipe, Stepwise):
            return RowPlan(
                conversations=made,
                temperature=temperature,
                seed=seed,
                recorded=True,
                search=recipe,
            )
        path = Path(recipe.file)
        soft = self._soft_prompt(path)
        return RowPlan(
            conversations=(with_system(conversation, soft.text),),
            temperature=temperature,
            seed=seed,
            vectors=(soft, path),
        )

    @property
    def _fits(self) -> Fits:
        return Fits(self._reference(), self._template.digest)

    def _table(self, recipe: RefusalStart) -> TriggerTable:
        path = file_of(recipe, self._reference(), self._name)
        if path not in self._tables:
            table = TriggerTable.read(path)
            self._fits.check(table.fits, path, "write one with `srr-guard triggers`")
            self._tables[path] = table
        return self._tables[path]

    def _steering(self, recipe: Steered) -> Steering:
        path = file_of(recipe, self._reference(), self._name)
        if path not in self._steerings:
            vectors = RefusalVectors.read(path)
            self._fits.check(vectors.fits, path, "write them with `srr-guard vectors`")
            self._check_width(vectors.vectors, path)
            self._steerings[path] = vectors.steering()
        return self._steerings[path]

    def _soft_prompt(self, path: Path) -> SoftPromptVectors:
        if path not in self._soft:
            soft = SoftPromptVectors.read(path)
            self._fits.check(soft.fits, path, "train one with `srr-guard soft-prompt train`")
            self._check_width(soft.vectors, path)
            self._soft[path] = soft
        return self._soft[path]

    def _check_width(self, vectors: Tensor, path: Path) -> None:
        if vectors.ndim != 2 or vectors.shape[1] != self._width:
            raise ConfigurationError(
                f"{str(path)!r} holds a tensor of shape {tuple(vectors.shape)}, and {self._name!r} "
                f"takes vectors of width {self._width}: write or train them again"
            )


def file_of(recipe: RefusalStart | Steered, reference: str, name: str) -> Path:
    """The file that a recipe reads: its own, or the one shipped for the model.

    Args:
        recipe: The recipe.
        reference: Digest of the model's files.
        name: What errors call the model.

    Raises:
        ConfigurationError: There is none.
    """
    if isinstance(recipe, RefusalStart):
        given, kind, ending = recipe.triggers, "triggers", "json"
        what, option, command = "trigger table", "triggers", "srr-guard triggers"
    else:
        given, kind, ending = recipe.vectors, "vectors", "safetensors"
        what, option, command = "refusal vectors", "vectors", "srr-guard vectors"
    path = Path(given) if given is not None else shipped(kind, reference, ending)
    title = type(recipe).__name__
    if path is None:
        raise ConfigurationError(
            f"{title}: no {what} for {name!r}; write one with `{command}` and give it as "
            f"`{option}=`"
        )
    if not path.is_file():
        raise ConfigurationError(f"{title}: there is no file {str(path)!r}")
    return path


def unserved(recipe: Recipe, reference: Callable[[], str], name: str) -> str | None:
    """Say why a recipe cannot be served, in one sentence; None if it can, as far as files tell.

    Args:
        recipe: The recipe.
        reference: Gives the digest of the model's files.
        name: What the sentence calls the model.
    """
    try:
        if isinstance(recipe, (RefusalStart, Steered)):
            given = recipe.triggers if isinstance(recipe, RefusalStart) else recipe.vectors
            file_of(recipe, "" if given else reference(), name)
        elif isinstance(recipe, SoftPrompt) and not Path(recipe.file).is_file():
            return (
                f"SoftPrompt: there is no file {recipe.file!r}: train one with "
                "`srr-guard soft-prompt train`"
            )
    except ConfigurationError as error:
        return str(error)
    return None


def _under(conversation: Conversation, system_prompt: str | None) -> Conversation:
    """The conversation with one more system prompt, its last paragraph where it has one."""
    if system_prompt is None:
        return conversation
    turns = list(conversation.turns)
    if turns and turns[0].role == "system":
        first = turns[0].model_copy(update={"text": f"{turns[0].text}\n\n{system_prompt}"})
        return conversation.model_copy(update={"turns": (first, *turns[1:])})
    return with_system(conversation, system_prompt)
