"""A chat model that serves recipes itself, as a local one does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from srr_guard.recipes import Recipe
from srr_guard.testing import ScriptedChatModel


class RecipeModel(BaseChatModel):
    """Says by which recipe it answers; keeps what it was called with.

    Attributes:
        cannot: Kinds of recipes that it refuses.
        temperature: Its own.
        seed: Its own.
    """

    cannot: tuple[str, ...] = ()
    temperature: float = 0.7
    seed: int | None = None
    _seen: list[Any] = PrivateAttr(default_factory=list)

    @property
    def seen(self) -> list[Any]:
        """One entry per call: kinds of its recipes, or None, and whether it was batched."""
        return self._seen

    @property
    def _llm_type(self) -> str:
        return "recipes"

    def serves(self, recipe: Recipe) -> str | None:
        return f"it has no way to {recipe.kind}" if recipe.kind in self.cannot else None

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return ScriptedChatModel.bind_tools(self, tools, **kwargs)  # type: ignore[arg-type]

    def sample_candidates(self, messages, n, *, recipes=None, stop=None, **kwargs):
        self._seen.append(("batch", None if recipes is None else [r.kind for r in recipes]))
        kinds = [None] * n if recipes is None else recipes
        return [self._answer(messages, i, recipe) for i, recipe in enumerate(kinds)]

    def _generate(self, messages, stop=None, run_manager=None, recipes=None, **kwargs):
        self._seen.append(("single", None if recipes is None else [r.kind for r in recipes]))
        message = self._answer(messages, 0, recipes[0] if recipes else None)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _answer(self, messages, i, recipe) -> AIMessage:
        how = "bare" if recipe is None else recipe.model_dump_json(exclude_defaults=True)
        kind = recipe.kind if recipe else "plain"
        return AIMessage(f"{kind} {how} T={self.temperature} seed={self.seed} row {i}")
