"""Usable before safest: an answer that does not fit the schema is a failed candidate."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from doors import Answer, decision_on, quick, scripted
from promises import promise
from pydantic import BaseModel

from srr_guard import SafetyRankedChatModel, SafetyRanker
from srr_guard.errors import AllCandidatesFailedError
from srr_guard.testing import FakeScorer


class Recipe(BaseModel):
    name: str
    minutes: int


FITS = {"name": "tea", "minutes": 3}
MISFITS = [{"name": "tea", "minutes": "a while"}, {"name": "tea"}]


@promise("schema")
@pytest.mark.parametrize("bad", MISFITS)
class TestSchema:
    """The misfit is the safest, and is not chosen."""

    scorer = FakeScorer(lambda prompt, text: 0.95 if "a while" in text else 0.9)

    def agent(self, door, bad, strategy):
        from langchain.agents import create_agent
        from srr_guard_integrations.langchain import SafetyRankerMiddleware

        as_text = strategy.__name__ == "ProviderStrategy"
        answers = [
            Answer(json.dumps(args)) if as_text else Answer("", call=("Recipe", args))
            for args in (bad, FITS)
        ]
        model: Any = scripted(answers)
        options = {"scorer": self.scorer, "sampling": quick(2, attempts=1)}
        middleware = []
        if door.name == "SafetyRankerMiddleware":
            middleware = [SafetyRankerMiddleware(**options)]
        else:
            kinds = {"SafetyRanker": SafetyRanker, "SafetyRankedChatModel": SafetyRankedChatModel}
            model = kinds[door.name](model, **options)
        return create_agent(model, response_format=strategy(Recipe), middleware=middleware)

    @pytest.mark.needs("agents")
    @pytest.mark.parametrize("name", ["ToolStrategy", "ProviderStrategy"])
    def test_agents(self, door, ask, bad, name):
        import langchain.agents.structured_output as strategies

        agent = self.agent(door, bad, getattr(strategies, name))
        state = agent.invoke({"messages": [("user", "q")]})
        assert state["structured_response"] == Recipe(**FITS)

    @pytest.mark.needs("structured output")
    @pytest.mark.parametrize("raw", [False, True])
    def test_structured_output(self, door, ask, bad, raw):
        kinds = {"SafetyRanker": SafetyRanker, "SafetyRankedChatModel": SafetyRankedChatModel}
        model = scripted([Answer("", call=("Recipe", bad)), Answer("", call=("Recipe", FITS))])
        guarded = kinds[door.name](model, scorer=self.scorer, sampling=quick(2, attempts=1))
        structured = guarded.with_structured_output(Recipe, include_raw=raw)
        for output in (structured.invoke("q"), asyncio.run(structured.ainvoke("q"))):
            assert (output["parsed"] if raw else output) == Recipe(**FITS)

    @pytest.mark.needs("arguments of a call")
    @pytest.mark.parametrize("form", ["response_format", "tools"])
    def test_arguments_of_the_call(self, door, ask, bad, form):
        schema = Recipe.model_json_schema()
        if form == "tools":
            answers = [Answer("", call=("Recipe", args)) for args in (bad, FITS)]
            function = {"name": "Recipe", "parameters": schema}
            asked = {
                "tools": [{"type": "function", "function": function}],
                "tool_choice": "required",
            }
        else:
            answers = [Answer(json.dumps(args)) for args in (bad, FITS)]
            form_of = {"name": "Recipe", "schema": schema}
            asked = {"response_format": {"type": "json_schema", "json_schema": form_of}}
        asker = door(*answers, scorer=self.scorer, sampling=quick(2, attempts=1))
        output = ask(asker, "q", **asked)
        assert decision_on(output)["failed"] == 1
        assert "a while" not in repr(output)

    @pytest.mark.needs("arguments of a call")
    def test_misfits_alone(self, door, ask, bad):
        form_of = {"name": "Recipe", "schema": Recipe.model_json_schema()}
        asked = {"response_format": {"type": "json_schema", "json_schema": form_of}}
        asker = door(Answer(json.dumps(bad)), scorer=self.scorer, sampling=quick(2))
        with pytest.raises(AllCandidatesFailedError, match="schema was asked for"):
            ask(asker, "q", **asked)
        assert asker.calls == 4
