"""From recipes to calls: how the wrapped models serve each candidate's recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from langchain_core.language_models import BaseChatModel, BaseLanguageModel
from langchain_core.runnables import Runnable, RunnableBinding

from srr_guard.errors import ConfigurationError
from srr_guard.formats.schemas import schema_check
from srr_guard.policy import SamplingPolicy
from srr_guard.protocols import CutsCandidates, SupportsCandidateSampling, SupportsRecipes
from srr_guard.recipes import Plain, Recipe, RefusalStart, Stepwise
from srr_guard.runnables.tree import language_models, parts, takes_messages, unbind, with_models
from srr_guard.sources.refusal_start import not_for_apis, prefill_for, request_for
from srr_guard.sources.several import Models, describe

NO_FORCED_START = (
    "refusal_start: the request binds tools or asks for a schema, and a forced start would break "
    "the answer's form"
)
"""Why such a recipe is skipped in a request."""


_BARE = Plain()


@dataclass(frozen=True)
class CandidateCall:
    """How one candidate is made.

    Attributes:
        recipe: What it follows.
        model: What is called.
        batch: Its place in a batched call: with its recipe, as a plain answer; None: none.
        system_prompt: What the request is asked under.
        prefill: What the answer is begun with.
    """

    recipe: Recipe
    model: Runnable[Any, Any]
    batch: Literal["recipes", "plain"] | None = None
    system_prompt: str | None = None
    prefill: str | None = None


class CallMaker:
    """Turns recipes into calls of the wrapped models.

    Args:
        wrapped: What the user gave, for errors.
        policy: How candidates differ and how they are called.
        silent: Leave out the callbacks that the models carry.
    """

    def __init__(
        self, wrapped: Runnable[Any, Any], policy: SamplingPolicy, *, silent: bool
    ) -> None:
        self.models = wrapped.models if isinstance(wrapped, Models) else (wrapped,)
        self._wrapped = wrapped
        self._policy = policy
        self._silent = silent
        self._takes_messages = tuple(map(takes_messages, self.models))
        self._changed: dict[Any, Runnable[Any, Any]] = {}
        inner = unbind(self.models[0])[0]
        can_batch = isinstance(inner, BaseChatModel) and isinstance(
            inner, SupportsCandidateSampling
        )
        self._batching = (
            inner if can_batch and len(self.models) == 1 and policy.batched == "auto" else None
        )
        self._serving = self._batching if isinstance(self._batching, SupportsRecipes) else None
        self.cuts = isinstance(self._batching, CutsCandidates) and self._batching.cuts_candidates()
        """The model cuts answers off itself."""

    def calls(
        self, recipes: Sequence[Recipe], *, own_calls: bool, short: bool = False
    ) -> tuple[CandidateCall, ...]:
        """The calls of one request, by candidate.

        Args:
            recipes: One for each candidate.
            own_calls: Make each candidate in a call of its own.
            short: They come from `temperatures` or `system_prompts`, so that models which take
                no recipes make each in a call of its own.

        Raises:
            ConfigurationError: A model cannot serve its recipe.
        """
        self._require_reach(recipes)
        searched = next((r for r in recipes if isinstance(r, Stepwise)), None)
        if searched is not None and (own_calls or not self.cuts):
            self._refuse(
                searched,
                self.models[0],
                "it needs a LocalChatModel that is called in batches, without read_ahead and "
                "trace_candidates",
            )
        made = []
        for i, recipe in enumerate(recipes):
            call = self._call(i, recipe)
            batch = None if own_calls else self._batch(recipe, short=short)
            made.append(
                CandidateCall(call.recipe, call.model, batch, call.system_prompt, call.prefill)
            )
        return tuple(made)

    def _batch(self, recipe: Recipe, *, short: bool) -> Literal["recipes", "plain"] | None:
        if self._batching is None:
            return None
        if self._serving is None:
            return None if short or recipe != _BARE else "plain"
        if recipe == _BARE:
            return "plain"
        return "recipes" if self._serving.serves(recipe) is None else None

    def batch_model(self, index: int) -> Runnable[Any, Any]:
        """The model of a batched call whose first candidate this is."""
        return self._with_fields(0, {"cache": False, **self._seed(index)})

    def _call(self, index: int, recipe: Recipe) -> CandidateCall:
        place = index % len(self.models)
        model, fields = self.models[place], {"cache": False, **self._seed(index)}
        if isinstance(recipe, Plain):
            own = {"temperature": recipe.temperature, "seed": recipe.seed}
            fields |= {name: value for name, value in own.items() if value is not None}
            prompt = recipe.system_prompt if self._takes_messages[place] else None
            return CandidateCall(recipe, self._with_fields(place, fields), system_prompt=prompt)
        inside = list(language_models(model))
        if inside and all(isinstance(lm, SupportsRecipes) for lm in inside):
            for why in (lm.serves(recipe) for lm in inside if isinstance(lm, SupportsRecipes)):
                if why is not None:
                    self._refuse(recipe, model, why)
            return CandidateCall(recipe, self._with_fields(place, fields, recipe))
        if not isinstance(recipe, RefusalStart):
            self._refuse(recipe, model, "it needs the model itself, as LocalChatModel has it")
        if (why := not_for_apis(recipe)) is not None:
            self._refuse(recipe, model, why)
        if not self._takes_messages[place]:
            self._refuse(recipe, model, "it is no chat model; wrap the chat model inside")
        prefill = prefill_for(model, recipe)
        prompt = request_for(recipe) if prefill is None else None
        changed = self._with_fields(place, fields)
        return CandidateCall(recipe, changed, system_prompt=prompt, prefill=prefill)

    def _seed(self, index: int) -> dict[str, Any]:
        return {} if self._policy.seed is None else {"seed": self._policy.seed + index}

    def _with_fields(
        self, place: int, fields: Mapping[str, Any], recipe: Recipe | None = None
    ) -> Runnable[Any, Any]:
        """A copy whose language models have these fields, as far as they know them.

        Args:
            place: Which of the models.
            fields: Fields and their values.
            recipe: Is given to them with each call; None: none.
        """
        key = (place, tuple(sorted(fields.items())), recipe)
        if key not in self._changed:
            change = _changing(fields, recipe)
            self._changed[key] = with_models(self.models[place], change, silent=self._silent)
        return self._changed[key]

    def _refuse(self, recipe: Recipe, model: Runnable[Any, Any], why: str) -> NoReturn:
        raise ConfigurationError(
            f"{recipe!r} cannot be served by {describe(model)}: {why}; leave it out of the plan, "
            "or use another model"
        )

    def _require_reach(self, recipes: Sequence[Recipe]) -> None:
        """Refuse settings of plain recipes that reach no model at all.

        Raises:
            ConfigurationError: There is one.
        """
        policy = self._policy
        plain = [recipe for recipe in recipes if isinstance(recipe, Plain)]
        for option, field in (("temperatures", "temperature"), ("seed", "seed")):
            found = next((r for r in plain if getattr(r, field) is not None), None)
            value = getattr(policy, option)
            if found is None and (value is None or option != "seed"):
                continue
            if not any(_takes(m, field) for m in self.models):
                given = f"{option}={value!r}" if value is not None else f"{found!r}"
                raise ConfigurationError(
                    f"{given} reaches no model: {describe(self._wrapped)} has no field "
                    f"{field!r}; leave it out"
                )
        prompt = next((r for r in plain if r.system_prompt is not None), None)
        if prompt is not None and not any(self._takes_messages):
            short = policy.system_prompts
            given = f"{prompt!r}" if short is None else f"system_prompts={short!r}"
            raise ConfigurationError(
                f"{given} reach no model: {describe(self._wrapped)} is "
                "not a chat model; wrap the chat model inside, or leave them out"
            )


def _changing(
    fields: Mapping[str, Any], recipe: Recipe | None
) -> Callable[[BaseLanguageModel[Any]], Any]:
    def change(model: BaseLanguageModel[Any]) -> Any:
        known = {k: v for k, v in fields.items() if k in type(model).model_fields}
        changed = model.model_copy(update=known)
        return changed if recipe is None else changed.bind(recipes=(recipe,))

    return change


def _takes(runnable: Runnable[Any, Any], field: str) -> bool:
    return any(field in type(model).model_fields for model in language_models(runnable))


def without_forced_starts(recipes: Sequence[Recipe]) -> tuple[Recipe, ...]:
    """Plain recipes in place of those that force an answer's first words."""
    return tuple(Plain() if isinstance(recipe, RefusalStart) else recipe for recipe in recipes)


def asks_for_form(options: Mapping[str, Any]) -> bool:
    """True for a call that binds tools or asks for a schema."""
    tools = options.get("tools") or options.get("functions")
    may_call = bool(tools) and options.get("tool_choice") != "none"
    return may_call or schema_check(options) is not None


def binds_form(runnable: Runnable[Any, Any]) -> bool:
    """True if something bound inside binds tools or asks for a schema."""
    bound = (part.kwargs for part in parts(runnable) if isinstance(part, RunnableBinding))
    return any(map(asks_for_form, bound))


def require_all_given(runnable: Runnable[Any, Any]) -> None:
    """Refuse what is bound inside, or kept by a model, for turns that only the provider knows.

    Raises:
        ConfigurationError: There is such a thing (see `require_turns`).
    """
    for part in parts(runnable):
        if isinstance(part, RunnableBinding):
            require_turns(part.kwargs)
            if isinstance(unbind(part)[0], BaseLanguageModel):
                require_one_answer(part.kwargs)
        elif isinstance(part, BaseLanguageModel):
            require_one_answer({"n": getattr(part, "n", None)})
            require_turns({"extra_body": getattr(part, "model_kwargs", None)})
            require_turns({"extra_body": getattr(part, "extra_body", None)})


def require_one_answer(options: Mapping[str, Any]) -> None:
    """Refuse a model call for several answers, of which LangChain drops all but one unscored.

    Raises:
        ConfigurationError: It is such a call.
    """
    n = options.get("n")
    if isinstance(n, int) and n > 1:
        raise ConfigurationError(
            f"n={n} asks the provider for several answers, of which LangChain keeps one: leave it "
            "out, and set the candidates with `n=` of the guard"
        )


def require_turns(options: Mapping[str, Any]) -> None:
    """Refuse arguments of a model call that stand for turns which only the provider knows.

    Raises:
        ConfigurationError: There is one: the scorer would not see them, and a conversation that
            the provider keeps would get the answers of all candidates.
    """
    body = options.get("extra_body")
    more = body if isinstance(body, Mapping) else {}
    for name in ("previous_response_id", "conversation"):
        if value := options.get(name) or more.get(name):
            raise ConfigurationError(
                f"{name}={value!r} stands for turns that only the provider knows, and the scorer "
                "must see what the model sees: give the whole conversation as messages"
            )
